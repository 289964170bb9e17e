"""What a recipe may say about the preparation of scans."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from deepatlas.errors import BadInput
from deepatlas.io.label_groups import IGNORE, LARGEST, LabelGroup, group_faults
from deepatlas.io.subject import Cohort

STEP = 8  # a planned grid has a multiple of this many voxels along each axis
Align = Literal["centre", "world", "rigid", "affine"]
ALIGNED = {"rigid": 0.08, "affine": 0.04}  # margin around the reference, of its field of view
_CHOICE = "one of 'centre', 'world', 'rigid' and 'affine'"


@dataclass(frozen=True)
class DataConfig:
    """What a recipe may say about preparation.

    Parameters
    ----------
    align : "centre" puts the centres of the fields of view together, "world" trusts the headers;
        "rigid" and "affine" align every scan to a reference by its image.
    reference : id of the scan to align to; None for the training scan of the most usual size.
    spacing_mm : working spacing along R, A[, S]; None for the cohort's median.
    shape : working grid; None for one that holds the largest field of view.
    percentiles : intensities mapped to 0 and 1.
    match_histograms : give every scan the histogram landmarks of the first labelled one.
    max_voxels : a planned grid of more voxels is made coarser.
    label_groups : structures that are learnt in place of single label values.
    ignore_value : label value of voxels of which nothing is known, beside that of the cohort.
    """

    align: Align = "centre"
    reference: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    shape: tuple[int, ...] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    match_histograms: bool = False
    max_voxels: int = 192 * 224 * 192
    label_groups: tuple[LabelGroup, ...] = ()
    ignore_value: int | None = None

    def __post_init__(self) -> None:
        faults = []
        if self.label_groups:
            faults += [f"data.label_groups: {fault}" for fault in group_faults(self.label_groups)]
        if self.ignore_value is not None and not 0 < abs(self.ignore_value) <= LARGEST:
            faults.append(
                f"data.ignore_value: {self.ignore_value} is the background or beyond 64 bits; "
                "give the value of another label"
            )
        if self.align not in get_args(Align):
            faults.append(f"data.align: expected {_CHOICE}, got {self.align!r}")
        if self.reference is not None and self.align not in ALIGNED:
            faults.append(
                f"data.reference: with align {self.align!r} there is none; "
                "take it out, or say data.align: rigid or affine"
            )
        if self.spacing_mm is not None and not all(0 < s < math.inf for s in self.spacing_mm):
            faults.append(f"data.spacing_mm: expected positive numbers, got {self.spacing_mm}")
        if self.shape is not None and not all(n >= STEP for n in self.shape):
            faults.append(f"data.shape: expected at least {STEP} voxels an axis, got {self.shape}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            faults.append(
                f"data.percentiles: expected 0 <= low < high <= 100, got {self.percentiles}"
            )
        if self.max_voxels < STEP**3:
            faults.append(f"data.max_voxels: expected at least {STEP**3}, got {self.max_voxels}")
        if faults:
            raise BadInput(faults)

    def ignored(self, cohort: Cohort) -> tuple[int, ...]:
        """All label values of a cohort that are ignored."""
        own = () if self.ignore_value is None else (self.ignore_value,)
        named = (v for group in self.label_groups if group.name == IGNORE for v in group.values)
        return tuple(sorted({*cohort.ignored, *own, *named}))
