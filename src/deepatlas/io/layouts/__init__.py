"""Dataset layouts: one file each, one row each; a folder in, a `Cohort` out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deepatlas.errors import BadInput
from deepatlas.io.annotations import with_annotations
from deepatlas.io.layouts import decathlon, plain
from deepatlas.io.subject import Cohort


@dataclass(frozen=True)
class Layout:
    """How to recognise a layout, how to read it and what it looks like, in words."""

    matches: Callable[[Path], bool]
    read: Callable[[Path], Cohort]
    looks_like: str


LAYOUTS = {
    "decathlon": Layout(decathlon.matches, decathlon.read, decathlon.LOOKS_LIKE),
    "plain": Layout(plain.matches, plain.read, plain.LOOKS_LIKE),
}


def read_cohort(path: Path | str, annotated: Path | None = None) -> Cohort:
    """The scans of the folder `path`: ids, paths and label names; no voxel is read.

    Parameters
    ----------
    annotated : JSON that says which structures were annotated in which scan, in any layout; by
        default the folder's `annotations.json`, if it has one (see `io.annotations`).

    Faults that concern single files (a label without image, two images of one id, an unknown
    extension) are kept in `Cohort.faults`, so that `check_cohort` can list them all together.

    Raises
    ------
    BadInput : the folder is missing, of no known layout, or holds no image.
    """
    root = Path(path)
    if not root.exists():
        raise BadInput(f"{root}: there is no such folder; check the path of COHORT")
    if not root.is_dir():
        raise BadInput(f"{root}: is a file; COHORT is the folder that holds the scans' folders")
    for layout in LAYOUTS.values():
        if layout.matches(root):
            cohort = layout.read(root)
            if not cohort.subjects:
                raise BadInput(cohort.faults)
            return with_annotations(cohort, annotated)
    known = "; or ".join(layout.looks_like for layout in LAYOUTS.values())
    raise BadInput(f"{root}: no known layout; expected {known}")
