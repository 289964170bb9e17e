"""The plain layout: `images/` and `labels/`, the same names in both (endings may differ)."""

from __future__ import annotations

from pathlib import Path

from deepatlas.io.layouts.folder import pair_up
from deepatlas.io.subject import Cohort

LOOKS_LIKE = "a plain folder with images/ and labels/ (same file names)"


def matches(root: Path) -> bool:
    """Whether `root` has the folder `images`."""
    return (root / "images").is_dir()


def read(root: Path) -> Cohort:
    """The scans of `root`; labels have no names in this layout."""
    subjects, faults = pair_up(root / "images", root / "labels")
    return Cohort(root, subjects, faults=faults)
