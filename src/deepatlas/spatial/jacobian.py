"""Jacobian determinants of x -> x + u(x): local change of volume; negative where the map folds."""

from __future__ import annotations

from torch import Tensor

from deepatlas.spatial.field import derivative


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant (B, *S) of the map's Jacobian by central differences.

    The displacement (B, d, *S) is in voxels of its own grid, where the determinant is the same as
    in mm: the factors of the spacing cancel.
    """
    columns = [derivative(displacement, axis) for axis in range(displacement.shape[1])]
    for axis, column in enumerate(columns):
        column[:, axis] += 1
    if len(columns) == 2:
        (a, b), (e, f) = (column.unbind(1) for column in columns)
        return a * f - b * e
    (a, b, c), (e, f, g), (h, i, j) = (column.unbind(1) for column in columns)
    return a * (f * j - g * i) - b * (e * j - g * h) + c * (e * i - f * h)


def folds_percent(displacement: Tensor) -> float:
    """Percentage of inner voxels whose determinant is not positive (NaN is not).

    Inner voxels are those one from the border, along axes of 3 voxels or more.
    """
    return folded_percent(jacobian_determinant(displacement))


def folded_percent(determinant: Tensor) -> float:
    """`folds_percent` of a determinant (B, *S) that is known already."""
    inside = [slice(1, -1) if n > 2 else slice(None) for n in determinant.shape[1:]]
    box = (slice(None), *inside)
    inner = determinant[box]
    return 100.0 * float((~(inner > 0)).float().mean())
