"""What a similarity, a regularity and an overlap are; any callable of these shapes will do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Similarity(Protocol):
    """How unlike the warped moving image and the fixed image are; lower is better."""

    def __call__(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar from two images (B, 1, *S); `mask` (B, 1, *S) in [0, 1], a constant, says where.

        Voxels outside the mask count nowhere, as if the image ended there.
        """
        ...


class Regularity(Protocol):
    """How rough a displacement or velocity is; lower is better."""

    def __call__(self, field: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """Scalar from a field (B, d, *S) in voxels of its own grid, which has `spacing_mm`."""
        ...


class Overlap(Protocol):
    """How badly two segmentations overlap; lower is better."""

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        present: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar from two maps of probabilities (B, C, *S), channel 0 the background.

        `present` (B, C - 1) bool says which foreground classes were annotated (None: all);
        `weight` (B, 1, *S), not negative, weighs voxels (None: all the same).
        """
        ...
