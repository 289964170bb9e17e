"""Measures of how badly two segmentations overlap, for probabilities on either side."""

from __future__ import annotations

from deepatlas.losses.overlap.cross_entropy import CrossEntropy
from deepatlas.losses.overlap.dice import SoftDice
from deepatlas.losses.overlap.dice_ce import DiceCE

OVERLAPS: dict[str, type] = {"dice": SoftDice, "cross_entropy": CrossEntropy, "dice_ce": DiceCE}

__all__ = ["OVERLAPS", "CrossEntropy", "DiceCE", "SoftDice"]
