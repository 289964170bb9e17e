"""Learn2Reg's fields (disp_*.nii.gz): X x Y x Z x 3 steps in voxels, without a place in the world.

`moved(x) = moving(x + disp(x))`, x a voxel index of the fixed scan and x + disp(x) of the moving
scan, component n along array axis n. So both scans' grids must be known beside the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.io.header import placed
from deepatlas.io.nifti import decode_array, read_content, write_array
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform


def write_learn2reg(path: Path, transform: Transform, *, moving: Geometry, fixed: Geometry) -> None:
    """Write fixed mm -> moving mm as Learn2Reg's evaluation reads it.

    Raises
    ------
    BadInput : grids of different shapes, which that evaluation does not take.
    DeepAtlasError : no room or no right to write there.
    """
    if moving.shape != fixed.shape:
        raise BadInput(
            f"{path}: Learn2Reg wants both scans on grids of one shape, not {fixed.shape} and "
            f"{moving.shape}; resample them first, or write .h5"
        )
    field = np.empty((*fixed.shape, fixed.ndim), dtype=np.float32)
    for rows, points in fixed.slabs():
        field[rows] = (moving.to_index(transform(points)) - fixed.to_index(points)).numpy()
    header = placed(fixed)
    header.set_data_shape(field.shape)
    write_array(path, field, header)


def read_learn2reg(path: Path, *, moving: Geometry, fixed: Geometry) -> Transform:
    """The map fixed mm -> moving mm of such a file between two grids.

    Raises
    ------
    BadInput : the file cannot be read, or does not fit the fixed grid.
    """
    _, values = decode_array(read_content(path), path)
    expected = (*fixed.shape, fixed.ndim)
    if values.shape != expected:
        raise BadInput(
            f"{path}: has {values.shape} values; expected {expected}, one step in voxels for every "
            "voxel of the fixed scan"
        )
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: has steps that are NaN or infinite; write it again")
    steps = torch.from_numpy(np.moveaxis(values, -1, 0).astype(np.float32))
    onto_moving = Affine(moving.affine @ torch.linalg.inv(fixed.affine))
    return Composite([DisplacementField(steps, fixed), onto_moving])
