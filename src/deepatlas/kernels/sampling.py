"""Sampling, scaling and squaring and doubling of fields by kernels, as autograd functions."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import empty, flat, in_parts, three_axes, to_rows


def sample(image: Tensor, index: Tensor, *, relative: bool, zeros: bool) -> Tensor:
    """Linear values of image (B, C, *S) at index (B, d, *T), see `spatial.grid.sample`.

    Parameters
    ----------
    relative : the index is added to each point's own.
    zeros : beyond the border the image is 0, else its border value.
    """
    return _Sample.apply(image, index, relative, zeros)


def integrate(velocity: Tensor, squarings: int) -> Tensor:
    """Scaling and squaring, see `spatial.velocity.integrate`."""
    return _Integrate.apply(velocity, squarings)


def double(field: Tensor, shape: Sequence[int]) -> Tensor:
    """A half-resolution field at full resolution, see `spatial.field.double`."""
    return _Double.apply(field, tuple(shape))


def _three(shape: torch.Size) -> tuple[int, ...]:
    """The axes of space of rows (B, *S, C), three of them."""
    return three_axes(shape[1:-1])


def _planes(rows: Tensor) -> int:
    return rows.shape[0] * _three(rows.shape)[0]


def trilinear() -> ModuleType:
    """The kernels; numba is slow to import."""
    from deepatlas.kernels import trilinear

    return trilinear


_READ, _WRITTEN = 4, 16  # channels up to which kernels are compiled for each number of them


def _case(
    image: Tensor, index: Tensor, how: tuple[bool, bool], known: int = _READ
) -> tuple[int, int, bool]:
    channels = image.shape[-1]
    return index.shape[-1], channels if channels <= known else 0, how[1]


def _shapes(image: Tensor, index: Tensor) -> tuple[Any, ...]:
    return _three(image.shape), _three(index.shape), image.shape[-1]


def _sampled(image: Tensor, index: Tensor, how: tuple[bool, bool]) -> Tensor:
    out = empty((*index.shape[:-1], image.shape[-1]))
    arrays = flat(image), flat(index), flat(out)
    kernel = trilinear().values_kernel(*_case(image, index, how))
    in_parts(kernel, _planes(index), *arrays, *_shapes(image, index), np.float32(how[0]))
    return out


def _index_gradient(image: Tensor, index: Tensor, grad: Tensor, how: tuple[bool, bool]) -> Tensor:
    out = empty(index.shape)
    arrays = flat(image), flat(index), flat(grad), flat(out)
    kernel = trilinear().index_kernel(*_case(image, index, how))
    in_parts(kernel, _planes(index), *arrays, *_shapes(image, index), np.float32(how[0]))
    return out


def _add_image_gradient(
    into: Tensor, index: Tensor, grad: Tensor, how: tuple[bool, bool]
) -> Tensor:
    arrays = flat(index), flat(grad), flat(into)
    kernel = trilinear().image_kernel(*_case(into, index, how, _WRITTEN))
    in_parts(kernel, _planes(into), *arrays, *_shapes(into, index), np.float32(how[0]))
    return into


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, index: Tensor, relative: bool, zeros: bool) -> Tensor:
        image, index = to_rows(image), to_rows(index)
        ctx.save_for_backward(image, index)
        ctx.how = relative, zeros
        return _sampled(image, index, ctx.how).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        image, index = ctx.saved_tensors
        grad = to_rows(upstream)
        by_image = by_index = None
        if ctx.needs_input_grad[0]:
            into = torch.zeros_like(image)
            by_image = _add_image_gradient(into, index, grad, ctx.how).movedim(-1, 1)
        if ctx.needs_input_grad[1]:
            by_index = _index_gradient(image, index, grad, ctx.how).movedim(-1, 1)
        return by_image, by_index, None, None


class _Integrate(torch.autograd.Function):
    """Keeps the field of every squaring where there is a way back, and nothing else."""

    @staticmethod
    def forward(ctx: Any, velocity: Tensor, squarings: int) -> Tensor:
        from deepatlas.kernels.composing import compose_kernel  # numba, slow to import

        field, kept = to_rows(velocity * 0.5**squarings), []
        for _ in range(squarings):
            if ctx.needs_input_grad[0]:
                kept.append(field)
            out = empty(field.shape)
            kernel = compose_kernel(field.shape[-1])
            in_parts(kernel, _planes(field), flat(field), flat(out), _three(field.shape))
            field = out
        ctx.save_for_backward(*kept)
        return field.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from deepatlas.kernels.composing import decompose_kernel

        grad, kept = to_rows(upstream), ctx.saved_tensors
        for field in reversed(kept):
            out = grad.clone()
            kernel, arrays = decompose_kernel(field.shape[-1]), (flat(field), flat(grad), flat(out))
            in_parts(kernel, _planes(field), *arrays, _three(field.shape))
            grad = out
        return grad.movedim(-1, 1) * 0.5 ** len(kept), None


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, field: Tensor, shape: tuple[int, ...]) -> Tensor:
        from deepatlas.kernels.doubling import double  # numba, slow to import

        field = to_rows(field)
        out = empty((len(field), *shape, field.shape[-1]))
        ctx.shapes = three_axes(field.shape[1:-1]), three_axes(shape), field.shape[-1]
        ctx.size = field.shape
        planes = _planes(out)
        in_parts(double, planes, flat(field), flat(out), *ctx.shapes, np.float32(2))
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        from deepatlas.kernels.doubling import halve

        grad = to_rows(upstream)
        out = empty(ctx.size)
        in_parts(halve, _planes(out), flat(grad), flat(out), *ctx.shapes, np.float32(2))
        return out.movedim(-1, 1), None
