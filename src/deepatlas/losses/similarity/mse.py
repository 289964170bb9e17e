"""Mean squared difference of intensities."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepatlas.losses.precision import full_precision, same_shape, widen


@dataclass(frozen=True)
class MSE:
    """Mean over voxels, then over the batch, of (warped - fixed)^2; 0 where the mask is empty."""

    def __call__(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar from images (B, 1, *S); see `protocols.Similarity`."""
        same_shape(warped, fixed, "warped and fixed image")
        with full_precision(warped):
            warped, fixed = widen(warped, fixed)
            squares = (warped - fixed).square()
            if mask is None:
                return squares.mean()
            same_shape(mask, fixed, "mask and fixed image")
            weight = mask.detach().to(squares.dtype).flatten(1)
            total = weight.sum(dim=1).clamp_min(1e-12)
            return ((squares.flatten(1) * weight).sum(dim=1) / total).mean()
