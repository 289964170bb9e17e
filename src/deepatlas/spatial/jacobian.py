"""Jacobian determinants of x -> x + u(x): local change of volume; negative where the map folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deepatlas.spatial.field import derivative
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Transform


def determinant(columns: Sequence[Any]) -> Any:
    """Determinant (...) of the matrices whose d columns (d, ...) are given, arrays or tensors."""
    if len(columns) == 2:
        (a, c), (b, d) = columns
        return a * d - b * c
    (a, d, g), (b, e, h), (c, f, i) = columns
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant (B, *S) of the map's Jacobian by central differences.

    The displacement (B, d, *S) is in voxels of its own grid, where the determinant is the same as
    in mm: the factors of the spacing cancel. Along an axis of one voxel nothing is known of the
    map, which then counts as the identity (`determinant_on`).
    """
    columns = [derivative(displacement, axis) for axis in range(displacement.shape[1])]
    for axis, column in enumerate(columns):
        column[:, axis] += 1
    found: Tensor = determinant([column.unbind(1) for column in columns])
    return found


def determinant_on(transform: Transform, grid: Geometry) -> Tensor:
    """Determinant (*S) of a map at the voxels of a grid, also where an axis has one voxel only.

    There the map is asked for places one voxel before and after the grid.
    """
    more = torch.tensor([int(n == 1) for n in grid.shape])
    affine = grid.affine.clone()
    affine[:-1, -1] = grid.to_mm(-more)
    wide = Geometry(tuple((torch.tensor(grid.shape) + 2 * more).tolist()), affine)
    found = jacobian_determinant(transform.displacement(wide)[None])[0]
    return found[tuple(slice(1, 2) if n == 1 else slice(None) for n in grid.shape)]


def inside(shape: Sequence[int]) -> tuple[slice, ...]:
    """The inner voxels of a grid: those one from the border, along axes of 3 voxels or more."""
    return tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)


def folds_percent(displacement: Tensor) -> float:
    """Percentage of inner voxels (`inside`) whose determinant is not positive (NaN is not)."""
    return folded_percent(jacobian_determinant(displacement))


def folded_percent(determinant: Tensor) -> float:
    """`folds_percent` of a determinant (B, *S) that is known already."""
    box = (slice(None), *inside(determinant.shape[1:]))
    inner = determinant[box]
    return 100.0 * float((~(inner > 0)).float().mean())
