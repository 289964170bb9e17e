"""Algebra of displacements: composition, inversion, resolution, differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepatlas.spatial.warp import warp


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of outer after inner, x -> outer(inner(x)); all (B, d, *S) in voxels."""
    return inner + warp(outer, inner, outside="border")


def invert(displacement: Tensor, *, iterations: int = 30, tolerance: float = 1e-4) -> Tensor:
    """Inverse displacement w by fixed-point iteration on w(y) + u(y + w(y)) = 0.

    A voxel whose residual grows goes back and halves its step: plain steps need derivatives of u
    below 1, and fail where a map stretches to twice the size without any fold. Beyond the border
    the displacement is continued by its border value.

    Parameters
    ----------
    displacement : u (B, d, *S) in voxels, a map without folds.
    iterations : at most.
    tolerance : largest residual in voxels with which it stops early.
    """

    def residual_of(inverse: Tensor) -> tuple[Tensor, Tensor]:
        residual = inverse + warp(displacement, inverse, outside="border")
        return residual, residual.square().sum(dim=1, keepdim=True)

    inverse = -displacement
    residual, size = residual_of(inverse)
    step = torch.ones_like(size)
    for _ in range(iterations):
        if not bool(size.max() > tolerance**2):
            break
        trial = inverse - step * residual
        trial_residual, trial_size = residual_of(trial)
        better = trial_size < size
        inverse = torch.where(better, trial, inverse)
        residual = torch.where(better, trial_residual, residual)
        size = torch.where(better, trial_size, size)
        step = torch.where(better, step, step * 0.5)
    return inverse


def _double_axis(field: Tensor, axis: int, size: int) -> Tensor:
    """Values at half steps along one axis: voxel 0 stays on voxel 0, `size` voxels come out."""
    n = field.shape[axis]
    after = torch.cat([field.narrow(axis, 1, n - 1), field.narrow(axis, n - 1, 1)], dim=axis)
    pairs = torch.stack([field, (field + after) * 0.5], dim=axis + 1)
    return pairs.flatten(axis, axis + 1).narrow(axis, 0, size)


def double(field: Tensor, shape: Sequence[int]) -> Tensor:
    """A half-resolution displacement or velocity (B, d, *S) in voxels, at full resolution.

    Voxel 0 of both grids coincides and the spacing halves, so `shape` is (2 S or 2 S - 1) along
    each axis; values double, because voxels are half as large.
    """
    for n, size in enumerate(shape):
        if (size + 1) // 2 != field.shape[2 + n]:
            raise ValueError(f"shape {tuple(shape)} is not twice {tuple(field.shape[2:])}")
        field = _double_axis(field, 2 + n, size)
    return field * 2.0


def derivative(field: Tensor, axis: int) -> Tensor:
    """Derivative per voxel along one axis of space: central inside, one-sided at both ends."""
    dim = axis + 2
    n = field.shape[dim]
    if n < 2:
        return torch.zeros_like(field)
    first = field.narrow(dim, 1, 1) - field.narrow(dim, 0, 1)
    inner = (field.narrow(dim, 2, n - 2) - field.narrow(dim, 0, n - 2)) * 0.5
    last = field.narrow(dim, n - 1, 1) - field.narrow(dim, n - 2, 1)
    return torch.cat([first, inner, last], dim=dim)
