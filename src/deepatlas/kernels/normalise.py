"""Instance normalisation and LeakyReLU by the kernels of `normal`, as an autograd function."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import in_parts, to_rows

_ROW = 256  # values taken as one row, about


def usable(x: Tensor) -> bool:
    """Whether the kernels can work on a tensor."""
    from deepatlas import kernels

    as_float = x.new_empty(0, dtype=torch.float32) if x.dtype == torch.bfloat16 else x
    return kernels.usable(as_float)


def normalise(x: Tensor, weight: Tensor, bias: Tensor, slope: float, epsilon: float) -> Tensor:
    """Of x (B, C, *S), bfloat16 or float32; see `networks.normalisation.NormActivation`."""
    return _Normalise.apply(x, weight, bias, slope, epsilon)


def _normal() -> ModuleType:
    from deepatlas.kernels import normal  # numba, slow to import

    return normal


def _flat(rows: Tensor) -> Any:
    """The same memory as a numpy array of one axis; bfloat16 as uint16."""
    rows = rows.detach()
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.int16).view(-1).numpy().view(np.uint16)
    return rows.view(-1).numpy()


class _Rows:
    """How the values of (B, *S, C) are gone through."""

    def __init__(self, x: Tensor) -> None:
        self.items, self.channels = x.shape[0], x.shape[-1]
        self.count = x[0].numel()
        self.row = self.channels * max(1, _ROW // self.channels)
        self.total = self.items * -(-self.count // self.row)
        self.half = x.dtype == torch.bfloat16

    def summed(self, parts: list[Any]) -> tuple[Tensor, Tensor]:
        """Both sums, (B, C) float64, of what the parts have summed by place in the row."""
        sums = sum(parts).reshape(self.items, 2, -1, self.channels).sum(axis=2)
        return torch.from_numpy(sums[:, 0]), torch.from_numpy(sums[:, 1])

    def spread(self, values: Tensor) -> Any:
        """(B, C) along a row, float32."""
        return values.float().repeat(1, self.row // self.channels).contiguous().numpy()

    def run(self, kernel: Any, *arguments: Any) -> list[Any]:
        return in_parts(kernel, self.total, *arguments, self.count, self.row)


class _Normalise(torch.autograd.Function):
    """Keeps x and, of every channel, a scale and a shift."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: float, epsilon: float
    ) -> Tensor:
        x = to_rows(x)
        rows, normal = _Rows(x), _normal()
        one, two = rows.summed(rows.run(normal.moments_kernel(rows.half), _flat(x)))
        voxels = math.prod(x.shape[1:-1])
        mean = one / voxels
        variance = (two / voxels - mean.square()).clamp_min(0)
        inverse = torch.rsqrt(variance + epsilon)
        scale = weight.detach().double() * inverse
        shift = bias.detach().double() - mean * scale
        out = torch.empty_like(x)
        along = rows.spread(scale), rows.spread(shift), np.float32(slope)
        rows.run(normal.apply_kernel(rows.half), _flat(x), _flat(out), *along)
        ctx.save_for_backward(x, mean, inverse, scale, shift)
        ctx.slope = slope
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, scale, shift = ctx.saved_tensors
        grad = to_rows(upstream.to(x.dtype))
        rows, normal = _Rows(x), _normal()
        along = rows.spread(scale), rows.spread(shift)
        slope = np.float32(ctx.slope)
        parts = rows.run(
            normal.back_moments_kernel(rows.half), _flat(x), _flat(grad), *along, slope
        )
        total, product = rows.summed(parts)
        by_weight = (product - mean * total) * inverse  # sum of gradient * normalised x
        voxels = math.prod(x.shape[1:-1])
        by_x = -scale * by_weight * inverse / voxels
        constant = -scale * total / voxels - by_x * mean
        out = torch.empty_like(x)
        rows.run(
            normal.back_apply_kernel(rows.half), _flat(x), _flat(grad), _flat(out), *along,
            rows.spread(by_x), rows.spread(constant), slope,
        )  # fmt: skip
        found = by_weight.sum(dim=0), total.sum(dim=0)
        return out.movedim(-1, 1), found[0].float(), found[1].float(), None, None
