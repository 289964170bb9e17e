"""How regular a map is: folds, and how much its local volume change varies."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deepatlas.spatial.jacobian import determinant, inside, jacobian_determinant

Array = NDArray[Any]

LEARN2REG_CROP = 2
"""Voxels that Learn2Reg leaves out on each side of the grid."""


@dataclass(frozen=True)
class Folding:
    """Regularity of one map.

    Parameters
    ----------
    folds_percent : percent of the voxels inside the grid (`spatial.jacobian.inside`) whose
        central-difference determinant is not positive.
    cells_percent : percent of the cells between neighbouring voxels in which any of the one-sided
        determinants (8 in 3-D, 4 in 2-D) is not positive.
    sdlogj : standard deviation of log det over the voxels inside with det > 0.
    left_out : number of voxels inside that `sdlogj` left out because det <= 0.
    sdlogj_learn2reg : Learn2Reg's own form, the standard deviation of log(clip(det + 3, 1e-9, 1e9))
        two voxels or more from the border. Adding 3 makes it about a quarter of `sdlogj`.

    A measure without a single voxel is nan.
    """

    folds_percent: float
    cells_percent: float
    sdlogj: float
    left_out: int
    sdlogj_learn2reg: float


def folded_cells(displacement: Array) -> NDArray[np.bool_]:
    """Cells (*S - 1) in which any corner's determinant is not positive.

    At each of a cell's 2^d corners the determinant is that of the d edges of the cell that meet
    there, so a cell without a fold keeps the orientation of all its corners.
    """
    d = len(displacement)
    edges = []
    for axis in range(d):
        edge = np.diff(displacement, axis=1 + axis)
        edge[axis] += 1
        edges.append(edge)
    folded = np.zeros([n - 1 for n in displacement.shape[1:]], bool)
    for corner in itertools.product((0, 1), repeat=d):
        columns = []
        for axis in range(d):
            side = [slice(1, None) if end else slice(None, -1) for end in corner]
            side[axis] = slice(None)
            columns.append(edges[axis][tuple([slice(None), *side])])
        folded |= ~(determinant(columns) > 0)
    return folded


def _percent(flags: NDArray[np.bool_]) -> float:
    return 100 * float(flags.mean()) if flags.size else math.nan


def _deviation(values: Array) -> float:
    return float(values.std(dtype=np.float64)) if values.size else math.nan


def folding(displacement: Any) -> Folding:
    """Regularity of the map x + u(x) on its own grid, without any padding.

    Parameters
    ----------
    displacement : (d, *S) array or CPU tensor in voxels of the fixed grid, d = 2 or 3.
    """
    field = np.asarray(displacement, np.float32)
    d = len(field)
    if d not in (2, 3) or field.ndim != d + 1 or min(field.shape[1:]) < 1:
        raise ValueError(f"a displacement (d, *S) with d = 2 or 3 is needed; got {field.shape}")
    everywhere = jacobian_determinant(torch.from_numpy(field)[None])[0].numpy()
    found = everywhere[inside(everywhere.shape)]
    kept = found[found > 0]
    inner = everywhere[(slice(LEARN2REG_CROP, -LEARN2REG_CROP),) * d]
    shifted = np.log(np.clip(inner.astype(np.float64) + 3, 1e-9, 1e9))
    return Folding(
        folds_percent=_percent(~(found > 0)),  # so that a map with nan counts as folded
        cells_percent=_percent(folded_cells(field)),
        sdlogj=_deviation(np.log(kept)),
        left_out=found.size - kept.size,
        sdlogj_learn2reg=_deviation(shifted),
    )
