"""Errors that a user reads: one message, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Sequence


class DeepAtlasError(Exception):
    """Something the user can mend; the message names the file, what was expected and the remedy."""


class Fault(str):
    """A sentence about one fault, and the kind of fault, by which `deepatlas check` names it.

    Parameters
    ----------
    text : the sentence, "FILE: what is wrong; what was expected: the remedy".
    kind : one of `data.findings.KINDS`.
    """

    kind: str

    def __new__(cls, text: str, kind: str) -> Fault:
        fault = super().__new__(cls, text)
        fault.kind = kind
        return fault


class BadInput(DeepAtlasError):
    """One or more faults in what the user gave; all of them are listed together.

    Parameters
    ----------
    faults : one sentence each, every one naming its file and the remedy.
    kind : of a single fault in a file of a cohort, one of `data.findings.KINDS`.
    """

    def __init__(self, faults: str | Sequence[str], *, kind: str | None = None) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        if kind is not None:
            self.faults = [Fault(fault, kind) for fault in self.faults]
        if len(self.faults) == 1:
            text = self.faults[0]
        else:
            text = f"{len(self.faults)} faults:\n" + "\n".join(f"  - {f}" for f in self.faults)
        super().__init__(text)
