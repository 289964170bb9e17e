"""Instance normalisation and LeakyReLU in one pass over a channels-last tensor.

PyTorch's own normalisations take several times as long as the convolutions they follow where
those are bfloat16 and channels-last. Here several voxels are taken as one row, so that every
operation runs along contiguous memory, sums are float32, and the gradient is in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from deepatlas import kernels
from deepatlas.kernels import normalise

_ROW = 64  # voxels taken as one row, where their number allows it


class NormActivation(nn.Module):
    """Zero mean and unit variance per item and channel, a learned scale and shift, LeakyReLU.

    Ulyanov et al. 2016 (arXiv 1607.08022). In and out (B, C, *S), channels last in memory.

    Parameters
    ----------
    inplace : where no gradient is wanted, its input may be written over.
    """

    def __init__(
        self, channels: int, *, slope: float, epsilon: float = 1e-5, inplace: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.slope = slope
        self.epsilon = epsilon
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        learned = self.weight, self.bias, self.slope, self.epsilon
        if kernels.usable(x, half=True):
            return normalise.normalise(x, *learned, inplace=self.inplace)[0]
        return _NormActivation.apply(x, *learned)


def _rows(x: Tensor) -> Tensor:
    """(B, C, *S) as (B, rows, voxels of a row * C); a view where channels are last in memory."""
    count, channels = math.prod(x.shape[2:]), x.shape[1]
    row = math.gcd(count, _ROW)
    return x.movedim(1, -1).reshape(x.shape[0], count // row, row * channels)


def _back(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`, channels last in memory."""
    return rows.reshape(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _sum(rows: Tensor, channels: int) -> Tensor:
    """Sum over voxels, (B, C) float32 or wider.

    Of half-precision rows by a product with ones, which sums in float32 on matrix units; only
    its `_ROW` partial sums are rounded.
    """
    if rows.dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(rows.device.type, enabled=False):
            total = torch.bmm(rows.new_ones(rows.shape[0], 1, rows.shape[1]), rows).float()
    else:
        total = rows.sum(dim=1)
    return total.reshape(rows.shape[0], -1, channels).sum(dim=1)


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """(B, C) values as one row each, in the dtype of the rows."""
    repeats = rows.shape[2] // values.shape[1]
    return values.to(rows.dtype).repeat(1, repeats).unsqueeze(1)


class _NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float, epsilon: float
    ) -> Tensor:
        rows, channels = _rows(x), x.shape[1]
        count = math.prod(x.shape[2:])
        mean = _sum(rows, channels) / count
        variance = (_sum(rows * rows, channels) / count - mean * mean).clamp_min(0)
        inverse = torch.rsqrt(variance + epsilon)
        scale = weight * inverse
        shift = bias - mean * scale
        out = torch.addcmul(_spread(shift, rows), rows, _spread(scale, rows))
        out = F.leaky_relu_(out, slope)
        ctx.save_for_backward(x, out, mean, inverse, scale)
        ctx.slope = slope
        return _back(out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, out, mean, inverse, scale = ctx.saved_tensors
        rows, channels, count = _rows(x), x.shape[1], math.prod(x.shape[2:])
        gradient = torch.ops.aten.leaky_relu_backward(
            _rows(upstream.to(x.dtype)), out, ctx.slope, True
        )
        total = _sum(gradient, channels)
        # Of the sum of gradient * normalised x, which is also the gradient by the scale.
        along = (_sum(gradient * rows, channels) - mean * total) * inverse
        by_x = -scale * along * inverse / count
        constant = -scale * total / count - by_x * mean
        result = torch.addcmul(_spread(constant, rows), rows, _spread(by_x, rows))
        result = torch.addcmul(result, gradient, _spread(scale, rows))
        return _back(result, x), along.sum(dim=0), total.sum(dim=0), None, None
