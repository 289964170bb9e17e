"""What `deepatlas check` can find: one row for each kind, and findings of these kinds."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepatlas.errors import Fault

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# Errors keep `train` from its first step; warnings are worth a look; notes need nothing.
KINDS: dict[str, Severity] = {
    "unreadable": "error",  # no such file, no right to read it, another format, damaged
    "truncated": "error",
    "uneven-slices": "error",  # of a DICOM series: slices missing, or unevenly spaced
    "several-volumes": "error",
    "several-channels": "error",
    "not-grey": "error",
    "no-place": "error",  # a header that does not say where the voxels lie
    "nan-or-inf": "error",
    "constant-image": "error",
    "single-slice": "error",  # among volumes
    "volume-among-slices": "error",
    "label-without-image": "error",
    "second-file": "error",
    "not-a-scan": "error",
    "layout": "error",  # of the cohort's folder or tables, in another way
    "fractional-labels": "error",
    "empty-labels": "error",
    "negative-labels": "error",
    "other-shape": "error",  # labels and image have different numbers of voxels
    "header-shift": "error",  # labels and image lie apart
    "split": "error",
    "subject-in-two-parts": "error",
    "mask-0-255": "warning",
    "unknown-label": "warning",
    "missing-structure": "warning",
    "unlisted-structure": "warning",  # in a label map, and not among what was annotated there
    "duplicate-scan": "warning",
    "duplicate-labels": "warning",
    "forms-differ": "warning",
    "intensity-outlier": "warning",
    "flip-suspected": "warning",
    "float-labels": "note",
    "header-noise": "note",
    "rare-structure": "note",
    "mixed-orientations": "note",
    "mixed-spacings": "note",
    "oblique": "note",
    "choice": "note",  # what was left out in reading the cohort
}


@dataclass(frozen=True)
class Finding:
    """One thing found in a cohort.

    Parameters
    ----------
    kind : one of `KINDS`.
    text : what was found, what was expected and what to do, without the file.
    files : those concerned; the first is the one to look at.
    scan : the id of the scan, empty where it is not about one.
    """

    kind: str
    text: str
    files: tuple[Path, ...]
    scan: str = ""

    @property
    def severity(self) -> Severity:
        """error, warning or note."""
        return KINDS[self.kind]

    def __str__(self) -> str:
        """The whole sentence, beginning with the file."""
        return f"{self.files[0]}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        """For `deepatlas check --json`."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "scan": self.scan,
            "files": [str(path) for path in self.files],
            "text": self.text,
        }


def from_faults(
    faults: Iterable[str], kind: str, path: Path | None = None, scan: str = ""
) -> list[Finding]:
    """Findings of the faults that a reader or a layout has told.

    Parameters
    ----------
    kind : of faults that do not name theirs.
    path : the file they are about; without it, it is taken from their beginning.
    """
    found = []
    for fault in faults:
        named = fault.kind if isinstance(fault, Fault) and fault.kind in KINDS else kind
        file = path or _file_of(fault)
        text = fault.removeprefix(f"{file}: ").removeprefix(f"{file}, ")
        found.append(Finding(named, text, (file,), scan))
    return found


def _file_of(fault: str) -> Path:
    """The file that a sentence begins with, `FILE: ` or `FILE, line 3: `; colons may be in it."""
    words = fault.split(": ")
    beginnings = [": ".join(words[:n]) for n in range(1, len(words))]
    beginnings += [beginning.rpartition(", ")[0] for beginning in beginnings]
    return Path(next((path for path in beginnings if os.path.exists(path)), words[0]))
