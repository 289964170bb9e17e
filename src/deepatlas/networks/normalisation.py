"""Instance normalisation and LeakyReLU in one pass over a channels-last tensor.

PyTorch's own normalisations take several times as long as the convolutions they follow where
those are bfloat16 and channels-last. What is here is the plain form of `kernels.normalise`, for
other devices: several voxels are taken as one row, so that every operation runs along contiguous
memory, in float32 or wider, and the gradient is in closed form.
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
        if kernels.usable(x, half=True) and x.numel() > 0:
            return normalise.normalise(x, *learned, inplace=self.inplace)[0]
        return _NormActivation.apply(x, *learned)


def _rows(x: Tensor) -> Tensor:
    """(B, C, *S) as (B, rows, voxels of a row * C); a view where channels are last in memory."""
    count, channels = math.prod(x.shape[2:]), x.shape[1]
    row = math.gcd(count, _ROW)
    return x.movedim(1, -1).reshape(x.shape[0], count // row, row * channels)


def _wide(rows: Tensor) -> Tensor:
    """The same in float32, or in float64 if they are."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _back(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`, channels last in memory."""
    return rows.reshape(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _sum(rows: Tensor, channels: int) -> Tensor:
    """Sum over voxels, (B, C)."""
    voxels = rows.shape[2] // channels
    return rows.sum(dim=1).reshape(rows.shape[0], voxels, channels).sum(dim=1)


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """(B, C) values as one row each."""
    return values.repeat(1, rows.shape[2] // values.shape[1]).unsqueeze(1)


class _NormActivation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float, epsilon: float
    ) -> Tensor:
        rows, channels = _wide(_rows(x)), x.shape[1]
        count = math.prod(x.shape[2:])
        mean = _sum(rows, channels) / count
        rows = rows - _spread(mean, rows)
        inverse = torch.rsqrt(_sum(rows.square(), channels) / count + epsilon)
        out = torch.addcmul(
            _spread(bias.expand_as(mean), rows), rows, _spread(weight * inverse, rows)
        )
        out = F.leaky_relu_(out, slope).to(x.dtype)
        ctx.save_for_backward(x, out, weight, mean, inverse)
        ctx.slope = slope
        return _back(out, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, out, weight, mean, inverse = ctx.saved_tensors
        rows, channels, count = _wide(_rows(x)), x.shape[1], math.prod(x.shape[2:])
        gradient = torch.ops.aten.leaky_relu_backward(
            _wide(_rows(upstream)), out.to(rows.dtype), ctx.slope, True
        )
        normalised = (rows - _spread(mean, rows)) * _spread(inverse, rows)
        by_bias = _sum(gradient, channels)
        by_weight = _sum(gradient * normalised, channels)
        gradient = gradient - _spread(by_bias / count, rows)
        gradient = gradient.addcmul_(normalised, _spread(by_weight / count, rows), value=-1)
        by_x = gradient.mul_(_spread(weight * inverse, rows)).to(x.dtype)
        return _back(by_x, x), by_weight.sum(dim=0), by_bias.sum(dim=0), None, None
