"""Where a NIfTI header places its voxels, and headers that place them where they should be.

The sform counts where it is set, else the qform. A file with neither says nothing about its
orientation; it is read as ITK reads it (LPS axes, voxel 0 at the origin), so that transforms
written for ITK fit. Lengths in metres or micrometres become mm here and nowhere else.

Two-dimensional files (X, Y) or (X, Y, 1) still have 3-D placement. Their plane is rotated, by
the smallest rotation, onto the nearest plane of the world's axes; for an axis-aligned plane,
that just drops the world axis across it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from nibabel.spatialimages import HeaderDataError

from deepatlas.errors import BadInput
from deepatlas.spatial.geometry import Geometry

_MM_OF_UNIT = {1: 1000.0, 3: 0.001}  # NIfTI codes of metre and micrometre; mm and unknown are 1
_SMALLEST_MM, _LARGEST_MM = 1e-9, 1e9  # of a voxel: beyond, the header is damaged
_LONGEST_AXIS = 2**15 - 1  # of NIfTI-1
_FORMS_MM = 0.1  # sform and qform that place a voxel further apart than this disagree
_ITK_SHEAR = 3e-4  # cosine between axes from which on ITK refuses a file, or nearly
_log = logging.getLogger(__name__)
_PLACING = (
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d",
    "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip


def space_shape(header: nib.Nifti1Header) -> tuple[int, ...] | None:
    """The two or three axes of space of a file; None if it holds several volumes."""
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape if len(shape) in (2, 3) else None


def scaling(header: nib.Nifti1Header) -> tuple[float, float] | None:
    """Slope and intercept between the values on disk and the scan's; None where they are one."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0 or (slope, intercept) == (1.0, 0.0):
        return None
    return slope, intercept


def read_placement(header: nib.Nifti1Header, name: object) -> Geometry:
    """The grid of a header.

    Raises
    ------
    BadInput : several volumes, an empty axis, or a placement that cannot be inverted.
    """
    shape = space_shape(header)
    if shape is None:
        found = "x".join(str(n) for n in header.get_data_shape())
        raise BadInput(
            f"{name}: holds several volumes ({found} voxels); "
            "expected one 2-D or 3-D scan: save one volume as a file of its own",
            kind="several-volumes",
        )
    if min(shape) < 1:
        raise BadInput(f"{name}: has an axis without voxels {shape}; export the scan again")
    matrix = _matrix_mm(header, name)
    if not _has_place(matrix, len(shape)):
        raise BadInput(
            f"{name}: its header (sform, qform) does not say where the voxels lie; "
            "mend the header or export the scan again",
            kind="no-place",
        )
    if len(shape) == 2:
        matrix = _flatten(matrix)
    return Geometry(shape, torch.from_numpy(np.ascontiguousarray(matrix, dtype=np.float64)))


def from_other_format(
    shape: Sequence[int], dtype: np.dtype, matrix_mm: np.ndarray, name: object
) -> nib.Nifti2Header:
    """The header that a scan of another format would have as NIfTI, its placement in float64.

    Parameters
    ----------
    shape : voxels along each axis of the file.
    dtype : of the values on disk.
    matrix_mm : (4, 4) voxel index to RAS mm.
    name : the file, for errors.

    Raises
    ------
    BadInput : an empty axis, or a placement that cannot be inverted.
    """
    if min(shape, default=0) < 1:
        raise BadInput(f"{name}: has an axis without voxels {tuple(shape)}; export the scan again")
    if not _has_place(matrix_mm, 3):
        raise BadInput(
            f"{name}: its header does not say where the voxels lie; export the scan again",
            kind="no-place",
        )
    header = nib.Nifti2Header()
    header.set_data_shape(shape)
    header.set_data_dtype(dtype.newbyteorder("="))
    header["xyzt_units"] = 2  # mm
    _place(header, min(len(shape), 3), matrix_mm, (1, 1))
    return header


