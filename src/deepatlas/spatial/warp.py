"""Images, label probabilities and points through a displacement."""

from __future__ import annotations

from torch import Tensor

from deepatlas.spatial.grid import Mode, Outside, sample


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
    if displacement.shape[1] != displacement.ndim - 2:
        raise ValueError(
            f"a displacement of shape {tuple(displacement.shape)}: expected one channel per axis, "
            "(B, d, *space)"
        )
    return sample(image, displacement, mode=mode, outside=outside, relative=True)
