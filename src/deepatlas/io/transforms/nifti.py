"""Transforms from and to files: the displacement field that ITK reads from NIfTI.

The file is 5-D (X, Y, Z, 1, 3), or (X, Y, 1, 1, 2) for slices, float32 with the vector intent
(1007), one displacement in mm a voxel in LPS axes, on the fixed grid. ITK, SimpleITK and ANTs
apply it as it is: `DisplacementFieldTransform(ReadImage(path, sitkVectorFloat64))`. ITK takes
the field as zero outside its box.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.io.header import is_in_plane, placed, read_placement
from deepatlas.io.images import read_header
from deepatlas.io.nifti import decode_array, read_content, write_array
from deepatlas.io.transforms.itk import signs
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import DisplacementField, Transform

_VECTOR, _DISPLACEMENT = 1007, 1006  # intents; ITK takes the first as LPS, the second as RAS


def write_displacement(
    path: Path, transform: Transform, fixed: Geometry, like: Path | None = None
) -> None:
    """Write fixed mm -> moving mm as the displacement field that ITK reads.

    Parameters
    ----------
    transform : fixed mm -> moving mm, RAS.
    fixed : the grid on which the field is written.
    like : the fixed scan's file; the sform and qform codes of a NIfTI file are kept. Lengths are
        in mm.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    """
    d = fixed.ndim
    voxels_to_lps = torch.from_numpy(signs(d))[:, None] * fixed.affine[:-1, :-1]
    field = (transform.displacement(fixed).movedim(0, -1) @ voxels_to_lps.T.float()).numpy()
    header_like = None if like is None else read_header(like)
    if header_like is not None and d == 2 and not is_in_plane(header_like):
        header_like = None  # ITK takes the first two world axes as the plane of a slice
    header = placed(fixed, header_like, in_mm=True)
    header.set_data_shape((*fixed.shape, *[1] * (4 - d), d))
    header.set_intent(_VECTOR)
    header["pixdim"][4:6] = 1
    write_array(path, field, header)


def read_displacement(path: Path) -> DisplacementField:
    """The transform in a displacement field as ITK reads it: 5-D, intent 1007 or 1006, mm.

    Raises
    ------
    BadInput : the file cannot be read or is not such a field.
    """
    header, values = decode_array(read_content(path), path)
    shape = values.shape
    if not _is_field(shape):
        learn2reg = ": convert a field of Learn2Reg with --from learn2reg"
        raise BadInput(
            f"{path}: has {'x'.join(map(str, shape))} values; expected a displacement field of "
            "X x Y x Z x 1 x 3 (or X x Y x 1 x 1 x 2) values, as ITK writes it"
            f"{learn2reg if len(shape) == 4 else ''}"
        )
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: has steps that are NaN or infinite; write it again")
    d, intent = shape[4], int(header["intent_code"])
    if intent not in (_VECTOR, _DISPLACEMENT):
        raise BadInput(
            f"{path}: its intent is {intent}; expected {_VECTOR} (vector, LPS mm) or "
            f"{_DISPLACEMENT} (displacement, RAS mm): write it as an ITK displacement field"
        )
    if d == 2 and intent == _DISPLACEMENT:
        raise BadInput(
            f"{path}: a 2-D field of intent {_DISPLACEMENT}, which ITK turns about one axis only; "
            f"write it with intent {_VECTOR}, in LPS mm"
        )
    turn = signs(d) if intent == _VECTOR else np.ones(d)
    grid = header.copy()
    grid.set_data_shape(shape[:d])
    geometry = read_placement(grid, path)
    step_mm = values.reshape(*geometry.shape, d).astype(np.float64) * turn
    matrix = np.linalg.inv(geometry.affine.numpy()[:d, :d])
    voxels = np.moveaxis(step_mm @ matrix.T, -1, 0).astype(np.float32)
    return DisplacementField(torch.from_numpy(np.ascontiguousarray(voxels)), geometry)


def _is_field(shape: tuple[int, ...]) -> bool:
    """Whether these are three components a voxel of a volume, or two a pixel of a slice."""
    if len(shape) != 5 or shape[3] != 1:
        return False
    return shape[4] == (2 if shape[2] == 1 else 3)
