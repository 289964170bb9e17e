"""Distances between the surfaces of structures, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Points = NDArray[Any]


def image_diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """Distance between the outer corners of the image's opposite corner voxels."""
    return math.hypot(*[n * step for n, step in zip(shape, spacing_mm, strict=True)])


def surface_points_mm(
    labels: Any, values: Sequence[int], spacing_mm: Sequence[float]
) -> dict[int, Points]:
    """Centres (n, d) in mm of the surface voxels of each structure, for structures that are there.

    A voxel belongs to its structure's surface if one of its face neighbours has another label or
    lies outside the image. Positions are index times spacing: rotations and the origin do not
    change distances.
    """
    labels = np.asarray(labels)
    surface = np.zeros_like(labels, bool)
    for axis in range(labels.ndim):
        along = np.moveaxis(labels, axis, 0)
        marked = np.moveaxis(surface, axis, 0)
        differs = along[1:] != along[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
        marked[[0, -1]] = True
    where = np.nonzero(surface)
    found = labels[where]
    wanted = np.isin(found, list(values))
    found = found[wanted]
    index = np.stack([axis[wanted] for axis in where], axis=1)
    points = index * np.asarray(spacing_mm, np.float64)
    order = np.argsort(found, kind="stable")
    present, starts = np.unique(found[order], return_index=True)
    parts = np.split(points[order], starts[1:]) if len(present) else []
    return {int(value): part for value, part in zip(present, parts, strict=True)}


def _hausdorff(first: Points, second: Points, percentile: float) -> float:
    one_way = cKDTree(second, balanced_tree=False).query(first)[0]
    other_way = cKDTree(first, balanced_tree=False).query(second)[0]
    return float(max(np.percentile(one_way, percentile), np.percentile(other_way, percentile)))


def hd95_mm(
    prediction: Any,
    target: Any,
    values: Sequence[int],
    spacing_mm: Sequence[float],
    *,
    percentile: float = 95.0,
) -> dict[int, float]:
    """Robust Hausdorff distance of each structure in mm.

    It is the larger of the two directed 95th percentiles of the distances between surface voxels.
    nan where neither map has the structure, inf where only one has it.

    Parameters
    ----------
    prediction, target : integer arrays or CPU tensors of the same shape.
    values : label values of the structures, without the background.
    spacing_mm : distance between voxels along each array axis; the axes are taken as orthogonal.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape or len(spacing_mm) != target.ndim:
        raise ValueError(
            f"label maps of one shape and a spacing per axis are needed; got {prediction.shape}, "
            f"{target.shape} and {tuple(spacing_mm)}"
        )
    predicted = surface_points_mm(prediction, values, spacing_mm)
    wanted = surface_points_mm(target, values, spacing_mm)
    distances = {}
    for value in dict.fromkeys(int(value) for value in values):
        if value in predicted and value in wanted:
            distances[value] = _hausdorff(predicted[value], wanted[value], percentile)
        else:
            distances[value] = math.inf if value in predicted or value in wanted else math.nan
    return distances
