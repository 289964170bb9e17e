"""Normalisation, dropout and LeakyReLU at once, and channel sums, by the kernels of `normal`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import empty, flat_values, in_parts, to_rows, usable

_ROW = 256  # values taken as one row, about
_NOTHING = (np.uint32(0), np.uint32(0))  # a seed and a threshold of no dropout


def normalise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor | float,
    epsilon: float,
    *,
    drop: float = 0.0,
    pooled: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalisation, a learned scale and shift, dropout, LeakyReLU.

    Parameters
    ----------
    x : (B, C, *S), bfloat16 or float32.
    weight, bias : (C).
    slope : of LeakyReLU; a tensor of one value gets a gradient.
    drop : probability of dropout; its seed comes from torch's generator.
    pooled : statistics over the batch too, as in batch normalisation; else of each item.
    inplace : where no gradient is wanted, write over x if it is channels last.

    Returns
    -------
    the values, x's dtype, channels last in memory; mean and variance (B or 1, C) float64.
    """
    inplace = inplace and not torch.is_grad_enabled()
    return _Normalise.apply(x, weight, bias, slope, epsilon, drop, pooled, inplace)


def scale_and_shift(x: Tensor, scale: Tensor, shift: Tensor, slope: float) -> Tensor:
    """LeakyReLU of scale * x + shift, both (C); a constant to autograd."""
    x = to_rows(x.detach())
    rows, out = Rows(x, pooled=True), empty(x.shape, x.dtype)
    along = rows.spread(scale.detach()[None]), rows.spread(shift.detach()[None])
    rows.run(_normal().apply_kernel(rows.half, False, False), x, out, *along,
             np.float32(slope), *_NOTHING)  # fmt: skip
    return out.movedim(-1, 1)


def channel_sums(x: Tensor) -> Tensor:
    """(C) float32: sums over all but the channels of (B, C, *S), float32 or bfloat16.

    PyTorch's sum writes bfloat16 as float32 first. The kernel's is for values that are channels
    last, and where the sum itself needs no gradient.
    """
    last, followed = x.movedim(1, -1), x.requires_grad and torch.is_grad_enabled()
    if followed or not usable(x, half=True) or not last.is_contiguous() or x.numel() == 0:
        return x.sum([axis for axis in range(x.ndim) if axis != 1], dtype=torch.float32)
    rows = Rows(last, pooled=True)
    sums, _ = rows.summed(rows.run(_normal().moments_kernel(rows.half), last))
    return sums[0].float()


def _normal() -> ModuleType:
    from deepatlas.kernels import normal  # numba, slow to import

    return normal


class Rows:
    """How the values of (B, *S, C) are gone through; pooled, as if they were one item."""

    def __init__(self, x: Tensor, *, pooled: bool) -> None:
        self.items, self.channels = 1 if pooled else x.shape[0], x.shape[-1]
        self.count = x.numel() // self.items
        self.voxels = self.count // self.channels
        self.row = self.channels * max(1, _ROW // self.channels)
        self.total = self.items * -(-self.count // self.row)
        self.half = x.dtype == torch.bfloat16

    def summed(self, parts: list[Any]) -> tuple[Tensor, ...]:
        """The sums, (items, C) float64 each, of what the parts have summed by place in the row."""
        total = sum(parts)
        sums = total.reshape(*total.shape[:2], -1, self.channels).sum(axis=2)
        return torch.from_numpy(sums).unbind(dim=1)

    def spread(self, values: Tensor) -> Any:
        """(items, C) along a row, float32."""
        return values.float().repeat(1, self.row // self.channels).contiguous().numpy()

    def run(self, kernel: Any, *arguments: Any) -> list[Any]:
        """What the parts of the work return; tensors are handed over flat."""
        given = [flat_values(a) if isinstance(a, Tensor) else a for a in arguments]
        return in_parts(kernel, self.total, *given, self.count, self.row)


class _Normalise(torch.autograd.Function):
    """Keeps x and, of every channel, a scale and a shift."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | float, epsilon: float,
        drop: float, pooled: bool, inplace: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        x = to_rows(x)
        rows, normal = Rows(x, pooled=pooled), _normal()
        one, two = rows.summed(rows.run(normal.moments_kernel(rows.half), x))
        mean = one / rows.voxels
        variance = (two / rows.voxels - mean.square()).clamp_min(0)
        inverse = torch.rsqrt(variance + epsilon)
        kept = 1 / (1 - drop)  # what dropout leaves grows by it
        scale = weight.detach().double() * inverse * kept
        shift = bias.detach().double() * kept - mean * scale
        out = x if inplace else empty(x.shape, x.dtype)
        along = rows.spread(scale), rows.spread(shift), np.float32(float(slope))
        ctx.dropout = _dropout(drop)
        kernel = normal.apply_kernel(rows.half, drop > 0, inplace)
        rows.run(kernel, x, out, *along, *ctx.dropout)
        ctx.save_for_backward(x, mean, inverse, scale, shift)
        ctx.slope, ctx.drop, ctx.pooled = float(slope), drop, pooled
        ctx.slope_like = (
            slope.detach().new_empty(slope.shape) if isinstance(slope, Tensor) else None
        )
        ctx.mark_non_differentiable(mean, variance)
        return out.movedim(-1, 1), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, shift = ctx.saved_tensors
        grad = to_rows(upstream.to(x.dtype))
        rows, normal = Rows(x, pooled=ctx.pooled), _normal()
        kinds, sloping = (rows.half, ctx.drop > 0), ctx.slope_like is not None
        along = rows.spread(scale), rows.spread(shift)
        rest = np.float32(ctx.slope), *ctx.dropout
        parts = rows.run(
            normal.back_moments_kernel(*kinds, sloping),
            x,
            grad,
            *along,
            *rest,
        )
        total, product, below = rows.summed(parts)
        by_weight = (product - mean * total) * inverse  # sum of gradient * normalised x
        by_x = -scale * by_weight * inverse / rows.voxels
        constant = -scale * total / rows.voxels - by_x * mean
        out = empty(x.shape, x.dtype)
        rows.run(
            normal.back_apply_kernel(*kinds), x, grad, out, *along,
            rows.spread(by_x), rows.spread(constant), *rest,
        )  # fmt: skip
        kept = 1 / (1 - ctx.drop)
        found = [(kept * value.sum(dim=0)).float() for value in (by_weight, total)]
        by_slope = below.sum().to(ctx.slope_like).view_as(ctx.slope_like) if sloping else None
        return out.movedim(-1, 1), *found, by_slope, None, None, None, None


def _dropout(probability: float) -> tuple[Any, Any]:
    """A seed, and the least of 32 random bits with which a value stays."""
    if probability == 0:
        return _NOTHING
    seed = int(torch.randint(2**32, (1,)))
    return np.uint32(seed), np.uint32(round(probability * 2**32))
