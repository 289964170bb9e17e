"""Classes on a scan's own grid, from a network's maps on the working grid."""

from __future__ import annotations

import torch
from torch import Tensor

from deepatlas.data.labels import class_dtype
from deepatlas.spatial.geometry import SLAB_POINTS, Geometry, Volume, drift
from deepatlas.spatial.grid import sample
from deepatlas.spatial.transform import COINCIDE_VOXELS, Affine, resample


def share_voxels(native: Geometry, grid: Geometry, to_grid: Affine) -> bool:
    """Whether every voxel of a scan lies on one of the working grid (or beyond its border)."""
    to_index = torch.linalg.inv(grid.affine) @ to_grid.matrix @ native.affine
    return drift(to_index, native.shape) < COINCIDE_VOXELS


def classes_of(best: Tensor, classes: int) -> Tensor:
    """Class indices in the smallest type that holds them, on the CPU."""
    return best.to(class_dtype(classes - 1)).cpu()


def nearest_classes(best: Tensor, grid: Geometry, native: Geometry, to_grid: Affine) -> Tensor:
    """Class indices (*S) of the working grid at the voxels of a scan that lie on its voxels."""
    return resample(Volume(best, grid), native, to_grid, labels=True).data


def most_probable(maps: Tensor, grid: Geometry, native: Geometry, to_grid: Affine) -> Tensor:
    """Class indices on the scan's own grid: the greatest of the interpolated probabilities.

    Where a class is the most probable at all voxels around a point, it is so at the point; only
    elsewhere are all classes interpolated. What lies beyond the working grid is class 0.

    Parameters
    ----------
    maps : (1, C, *S) probabilities on the CPU, float32 or float16; fastest with channels last in
        memory.
    to_grid : scan mm -> working mm.
    """
    best = classes_of(maps[0].argmax(dim=0), maps.shape[1])
    one, cell = _cells(best)
    out = torch.zeros(native.shape, dtype=best.dtype)
    last = torch.tensor(grid.shape, dtype=torch.float64) - 1
    for rows, points in native.slabs():
        index = grid.to_index(to_grid(points))
        nearest = torch.floor(index.round(decimals=6) + 0.5)  # a half goes up, as in `resample`
        inside = ((nearest >= 0) & (nearest <= last)).all(dim=-1)
        index = torch.minimum(index.clamp_(min=0), last)
        corner = torch.minimum(index.floor(), (last - 1).clamp_(min=0)).long().unbind(-1)
        found = cell[corner]
        mixed = inside & ~one[corner]
        found[mixed] = _interpolated(maps, index[mixed]).to(found.dtype)
        out[rows] = torch.where(inside, found, torch.zeros((), dtype=found.dtype))
    return out


def _cells(classes: Tensor) -> tuple[Tensor, Tensor]:
    """Of each cell between 2^d voxels: whether they are of one class, and that of its first."""
    one, first = torch.ones_like(classes, dtype=torch.bool), classes
    for axis, size in enumerate(classes.shape):
        if size > 1:
            here, there = (x.narrow(axis, 0, size - 1) for x in (one, first))
            one = here & one.narrow(axis, 1, size - 1) & (there == first.narrow(axis, 1, size - 1))
            first = there
    return one, first


def _interpolated(maps: Tensor, index: Tensor) -> Tensor:
    """The class of the greatest probability at points (n, d) within the grid.

    Points around which too much of the grid lies, as of a plane across it, are parted.
    """
    if not len(index):
        return index.new_empty(0, dtype=torch.long)
    d = index.shape[1]
    first, last = index.amin(dim=0).floor(), index.amax(dim=0).ceil() + 1
    size = last - first
    if size.prod() > SLAB_POINTS:
        axis = int(size.argmax())
        below = index[:, axis] < first[axis] + size[axis] // 2
        found = torch.empty(len(index), dtype=torch.long)
        for part in (below, ~below):
            found[part] = _interpolated(maps, index[part])
        return found
    rows = [slice(int(a), int(b)) for a, b in zip(first, last, strict=True)]
    box = (slice(None), slice(None), *rows)
    places = (index - first).float().T.reshape(1, d, -1, *[1] * (d - 1))
    found = sample(maps[box].float(), places, outside="border")
    return found.reshape(maps.shape[1], -1).argmax(dim=0)
