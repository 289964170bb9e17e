"""Jacobian determinants of x -> x + u(x): local change of volume; negative where the map folds."""

from __future__ import annotations

import torch
from torch import Tensor

from deepatlas.spatial.field import derivative


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant (B, *S) of the map's Jacobian by central differences.

    The displacement (B, d, *S) is in voxels of its own grid, where the determinant is the same as
    in mm: the factors of the spacing cancel.
    """
    d = displacement.shape[1]
    rows = torch.stack([derivative(displacement, n) for n in range(d)], dim=-1)
    matrix = rows.movedim(1, -2) + torch.eye(d, dtype=rows.dtype, device=rows.device)
    if d == 2:
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    a, b, c = matrix[..., 0, :].unbind(-1)
    e, f, g = matrix[..., 1, :].unbind(-1)
    h, i, j = matrix[..., 2, :].unbind(-1)
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
