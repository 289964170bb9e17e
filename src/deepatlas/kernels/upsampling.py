"""A decoder's input by the kernels of `joining`, as an autograd function."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import flat_values, in_parts, to_rows


def double_and_join(x: Tensor, skip: Tensor) -> Tensor:
    """x (B, C, *S) at twice its size by repetition, then skip (B, D, *2S): (B, C + D, *2S)."""
    return _Join.apply(x, skip)


def _joining() -> ModuleType:
    from deepatlas.kernels import joining  # numba, slow to import

    return joining


def _sizes(x: Tensor, skip: Tensor) -> tuple[int, ...]:
    """Of rows x (B, *S, C) and skip (B, *2S, D), as the kernels take them."""
    return x.ndim - 3, x.shape[-3], x.shape[-2], x.shape[-1], skip.shape[-1]


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor) -> Tensor:
        x, skip = to_rows(x), to_rows(skip)
        ctx.sizes, ctx.shapes = _sizes(x, skip), (x.shape, skip.shape)
        out = x.new_empty(*skip.shape[:-1], x.shape[-1] + skip.shape[-1])
        tensors = [flat_values(each) for each in (x, skip, out)]
        in_parts(_joining().join, math.prod(out.shape[:-2]), *tensors, *ctx.sizes)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        grad = to_rows(upstream)
        x, skip = (grad.new_empty(shape) for shape in ctx.shapes)
        kernel = _joining().part_kernel(grad.dtype == torch.bfloat16)
        tensors = [flat_values(each) for each in (grad, x, skip)]
        in_parts(kernel, math.prod(x.shape[:-2]), *tensors, *ctx.sizes)
        return x.movedim(-1, 1), skip.movedim(-1, 1)