def placed(
    geometry: Geometry, like: nib.Nifti1Header | None = None, *, in_mm: bool = False
) -> nib.Nifti1Header:
    """A fresh header for a grid, with codes, units and number of axes of the header `like`.

    On the grid of `like` its placement is copied number for number. It is a header of NIfTI-1, or
    of NIfTI-2 where an axis has more voxels than that can say.

    Parameters
    ----------
    in_mm : write mm whatever the units of `like`.
    """
    is_long = max(geometry.shape) > _LONGEST_AXIS
    header = nib.Nifti2Header() if is_long else nib.Nifti1Header()
    is_column = like is not None and len(like.get_data_shape()) > 2
    shape = (*geometry.shape, 1) if geometry.ndim == 2 and is_column else geometry.shape
    header.set_data_shape(shape)
    header["xyzt_units"] = 2  # mm
    if like is None:
        _place(header, geometry.ndim, _spatial(geometry.affine.numpy()), (1, 1))
        return header
    if not in_mm:
        header["xyzt_units"] = like["xyzt_units"]
    same_unit = not in_mm or _unit_mm(like) == 1
    if same_unit and _is_on(like, geometry):
        for name in _PLACING:
            header[name] = like[name]
        header["pixdim"][:4] = like["pixdim"][:4]
        return header
    matrix = _spatial(geometry.affine.numpy(), _matrix_mm(like, "like"))
    _place(header, geometry.ndim, matrix, (int(like["qform_code"]), int(like["sform_code"])))
    return header


def is_in_plane(header: nib.Nifti1Header) -> bool:
    """Whether a 2-D file lies in the plane of the world's first two axes, as ITK expects."""
    rotation, axis = _rotation_to_plane(_matrix_mm(header, "like"))
    return axis == 2 and bool(np.allclose(rotation, np.eye(3), atol=1e-6))


def say_if_forms_differ(header: nib.Nifti1Header, name: object) -> None:
    """Say where other tools may place a file's voxels elsewhere, or not read it at all."""
    apart = forms_differ_mm(header)
    if apart > _FORMS_MM:
        _log.warning(
            "%s: sform and %s differ by up to %.1f mm; the sform is used here, "
            "ITK may place this scan by the other", name,
            "qform" if int(header["qform_code"]) > 0 else "voxel size (pixdim)", apart,
        )  # fmt: skip
    elif _itk_refuses(header):
        _log.warning(
            "%s: its axes are not at right angles, which ITK does not read from NIfTI; results on "
            "its grid are alike, so resample it first if ITK is to read them", name,
        )  # fmt: skip


def forms_differ_mm(header: nib.Nifti1Header) -> float:
    """How far apart, at most, the sform and the rest of a header place a voxel; 0 without sform.

    The rest is the qform where it is set, else the voxel size, which ITK takes with the directions
    of the sform. Infinity where the qform is damaged.
    """
    shape = space_shape(header)
    if shape is None or int(header["sform_code"]) <= 0:
        return 0.0
    corners = np.array(list(np.ndindex(*[2] * 3))) * (np.array([*shape, 1][:3]) - 1)
    sform = header.get_sform()
    try:
        rest = header.get_qform() if int(header["qform_code"]) > 0 else _sized(sform, header)
    except (ValueError, HeaderDataError):
        return np.inf
    apart = sform - rest
    moved = corners @ apart[:3, :3].T + apart[:3, 3]
    worst = float(np.linalg.norm(moved, axis=1).max()) * _unit_mm(header)
    return worst if np.isfinite(worst) else np.inf


def _sized(matrix: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    """A placement's directions with the voxel size that the header gives beside it."""
    found = np.linalg.norm(matrix[:3, :3], axis=0)
    sized = matrix.copy()
    sized[:3, :3] *= np.abs(header["pixdim"][1:4].astype(float)) / np.where(found > 0, found, 1)
    return sized


def _itk_refuses(header: nib.Nifti1Header) -> bool:
    """Whether a volume has a sheared sform and nothing else."""
    if int(header["sform_code"]) <= 0 or int(header["qform_code"]) > 0:
        return False
    sform = header.get_sform()
    return _has_place(sform, 3) and _is_sheared(sform, _ITK_SHEAR)


def _has_place(matrix: np.ndarray, ndim: int) -> bool:
    """Whether a (4, 4) placement is finite, its voxels have a size and its axes are independent."""
    if not np.isfinite(matrix).all():
        return False
    with np.errstate(over="ignore"):  # infinite is refused as well
        sizes = np.linalg.norm(matrix[:3, :ndim], axis=0)
    sensible = bool(((sizes > _SMALLEST_MM) & (sizes < _LARGEST_MM)).all())
    return sensible and np.linalg.matrix_rank(matrix[:3, :ndim]) == ndim


def _is_on(like: nib.Nifti1Header, geometry: Geometry) -> bool:
    try:
        return read_placement(like, "like").same_as(geometry)
    except BadInput:
        return False


def _unit_mm(header: nib.Nifti1Header) -> float:
    return _MM_OF_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)


