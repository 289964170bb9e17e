"""Algebra of displacements: composition, inversion, resolution, differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deepatlas.kernels import sampling, usable
from deepatlas.spatial.grid import identity_grid, sample
from deepatlas.spatial.warp import warp


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of outer after inner, x -> outer(inner(x)); all (B, d, *S) in voxels."""
    return inner + warp(outer, inner, outside="border")


def invert(
    displacement: Tensor,
    *,
    first: Sequence[int] | None = None,
    shape: Sequence[int] | None = None,
    iterations: int = 30,
    tolerance: float = 1e-4,
) -> Tensor:
    """Inverse displacement w by fixed-point iteration on w(y) + u(y + w(y)) = 0.

    A voxel whose residual grows goes back and halves its step: plain steps need derivatives of u
    below 1, and fail where a map stretches to twice the size without any fold. Beyond the border
    the displacement is continued by its border value.

    Parameters
    ----------
    displacement : u (B, d, *S) in voxels, a map without folds.
    first, shape : the box of voxels where the inverse is wanted, its first index in u's grid and
        its size; u's own grid without them.
    iterations : at most.
    tolerance : largest residual in voxels with which it stops early.
    """

    size = displacement.shape[2:] if shape is None else shape
    grid = identity_grid(size, device=displacement.device)
    if first is not None:
        start = torch.tensor(list(first), dtype=grid.dtype, device=grid.device)
        grid = grid + start.reshape(1, -1, *[1] * len(size))

    def residual_of(inverse: Tensor) -> tuple[Tensor, Tensor]:
        residual = inverse + sample(displacement, grid + inverse, outside="border")
        return residual, residual.square().sum(dim=1, keepdim=True)

    inverse = -sample(
        displacement, grid.expand(len(displacement), *grid.shape[1:]), outside="border"
    )
    residual, error = residual_of(inverse)
    step = torch.ones_like(error)
    for _ in range(iterations):
        if not bool(error.max() > tolerance**2):
            break
        trial = inverse - step * residual
        trial_residual, trial_error = residual_of(trial)
        better = trial_error < error
        inverse = torch.where(better, trial, inverse)
        residual = torch.where(better, trial_residual, residual)
        error = torch.where(better, trial_error, error)
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
    if usable(field):
        return sampling.double(field, shape)
    for n, size in enumerate(shape):
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
