"""NRRD files with their voxels in them (.nrrd), as ITK reads them; RAS and LAS stay what they say.

http://teem.sourceforge.net/nrrd/format.html; the header is parsed by pynrrd.
"""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io.header import from_other_format
from deepatlas.io.voxels import as_values, not_grey, unpacked

_END = re.compile(rb"\r?\n\r?\n")
_TYPES = {
    "int8": ("signed char", "int8", "int8_t"),
    "uint8": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "int16": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "uint16": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "int32": ("int", "signed int", "int32", "int32_t"),
    "uint32": ("uint", "unsigned int", "uint32", "uint32_t"),
    "int64": (
        "longlong", "long long", "long long int", "signed long long", "signed long long int",
        "int64", "int64_t",
    ),
    "uint64": (
        "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t",
    ),
    "float32": ("float",),
    "float64": ("double",),
}  # fmt: skip
_TYPE = {name: np.dtype(dtype) for dtype, names in _TYPES.items() for name in names}
_TO_RAS = {  # of the first three world axes; what names no patient is LPS, as to ITK
    "right-anterior-superior": (1, 1, 1), "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1), "las": (-1, 1, 1),
}  # fmt: skip
_TEXT, _GZIP = ("ascii", "text", "txt"), ("gzip", "gz")


def decode_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What the bytes of an NRRD file say of its axes, place and type.

    Raises
    ------
    BadInput : damaged, no such file, or not one grey value a voxel.
    """
    return _header(_split(content, path)[0], path)


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and values of the bytes of an NRRD file.

    Raises
    ------
    BadInput : damaged, truncated, no such file, or not one grey value a voxel.
    """
    fields, voxels = _split(content, path)
    header = _header(fields, path)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    encoding = str(fields.get("encoding")).lower()
    if encoding not in ("raw", *_TEXT, *_GZIP) or any(
        fields.get(name, 0) for name in ("byte skip", "byteskip", "line skip", "lineskip")
    ):
        raise BadInput(
            f"{path}: its voxels are stored in a way that is not read here ({encoding}, or some "
            "are skipped); save the scan with the encoding gzip"
        )
    if encoding in _GZIP:
        voxels = unpacked(voxels, math.prod(shape) * dtype.itemsize, path)
    dtype = dtype.newbyteorder(">" if str(fields.get("endian")).lower() == "big" else "<")
    return header, as_values(voxels, dtype, shape, path, is_text=encoding in _TEXT)


def _split(content: bytes, path: Path) -> tuple[dict[str, Any], bytes]:
    """The fields of the header, and the voxels."""
    end = _END.search(content)
    if end is None or content[:4] != b"NRRD":
        raise BadInput(f"{path}: not an NRRD file or damaged; export it again as .nrrd")
    try:
        fields = dict(nrrd.read_header(io.BytesIO(content[: end.end()])))
    except Exception as error:  # pynrrd raises nearly anything for a damaged header
        raise _damaged(path, error) from error
    if "data file" in fields or "datafile" in fields:
        raise BadInput(f"{path}: its voxels lie in another file; save the scan as one .nrrd file")
    return fields, content[end.end() :]


def _header(fields: dict[str, Any], path: Path) -> nib.Nifti2Header:
    if str(fields.get("type")).lower() == "block":
        raise not_grey(path)
    try:
        shape = [int(n) for n in fields["sizes"]]
        dtype = _TYPE[str(fields["type"]).lower()]
        n = int(fields["dimension"])
        if not 2 <= n <= 4 or len(shape) != n:
            raise ValueError(f"dimension {n}, sizes {shape}")
        world = fields.get("space directions")
        axes = np.diag(_spacings(fields, n)) if world is None else np.array(world, np.float64)
        if len(axes) != n:
            raise ValueError(f"{len(axes)} space directions")
        if not np.isfinite(axes).all():  # an axis that does not lie in space
            raise not_grey(path)
        w = axes.shape[1]
        origin = np.array(fields.get("space origin", np.zeros(w)), np.float64)
        if origin.shape != (w,) or w < min(n, 3):
            raise ValueError(f"{w} axes of space, origin {origin}")
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    d, placed = min(w, 3), np.eye(4)
    m = min(n, 3)
    placed[:d, :m] = axes.T[:d, :m]
    placed[:d, 3] = origin[:d]
    if m < d:  # a slice in space, whose plane may be any
        with np.errstate(all="ignore"):  # a damaged header is refused below
            across = np.cross(placed[:3, 0], placed[:3, 1])
            placed[:3, 2] = across / (np.linalg.norm(across) or 1.0)
    space = str(fields.get("space", "")).lower().removesuffix("-time").removesuffix("t")
    turn = np.diag([*_TO_RAS.get(space, (-1, -1, 1)), 1.0])
    return from_other_format(shape, dtype, turn @ placed, path)


def _spacings(fields: dict[str, Any], n: int) -> np.ndarray:
    """Spacings of a file that does not say how its axes lie in space."""
    found = np.array(fields.get("spacings", np.ones(n)), np.float64)
    if found.shape != (n,):
        raise ValueError(f"{len(found)} spacings")
    return np.where(np.isfinite(found), found, 1.0)


def _damaged(path: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{path}: not an NRRD file of grey values, or its header is damaged ({error}); "
        "export it again as .nrrd"
    )
