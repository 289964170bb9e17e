"""A decoder's input by the kernels of `joining`, as an autograd function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import empty, flat_values, in_parts, to_rows, usable

_WORD = 8  # bytes that are copied at once


def joinable(x: Tensor, skip: Tensor) -> bool:
    """Whether `double_and_join` can do it: skip is twice as large, channels are whole words."""
    if (len(x), *(2 * n for n in x.shape[2:])) != (len(skip), *skip.shape[2:]):
        return False
    whole = all(t.shape[1] * t.element_size() % _WORD == 0 for t in (x, skip))
    return whole and usable(x, skip, half=True)


def double_and_join(x: Tensor, skip: Tensor) -> Tensor:
    """x (B, C, *S) at twice its size by repetition, then skip (B, D, *2S): (B, C + D, *2S)."""
    return _Join.apply(x, skip)


def _joining() -> ModuleType:
    from deepatlas.kernels import joining  # numba, slow to import

    return joining


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor) -> Tensor:
        x, skip = to_rows(x), to_rows(skip)
        ctx.shapes = x.shape, skip.shape
        out = empty((*skip.shape[:-1], x.shape[-1] + skip.shape[-1]), x.dtype)
        _run(_joining().join, math.prod(out.shape[:-2]), ctx.shapes, np.int64, x, skip, out)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad, joining = to_rows(upstream), _joining()
        x, skip = (
            empty(shape, grad.dtype) if wanted else None
            for shape, wanted in zip(ctx.shapes, ctx.needs_input_grad, strict=True)
        )
        if skip is not None:
            _run(joining.part, math.prod(skip.shape[:-2]), ctx.shapes, np.int64, grad, skip)
        if x is not None:
            half = grad.dtype == torch.bfloat16
            kind = np.uint32 if half else np.float32
            _run(joining.sum_kernel(half), math.prod(x.shape[:-2]), ctx.shapes, kind, grad, x)
        return tuple(None if t is None else t.movedim(-1, 1) for t in (x, skip))


def _run(
    kernel: Any, rows: int, shapes: Sequence[torch.Size], kind: type[np.generic], *tensors: Tensor
) -> None:
    """Run it on so many rows of these tensors, taken as values of this kind; shapes of x, skip."""
    place = len(shapes[0]) - 3, *shapes[0][-3:-1]
    channels = (
        shape[-1] * tensors[0].element_size() // np.dtype(kind).itemsize for shape in shapes
    )
    values = [flat_values(tensor).view(kind) for tensor in tensors]
    in_parts(kernel, rows, *values, *place, *channels)
