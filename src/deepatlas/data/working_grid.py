"""The grid on which all scans of a cohort are put: its shape, spacing and place in the world."""

from __future__ import annotations

import math

import numpy as np
import torch

from deepatlas.data.config import ALIGNED, STEP, DataConfig
from deepatlas.errors import BadInput
from deepatlas.spatial.geometry import Geometry

_SLACK = 1e-3  # voxels; header noise does not cost a voxel more


def working_grid(
    grids: list[Geometry], config: DataConfig, reference: Geometry | None = None
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...], list[str]]:
    """Shape, spacing and centre of the working grid, and notes on them.

    It holds all fields of view or, where scans are aligned to a reference, that of the reference
    and a margin, since other anatomies reach a little further. Not all aligned fields of view:
    turned ones have far corners with little in them.
    """
    around = grids if reference is None else [reference]
    d = grids[0].ndim
    for name, given in (("spacing_mm", config.spacing_mm), ("shape", config.shape)):
        if given is not None and len(given) != d:
            raise BadInput(f"data.{name}: the scans are {d}-D; expected {d} values, got {given}")
    notes: list[str] = []
    natural = [[grid.spacing_mm[axis] for axis in axis_order(grid)] for grid in grids]
    spacing = np.array(config.spacing_mm or np.median(np.array(natural), axis=0), dtype=np.float64)
    centre = np.zeros(d)
    if config.align != "centre":
        centre = np.mean([grid.centre_mm.numpy() for grid in around], axis=0)
    extent = _extent_mm(around, centre, config.align)
    shape = _enough(extent, spacing, config.align)
    if config.shape is not None:
        if any(given < needed for given, needed in zip(config.shape, shape, strict=True)):
            notes.append(
                f"the grid of {_times(config.shape)} voxels that was asked for is smaller than "
                f"the largest field of view ({_times(shape)}): scans are cropped"
            )
        shape = tuple(config.shape)
    elif math.prod(shape) > config.max_voxels:
        shape, spacing, note = _coarser(extent, spacing, config)
        notes.append(note)
    if config.align != "centre":
        centre = _on_lattice(around[0], shape, spacing, centre)
    return shape, tuple(spacing.tolist()), tuple(centre.tolist()), notes


def axis_order(grid: Geometry) -> tuple[int, ...]:
    """For each world axis (R, A[, S]) the array axis that runs most nearly along it."""
    lengths = torch.tensor(grid.spacing_mm, dtype=torch.float64)
    cosines = (grid.affine[:-1, :-1] / lengths).abs().numpy()
    order = [-1] * grid.ndim
    for _ in range(grid.ndim):
        world, axis = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
        order[int(world)] = int(axis)
        cosines[world, :] = -1
        cosines[:, axis] = -1
    return tuple(order)


def bounds_mm(grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the field of view along each world axis, voxels' edges included."""
    matrix, centre = grid.affine[:-1, :-1].abs(), grid.centre_mm
    half = matrix @ torch.tensor(grid.shape, dtype=torch.float64) / 2
    return (centre - half).numpy(), (centre + half).numpy()


def _extent_mm(grids: list[Geometry], centre: np.ndarray, align: str) -> np.ndarray:
    """Size of the box around `centre` that holds every field of view where it will lie."""
    ends = [bounds_mm(grid) for grid in grids]
    if align == "centre":
        return np.max([high - low for low, high in ends], axis=0)
    reach = np.max([np.maximum(centre - low, high - centre) for low, high in ends], axis=0)
    return 2 * reach * (1 + 2 * ALIGNED.get(align, 0.0))


def _enough(extent: np.ndarray, spacing: np.ndarray, align: str) -> tuple[int, ...]:
    """Voxels that hold an extent; one more where the grid is shifted onto a lattice."""
    voxels = extent / spacing - _SLACK + (0 if align == "centre" else 1)
    return tuple(max(STEP, math.ceil(n / STEP) * STEP) for n in voxels)


def _coarser(
    extent: np.ndarray, spacing: np.ndarray, config: DataConfig
) -> tuple[tuple[int, ...], np.ndarray, str]:
    """The finest uniformly coarser grid of at most `max_voxels`, in steps of one percent."""
    full = _enough(extent, spacing, config.align)
    said = f"{_times(full)} voxels of {_times(spacing)} mm are more than max_voxels"
    if config.spacing_mm is not None:
        raise BadInput(
            f"data.spacing_mm: {said} = {config.max_voxels}; give a coarser spacing, "
            "a shape (scans are then cropped) or raise data.max_voxels"
        )
    coarse, shape = spacing, full
    while math.prod(shape) > config.max_voxels:
        coarse = coarse * 1.01
        shape = _enough(extent, coarse, config.align)
    return shape, coarse, f"{said}: the working spacing is {_times(coarse)} mm"


def _on_lattice(
    grid: Geometry, shape: tuple[int, ...], spacing: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """`centre`, moved by at most half a voxel so that working voxels fall on those of `grid`.

    Scans that share a lattice in the world are then not interpolated at all.
    """
    anchor = bounds_mm(grid)[0] + np.array([grid.spacing_mm[a] for a in axis_order(grid)]) / 2
    first = centre - (np.array(shape) - 1) / 2 * spacing
    steps = np.floor(np.round((first - anchor) / spacing, 6) + 0.5)
    return centre + (anchor + steps * spacing - first)


def _times(numbers: tuple[int, ...] | np.ndarray) -> str:
    return " x ".join(f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers)
