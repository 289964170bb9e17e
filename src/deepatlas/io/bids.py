"""File names of the Brain Imaging Data Structure: `sub-01_ses-a_run-1_T1w.nii.gz`.

Source: Gorgolewski et al., Scientific Data 3:160044, 2016; the standard, version 1.10.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

VERSION = "1.10.0"
RAW_ENTITIES = {
    "sub", "ses", "task", "acq", "ce", "rec", "run", "echo", "flip", "inv", "mt", "part", "chunk",
}  # fmt: skip
"""Entities that tell anatomical scans apart; others say what was made of a scan."""

_NAME = re.compile(r"((?:[A-Za-z]+-[A-Za-z0-9+]+_)*)([A-Za-z][A-Za-z0-9]*)")


@dataclass(frozen=True)
class BidsName:
    """A name as key-value pairs and a suffix.

    Parameters
    ----------
    entities : such as {"sub": "01", "run": "1"}, in the order of the name.
    suffix : such as T1w.
    """

    entities: dict[str, str]
    suffix: str

    @property
    def folder(self) -> Path:
        """Where the standard puts anatomical files of this name: `sub-01/ses-a/anat`."""
        keys = [key for key in ("sub", "ses") if key in self.entities]
        return Path(*[f"{key}-{self.entities[key]}" for key in keys], "anat")

    @property
    def source(self) -> dict[str, str]:
        """The entities of the scan that a file of this name was made from."""
        return {key: value for key, value in self.entities.items() if key in RAW_ENTITIES}

    def __str__(self) -> str:
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items()), self.suffix])


def parse_name(stem: str) -> BidsName | None:
    """A file name without its ending, or None if it is none of BIDS."""
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    pairs = [part.split("-") for part in match[1].split("_") if part]
    entities = dict(pairs)
    return BidsName(entities, match[2]) if len(entities) == len(pairs) else None
