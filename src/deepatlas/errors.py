"""Errors that a user reads: one message, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Sequence


class DeepAtlasError(Exception):
    """Something the user can mend; the message names the file, what was expected and the remedy."""


class BadInput(DeepAtlasError):
    """One or more faults in what the user gave; all of them are listed together.

    Parameters
    ----------
    faults : one sentence each, every one naming its file and the remedy.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        if len(self.faults) == 1:
            text = self.faults[0]
        else:
            text = f"{len(self.faults)} faults:\n" + "\n".join(f"  - {f}" for f in self.faults)
        super().__init__(text)
