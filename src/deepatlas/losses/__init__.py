"""Losses: how alike two images are, how smooth a field is, how well two segmentations overlap.

One file per measure, one table per kind; every measure is a frozen dataclass that is called.
"""

from __future__ import annotations

from deepatlas.losses.overlap import OVERLAPS
from deepatlas.losses.protocols import Overlap, Regularity, Similarity
from deepatlas.losses.regularity import REGULARITIES
from deepatlas.losses.similarity import SIMILARITIES

__all__ = ["OVERLAPS", "REGULARITIES", "SIMILARITIES", "Overlap", "Regularity", "Similarity"]
