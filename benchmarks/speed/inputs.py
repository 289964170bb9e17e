"""Images, fields and label maps of any size, cheap to make and smooth as real ones are.

All are drawn on the CPU and lie on torch's default device, which the command line sets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def smooth(
    batch: int, channels: int, shape: Sequence[int], *, step: int = 8, seed: int = 0
) -> Tensor:
    """Smooth noise (B, C, *S), standard deviation about 1; values agree over `step` voxels."""
    random = torch.Generator("cpu").manual_seed(seed)
    coarse = [max(3, n // step) for n in shape]
    noise = torch.randn(batch, channels, *coarse, generator=random, device="cpu")
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    out = F.interpolate(noise, size=list(shape), mode=mode, align_corners=True)
    return (out / out.std()).contiguous().to(torch.get_default_device())


def image(batch: int, shape: Sequence[int], *, seed: int = 0) -> Tensor:
    """(B, 1, *S) in [0, 1], smooth with fine texture."""
    random = torch.Generator("cpu").manual_seed(seed + 1000)
    base = torch.sigmoid(smooth(batch, 1, shape, seed=seed))
    texture = torch.randn(base.shape, generator=random, device="cpu").to(base.device)
    return (base + 0.03 * texture).clamp(0, 1)


def field(batch: int, shape: Sequence[int], *, voxels: float = 3.0, seed: int = 0) -> Tensor:
    """(B, d, *S) in voxels, of that root mean square along each axis."""
    return smooth(batch, len(shape), shape, step=16, seed=seed + 2000) * voxels


def probabilities(batch: int, classes: int, shape: Sequence[int], *, seed: int = 0) -> Tensor:
    """(B, classes, *S), soft."""
    return (2 * smooth(batch, classes, shape, seed=seed + 3000)).softmax(dim=1).contiguous()


def labels(batch: int, classes: int, shape: Sequence[int], *, seed: int = 0) -> Tensor:
    """(B, *S) int64."""
    return smooth(batch, classes, shape, seed=seed + 4000).argmax(dim=1)


def within_cells(field: Tensor, margin: float = 0.02) -> Tensor:
    """A field moved a little, so that no voxel is sent closer than `margin` to a cell's face.

    There the derivative of a linear interpolation jumps, and rounding decides on which side.
    """
    whole = field.floor()
    return whole + (field - whole).clamp(margin, 1 - margin)
