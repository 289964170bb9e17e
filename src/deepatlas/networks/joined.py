"""A convolution of a coarse map at twice its size beside a fine map, as decoders have it.

Where voxels are repeated, a kernel of 3 meets two different ones along each axis, and the fine
voxels around a corner between coarse ones meet the same. So the coarse map is convolved as it is,
by a kernel of 2 whose weights are sums, to channels for each fine voxel around a corner: 8 of 27
products in 3-D, and neither the repeated map nor the joined one is ever made. (Odena et al. 2016 on
resizing before convolving; Shi et al. 2016, arXiv 1609.07009, on what such layers have in common
with those that make channels for several voxels.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepatlas.kernels import adding, usable
from deepatlas.networks.convolving import convolve, is_plain, to_channels_last

# Coarse voxels along an axis. Below there is little to gain, and of one or two oneDNN's gradients
# by the weights may be wrong, see `convolving`.
_LEAST = 4


def join(x: Tensor, skip: Tensor | None = None) -> Tensor:
    """A coarser level at twice its size, by repetition, beside what came down, if anything did."""
    if skip is None:
        return x
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    return torch.cat([doubled, skip.to(x.dtype)], dim=1)


def convolve_joined(layer: nn.Module, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """layer(join(x, skip)), but for rounding.

    Parameters
    ----------
    layer : a convolution.
    x : (B, C, *S).
    skip : (B, D, *2S), or None, where there is nothing to join.
    """
    if skip is None or not splits(layer, x, skip):
        out: Tensor = layer(join(x, skip))
        return out
    given: Any = layer
    with torch.autocast("cpu", enabled=False):
        weight = corner_weight(given.weight[:, : x.shape[1]])
    corners = (F.conv2d if x.ndim == 4 else F.conv3d)(x, weight, padding=1)
    fine = to_channels_last(convolve(skip, given.weight[:, x.shape[1] :], given.bias))
    return adding.add_at_corners(fine, corners)


def splits(layer: Any, x: Tensor, skip: Tensor) -> bool:
    """Whether both maps can be convolved apart."""
    fits = (len(x), *(2 * n for n in x.shape[2:])) == (len(skip), *skip.shape[2:])
    fits = fits and layer.in_channels == x.shape[1] + skip.shape[1]
    kinds = {x.dtype, skip.dtype, layer.weight.dtype}
    if torch.is_autocast_enabled("cpu"):
        kinds = {torch.get_autocast_dtype("cpu")}
    fits = fits and kinds in ({torch.float32}, {torch.bfloat16})
    fits = fits and not (layer._forward_hooks or layer._forward_pre_hooks)
    return fits and is_plain(layer) and min(x.shape[2:]) >= _LEAST and usable(x, skip, half=True)


def corner_weight(weight: Tensor) -> Tensor:
    """(O, C, 3, ...) as (2^d O, C, 2, ...): of the fine voxels around a corner by coarse voxels."""
    outputs, d = len(weight), weight.ndim - 2
    sums = _SUMS[d].to(weight)  # voxels and taps, by old taps
    rows = sums @ weight.movedim(1, -1).reshape(outputs, 3**d, -1)
    rows = rows.reshape(outputs, 2**d, 2**d, -1).transpose(0, 1)
    return rows.reshape(2**d * outputs, *[2] * d, -1).movedim(-1, 1)


def _sums(d: int) -> Tensor:
    """(2^d 2^d, 3^d) of 0 and 1."""
    axis = torch.zeros(2, 2, 3, device="cpu")  # fine voxel, tap, old tap
    axis[0, 0, :2] = axis[0, 1, 2] = axis[1, 0, 0] = axis[1, 1, 1:] = 1
    whole = axis
    for _ in range(d - 1):
        whole = torch.einsum("pat,qbu->pqabtu", whole, axis)
        voxels, taps, old = (math.prod(whole.shape[k : k + 2]) for k in (0, 2, 4))
        whole = whole.reshape(voxels, taps, old)
    return whole.flatten(0, 1)


with torch.inference_mode(False):  # they take part in steps with gradients
    _SUMS = {d: _sums(d) for d in (2, 3)}
