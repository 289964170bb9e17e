"""FreeSurfer's volumes (.mgh, .mgz): the header through nibabel, the values as they are."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHError, MGHHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from deepatlas.errors import BadInput
from deepatlas.io.header import from_other_format
from deepatlas.io.nifti import unpacked, unpacked_start


def decode_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What a file's bytes say of its axes, place and type.

    Raises
    ------
    BadInput : damaged, or no such file.
    """
    return _parsed(unpacked_start(io.BytesIO(content), DATA_OFFSET, path), path)[0]


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and values of a file's bytes.

    Raises
    ------
    BadInput : damaged, truncated, or no such file.
    """
    content = unpacked(content, path)
    header, dtype = _parsed(content[:DATA_OFFSET], path)
    shape = tuple(int(n) for n in header.get_data_shape())
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    voxels = content[DATA_OFFSET : DATA_OFFSET + size]
    if len(voxels) < size:
        raise BadInput(
            f"{path}: truncated: {len(voxels)} of {size} bytes of voxels are there; "
            "copy or export it again",
            kind="truncated",
        )
    return header, np.frombuffer(voxels, dtype).reshape(shape, order="F")


def _parsed(start: bytes, path: Path) -> tuple[nib.Nifti2Header, np.dtype]:
    """The header, and the type of the values with its byte order."""
    if len(start) < DATA_OFFSET:
        raise BadInput(
            f"{path}: {'truncated' if start else 'is empty'}; copy or export it again",
            kind="truncated",
        )
    try:
        found = MGHHeader(start)
        with np.errstate(all="ignore"):  # a damaged placement is told below
            shape, affine = found.get_data_shape(), found.get_affine()
        dtype = np.dtype(found.get_data_dtype()).newbyteorder(">")
    except (ValueError, KeyError, MGHError, HeaderDataError, WrapStructError) as error:
        raise BadInput(
            f"{path}: not a FreeSurfer volume (.mgh, .mgz) or damaged ({error}); export it again"
        ) from error
    return from_other_format([int(n) for n in shape], dtype, affine, path), dtype
