"""Dataset layouts: one file each, one row each; a folder or a table in, a `Cohort` out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepatlas.errors import BadInput
from deepatlas.io.annotations import with_annotations
from deepatlas.io.layouts import bids, decathlon, learn2reg, plain, table
from deepatlas.io.subject import Cohort


@dataclass(frozen=True)
class Layout:
    """How to recognise a layout, how to read it and what it looks like, in words."""

    matches: Callable[[Path], bool]
    read: Callable[[Path], Cohort]
    looks_like: str


LAYOUTS = {
    "table": Layout(table.matches, table.read, table.LOOKS_LIKE),
    "learn2reg": Layout(learn2reg.matches, learn2reg.read, learn2reg.LOOKS_LIKE),
    "decathlon": Layout(decathlon.matches, decathlon.read, decathlon.LOOKS_LIKE),
    "plain": Layout(plain.matches, plain.read, plain.LOOKS_LIKE),
    "bids": Layout(bids.matches, bids.read, bids.LOOKS_LIKE),
}


def read_cohort(path: Path | str, annotated: Path | None = None) -> Cohort:
    """The scans of a folder or of a file that lists them: ids, paths, label names; no voxel.

    Parameters
    ----------
    annotated : JSON that says which structures were annotated in which scan, in any layout; by
        default the folder's `annotations.json`, if it has one (see `io.annotations`).

    Faults that concern single files (a label without image, two images of one id, an unknown
    extension) are kept in `Cohort.faults`, so that `check_cohort` can list them all together.

    Raises
    ------
    BadInput : the folder or file is missing, of no known layout, or holds no image.
    """
    root = Path(path)
    if not root.exists():
        raise BadInput(f"{root}: there is no such folder or file; check the path of COHORT")
    for layout in LAYOUTS.values():
        if layout.matches(root):
            cohort = layout.read(root)
            if not cohort.subjects:
                raise BadInput(cohort.faults)
            return with_annotations(cohort, annotated)
    known = "; or ".join(layout.looks_like for layout in LAYOUTS.values())
    raise BadInput(f"{root}: no known layout; expected {known}")
