"""The example scans and pairs of a page, as arrays in near-RAS axes, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deepatlas.report.drawing import Array
from deepatlas.report.results import Evaluation
from deepatlas.run.folder import RunFolder


@dataclass(frozen=True)
class ScanExample:
    """One segmented scan: (*S) arrays in its own space, and how it was chosen."""

    rank: str
    scan: str
    dice: float
    spacing_mm: tuple[float, ...]
    image: Array
    manual: Array
    predicted: Array


@dataclass(frozen=True)
class PairExample:
    """One registered pair: (*S) arrays on the fixed scan's grid, and how it was chosen.

    `displacement` (d, *S), in voxels, is the network's part beyond the initial alignment;
    `determinant` (*S) belongs to the whole map.
    """

    rank: str
    moving_scan: str
    fixed_scan: str
    dice_before: float
    dice: float
    spacing_mm: tuple[float, ...]
    moving: Array
    fixed: Array
    moved: Array
    moving_labels: Array | None
    fixed_labels: Array | None
    moved_labels: Array | None
    displacement: Array
    determinant: Array


class ExampleSource(Protocol):
    """Where the examples of an evaluation come from; both raise BadInput if they cannot be had."""

    def scans(self, run: RunFolder, evaluation: Evaluation) -> list[ScanExample]:
        """Worst, median and best segmented scan."""

    def pairs(self, run: RunFolder, evaluation: Evaluation) -> list[PairExample]:
        """Worst, median and best registered pair."""