def _matrix_mm(header: nib.Nifti1Header, name: object) -> np.ndarray:
    """(4, 4) voxel index to RAS mm."""
    try:
        if int(header["sform_code"]) > 0:
            matrix = np.array(header.get_sform(), dtype=np.float64)
        elif int(header["qform_code"]) > 0:
            matrix = np.array(header.get_qform(), dtype=np.float64)
        else:
            spacing = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
            matrix = np.diag([*np.where(spacing > 0, spacing, 1.0) * (-1, -1, 1), 1.0])
    except (ValueError, HeaderDataError) as error:
        raise BadInput(
            f"{name}: the orientation in its header is damaged ({error}); export the scan again",
            kind="no-place",
        ) from error
    matrix[:3] *= _unit_mm(header)
    return matrix


def _rotation_to_plane(matrix: np.ndarray) -> tuple[np.ndarray, int]:
    """The smallest rotation of a slice's plane onto world axes, and the world axis across."""
    normal = np.cross(matrix[:3, 0], matrix[:3, 1])
    normal = normal / np.linalg.norm(normal)
    axis = int(np.argmax(np.abs(normal)))
    target = np.zeros(3)
    target[axis] = np.sign(normal[axis])
    x, y, z = np.cross(normal, target)
    turn = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + turn + turn @ turn / (1 + normal @ target), axis


def _flatten(matrix: np.ndarray) -> np.ndarray:
    """(3, 3) placement of a slice in its plane, from its (4, 4) placement in space."""
    rotation, axis = _rotation_to_plane(matrix)
    keep = [n for n in range(3) if n != axis]
    flat = np.eye(3)
    flat[:2] = (rotation @ matrix[:3])[keep][:, [0, 1, 3]]
    return flat


def _spatial(affine: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
    """(4, 4) placement of a grid; a slice lies in the plane of `like`, or at the third axis' 0."""
    if affine.shape == (4, 4):
        return affine.copy()
    rotation, axis, across = np.eye(3), 2, 0.0
    if like is not None:
        rotation, axis = _rotation_to_plane(like)
        across = float((rotation @ like[:3, 3])[axis])
    keep = [n for n in range(3) if n != axis]
    turned = np.zeros((3, 4))
    turned[np.ix_(keep, [0, 1, 3])] = affine[:2]
    turned[axis, 2:] = 1.0, across
    matrix = np.eye(4)
    matrix[:3] = rotation.T @ turned
    return matrix


def _place(
    header: nib.Nifti1Header, ndim: int, matrix_mm: np.ndarray, codes: tuple[int, int]
) -> None:
    """Set sform and qform to a placement in mm, in the header's own unit, with these codes."""
    matrix = matrix_mm.copy()
    matrix[:3] /= _unit_mm(header)
    qform, sform = codes
    if qform <= 0 and sform <= 0:
        qform = sform = 1  # neither was set in `like`, but this grid needs its placement said
    header.set_sform(matrix, max(sform, 1 if qform <= 0 or _is_sheared(matrix) else 0))
    header.set_qform(matrix, 0 if _is_sheared(matrix) else max(qform, 0))
    header["pixdim"][1 : ndim + 1] = np.linalg.norm(matrix[:3, :ndim], axis=0)


def _is_sheared(matrix: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Whether the axes are not at right angles, which a qform cannot say."""
    columns = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return not np.allclose(columns.T @ columns, np.eye(3), atol=tolerance)
