"""Identity grids and sampling; the only file that knows grid_sample's axis order and [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.kernels import sampling, usable

Mode = Literal["linear", "nearest"]
Outside = Literal["zeros", "border"]

_KEPT_BYTES = 1 << 28  # of a grid that is kept for the next to ask for it
_MODES = {"linear": "bilinear", "nearest": "nearest"}


def _new(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the next to ask for it may need gradients
        axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


_kept = lru_cache(maxsize=4)(_new)  # training asks for one or two in every step


def identity_grid(
    shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Voxel index of every voxel, (1, d, *shape); shared between calls, so never edit it."""
    shape = tuple(shape)
    small = len(shape) * math.prod(shape) * dtype.itemsize <= _KEPT_BYTES
    return (_kept if small else _new)(shape, torch.device(device), dtype)


def sample(
    image: Tensor,
    index: Tensor,
    *,
    mode: Mode = "linear",
    outside: Outside = "zeros",
    relative: bool = False,
) -> Tensor:
    """Values of an image at fractional voxel indices.

    Parameters
    ----------
    image : (B, C, *S), d = 2 or 3 axes of space.
    index : (B, d, *T) voxel indices into S, component n along array axis n.
    outside : what lies beyond the outermost voxel centres: "zeros", or the nearest "border" voxel.
    relative : index is a displacement, added to the index of each of its own voxels.

    Returns
    -------
    (B, C, *T) in the image's dtype; positions and weights are float32 (float64 for a float64 image
    and for integers) whatever autocast says, because bfloat16 steps by whole voxels above 128.
    """
    _check(image, index, mode)
    coarse = image.is_floating_point() and image.dtype != torch.float64
    exact = torch.float32 if coarse else torch.float64
    with torch.autocast(image.device.type, enabled=False):
        values, places = image.to(exact), index.to(exact)
        if mode == "linear" and usable(values, places):
            out = sampling.sample(values, places, relative=relative, zeros=outside == "zeros")
        else:
            if relative:
                places = places + identity_grid(places.shape[2:], device=places.device, dtype=exact)
            out = _grid_sample(values, places, mode, outside)
    return out.to(image.dtype)


def _check(image: Tensor, index: Tensor, mode: Mode) -> None:
    space = image.shape[2:]
    if index.shape[1] != len(space):
        raise ValueError(f"{index.shape[1]} index components for an image of {len(space)} axes")
    if len(index) != len(image) or index.ndim != image.ndim:
        raise ValueError(
            f"an image of shape {tuple(image.shape)} cannot be sampled at an index of shape "
            f"{tuple(index.shape)}"
        )
    if mode == "linear" and not image.is_floating_point():
        raise ValueError(f"an image of {image.dtype} has no values between voxels; say nearest")


def _grid_sample(image: Tensor, index: Tensor, mode: Mode, outside: Outside) -> Tensor:
    space = image.shape[2:]
    if outside == "zeros" and 1 in space:  # [-1, 1] cannot say how far from a single voxel
        image = F.pad(image, [end for n in reversed(space) for end in (0, int(n == 1))])
        space = image.shape[2:]
    coordinates = [
        index[:, n] * (2.0 / max(space[n] - 1, 1)) - 1.0 for n in reversed(range(len(space)))
    ]
    return F.grid_sample(
        image,
        torch.stack(coordinates, dim=-1),
        mode=_MODES[mode],
        padding_mode=outside,
        align_corners=True,
    )


def interpolate(image: Tensor, index: Tensor) -> Tensor:
    """Values of an image (C, *S) at fractional voxel indices (..., d): (..., C), float64.

    Exact for large fields and far points: linear in float64, and beyond the outermost voxel
    centres the value at the nearest point of the grid. Only the part of the image around the
    points is copied.
    """
    d = index.shape[-1]
    if index.numel() == 0:
        return index.new_empty((*index.shape[:-1], len(image)))
    last = torch.tensor(image.shape[1:], dtype=index.dtype) - 1
    inside = torch.minimum(index.reshape(-1, d).clamp(min=0), last)
    bounds = inside.nan_to_num(nan=0.0)
    first = bounds.amin(dim=0).floor()
    ends = bounds.amax(dim=0).ceil() + 1
    box = (slice(None), *[slice(int(a), int(b)) for a, b in zip(first, ends, strict=True)])
    part = image[box].to(torch.float64)
    query = (inside - first).T.reshape(1, d, *[1] * (d - 1), -1)
    values = sample(part.unsqueeze(0), query, outside="border")
    return values.reshape(len(image), -1).T.reshape(*index.shape[:-1], len(image))
