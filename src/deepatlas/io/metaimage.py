"""MetaImage files (.mha, .mhd), as ITK reads them; LPS becomes RAS here.

The header is lines of `key = value` up to `ElementDataFile`. It is read here and not by ITK, which
some damaged headers bring down together with the process.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io import nifti
from deepatlas.io.header import from_other_format
from deepatlas.io.voxels import as_values, not_grey, unpacked

_VOXELS = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*(?:\r?\n|\Z)", re.M)
_TYPES = {
    "MET_CHAR": "int8", "MET_UCHAR": "uint8", "MET_SHORT": "int16", "MET_USHORT": "uint16",
    "MET_INT": "int32", "MET_UINT": "uint32", "MET_LONG": "int32", "MET_ULONG": "uint32",
    "MET_LONG_LONG": "int64", "MET_ULONG_LONG": "uint64", "MET_FLOAT": "float32",
    "MET_DOUBLE": "float64",
}  # fmt: skip
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_content(path: Path) -> bytes:
    """The bytes of a MetaImage as one file, also where its voxels lie in another (.mhd).

    Raises
    ------
    BadInput : a file cannot be read, or the voxels are spread over several files.
    """
    content = nifti.read_content(path)
    named = _VOXELS.search(content)
    if named is None or named[1].upper() == b"LOCAL":
        return content
    name = os.fsdecode(named[1])
    fields = _fields(content[: named.start()])
    if name.upper().startswith("LIST") or "%" in name or fields.get("HeaderSize", "0") != "0":
        raise BadInput(
            f"{path}: its voxels lie in several files or behind another header; "
            "save the scan as one .mha file"
        )
    try:
        voxels = nifti.read_content(Path(path).parent / name)
    except (BadInput, ValueError) as error:
        raise BadInput(f"{path}: names {name!r} as the file of its voxels, and {error}") from None
    return content[: named.start()] + b"ElementDataFile = LOCAL\n" + voxels


def decode_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What the bytes of a MetaImage say of its axes, place and type.

    Raises
    ------
    BadInput : damaged, no such file, or not one grey value a voxel.
    """
    return _header(_split(content, path)[0], path)


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and values of the bytes of a MetaImage.

    Raises
    ------
    BadInput : damaged, truncated, no such file, or not one grey value a voxel.
    """
    fields, voxels = _split(content, path)
    header = _header(fields, path)
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    is_text = not _is_true(fields.get("BinaryData", "True"))
    if _is_true(fields.get("CompressedData", "False")):
        voxels = unpacked(voxels, math.prod(shape) * dtype.itemsize, path)
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    dtype = dtype.newbyteorder(">" if _is_true(order) else "<")
    return header, as_values(voxels, dtype, shape, path, is_text=is_text)


def _split(content: bytes, path: Path) -> tuple[dict[str, str], bytes]:
    """The fields of the header, and the voxels."""
    end = _VOXELS.search(content)
    if end is None or end[1].upper() != b"LOCAL":
        raise BadInput(f"{path}: not a MetaImage or damaged; export it again as .mha")
    return _fields(content[: end.start()]), content[end.end() :]


def _fields(header: bytes) -> dict[str, str]:
    pairs = [line.partition("=") for line in header.decode("latin1").splitlines()]
    return {key.strip(): value.strip() for key, sign, value in pairs if sign}


def _header(fields: dict[str, str], path: Path) -> nib.Nifti2Header:
    kind = fields.get("ElementType", "")
    if fields.get("ElementNumberOfChannels", "1") != "1" or kind.endswith("_ARRAY"):
        raise not_grey(path)
    try:
        n = int(fields["NDims"])
        shape = [int(word) for word in fields["DimSize"].split()]
        spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), np.ones(n))
        origin = _numbers(fields, ("Offset", "Position", "Origin"), np.zeros(n))
        axes = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), np.eye(n).ravel())
        if not 2 <= n <= 4 or len(shape) != n:
            raise ValueError(f"NDims = {n}, DimSize = {fields['DimSize']}")
        dtype = np.dtype(_TYPES[kind])
    except (KeyError, ValueError) as error:
        raise BadInput(
            f"{path}: not a MetaImage of grey values, or its header is damaged ({error}); "
            "export it again as .mha"
        ) from error
    d, lps = min(n, 3), np.eye(4)
    lps[:d, :d] = (axes.reshape(n, n).T * spacing)[:d, :d]  # a row of the file is an axis
    lps[:d, 3] = origin[:d]
    return from_other_format(shape, dtype, _LPS @ lps, path)


def _numbers(fields: dict[str, str], names: tuple[str, ...], default: np.ndarray) -> np.ndarray:
    """The numbers of the first of the names that is there; ValueError if there are not enough."""
    found = next((fields[name] for name in names if name in fields), None)
    if found is None:
        return default
    numbers = np.array([float(word) for word in found.split()])
    if len(numbers) != len(default):
        raise ValueError(f"{names[0]} = {found}")
    return numbers


def _is_true(value: str) -> bool:
    return value[:1] in ("T", "t", "1")
