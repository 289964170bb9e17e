"""Images, label probabilities and points through a displacement."""

from __future__ import annotations

from torch import Tensor

from deepatlas.spatial.grid import Mode, Outside, identity_grid, sample


def warp(
    image: Tensor, displacement: Tensor, *, mode: Mode = "linear", outside: Outside = "zeros"
) -> Tensor:
    """Pull an image back: out(x) = image(x + displacement(x)).

    Parameters
    ----------
    image : (B, C, *S).
    displacement : (B, d, *S) in voxels of that grid, component n along array axis n.
    outside : "zeros", or "border" (for training only).
    """
    return sample(image, positions(displacement), mode=mode, outside=outside)


def positions(displacement: Tensor) -> Tensor:
    """Voxel index that each voxel is sent to, (B, d, *S), float32 or float64."""
    if displacement.shape[1] != displacement.ndim - 2:
        raise ValueError(
            f"a displacement of shape {tuple(displacement.shape)}: expected one channel per axis, "
            "(B, d, *space)"
        )
    exact = displacement if displacement.element_size() >= 4 else displacement.float()
    grid = identity_grid(exact.shape[2:], device=exact.device, dtype=exact.dtype)
    return grid + exact
