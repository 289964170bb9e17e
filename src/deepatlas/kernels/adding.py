"""Values at the corners between coarse voxels, added at the fine voxels around them.

By the kernels of `corners`, as an autograd function.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import empty, flat_values, in_parts, three_axes, to_rows

_WORD = 8  # bytes that are copied at once


def add_at_corners(fine: Tensor, corners: Tensor) -> Tensor:
    """`fine` with what corners have added in place; see `kernels.corners`.

    Parameters
    ----------
    fine : (B, C, *2S), float32 or bfloat16 on the CPU, channels last in memory.
    corners : (B, 2^d C, *(S + 1)) of the same type.
    """
    d = fine.ndim - 2
    shape = len(fine), 2**d * fine.shape[1], *(n // 2 + 1 for n in fine.shape[2:])
    even = not any(n % 2 for n in fine.shape[2:])
    if corners.shape != shape or corners.dtype != fine.dtype or not even:
        raise ValueError(
            f"corners {tuple(corners.shape)} of {corners.dtype} do not fit fine voxels "
            f"{tuple(fine.shape)} of {fine.dtype}"
        )
    if not fine.movedim(1, -1).is_contiguous():
        raise ValueError("fine voxels must be channels last in memory")
    out: Tensor = _AddAtCorners.apply(fine, corners)
    return out


def _corners() -> ModuleType:
    from deepatlas.kernels import corners  # numba, slow to import

    return corners


class _AddAtCorners(torch.autograd.Function):
    """What is changed comes first: of a view, autograd takes the first gradient for its own."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, corners: Tensor) -> Tensor:
        ctx.mark_dirty(fine)
        rows, values = to_rows(fine), flat_values(to_rows(corners))
        kernel = _corners().add_kernel(fine.dtype == torch.bfloat16)
        count = math.prod(rows.shape[:-2])
        in_parts(kernel, count, values, flat_values(rows), *_coarse(rows), rows.shape[-1])
        return fine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor | None]:
        if not ctx.needs_input_grad[1]:
            return upstream, None
        grad = to_rows(upstream)
        deep, *coarse = _coarse(grad)
        items, channels = len(grad), 4 * deep * grad.shape[-1]
        space = [n + 1 for n in coarse[-(grad.ndim - 2) :]]
        out = empty((items, *space, channels), grad.dtype)
        values = [flat_values(grad), flat_values(out)]
        size = values[0].itemsize
        if grad.shape[-1] * size % _WORD == 0:
            values = [x.view(np.int64) for x in values]
            size = _WORD
        words = grad.shape[-1] * grad.element_size() // size
        count = math.prod(out.shape[:-2])
        in_parts(_corners().gather, count, *values, deep, *coarse, words)
        return upstream, out.movedim(-1, 1)


def _coarse(fine: Tensor) -> tuple[int, int, int, int]:
    """Of rows of fine voxels: whether three axes are doubled (2) or two (1), and coarse voxels."""
    deep = fine.ndim - 3
    depth, height, width = three_axes(fine.shape[1:-1])
    return deep, depth // deep, height // 2, width // 2
