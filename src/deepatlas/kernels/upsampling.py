"""What was computed between coarse voxels added at fine ones, by `corners`, for autograd."""

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


def add_at_corners(corners: Tensor, fine: Tensor) -> Tensor:
    """What corners have, added in place to the fine voxels around them; see `kernels.corners`.

    Parameters
    ----------
    corners : (B, 2^d C, *(S + 1)), float32 or bfloat16 on the CPU.
    fine : (B, C, *2S) of the same type, channels last in memory.
    """
    out: Tensor = _AddAtCorners.apply(corners, fine)
    return out


def _corners() -> ModuleType:
    from deepatlas.kernels import corners  # numba, slow to import

    return corners


class _AddAtCorners(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, corners: Tensor, fine: Tensor) -> Tensor:
        ctx.mark_dirty(fine)
        rows, values = to_rows(fine), flat_values(to_rows(corners))
        assert rows.data_ptr() == fine.data_ptr()
        kernel = _corners().add_kernel(fine.dtype == torch.bfloat16)
        count = math.prod(rows.shape[:-2])
        in_parts(kernel, count, values, flat_values(rows), *_places(rows), rows.shape[-1])
        return fine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor]:
        if not ctx.needs_input_grad[0]:
            return None, upstream
        grad = to_rows(upstream)
        deep, *coarse = _places(grad)
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
        return out.movedim(-1, 1), upstream


def _places(fine: Tensor) -> tuple[int, int, int, int]:
    """Of rows of fine voxels: whether three axes are doubled (2) or two (1), and coarse voxels."""
    deep = fine.ndim - 3
    depth, height, width = three_axes(fine.shape[1:-1])
    return deep, depth // deep, height // 2, width // 2
