"""ITK's and ANTs' MATLAB-4 transform files (.mat): linear maps."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io.transforms.itk import FIELD, Record, parse_type

_HEADER = 20
_TYPES = {0: "<f8", 10: "<f4", 1000: ">f8", 1010: ">f4"}  # MATLAB's code: byte order, precision
_LONGEST_NAME = 256


def encode(records: Sequence[Record]) -> bytes:
    """The bytes of a file with one linear map; ITK reads one transform from such a file."""
    if len(records) != 1 or records[0].kind == FIELD:
        raise BadInput("a .mat file holds one affine map; write a chain or a field as .h5")
    (record,) = records
    return _matrix(record.type_name, record.numbers) + _matrix("fixed", record.fixed)


def _matrix(name: str, values: np.ndarray) -> bytes:
    text = name.encode() + b"\0"
    header = struct.pack("<5i", 0, len(values), 1, 0, len(text))
    return header + text + values.astype("<f8").tobytes()


def decode(content: bytes, path: object) -> list[Record]:
    """The record of a file; BadInput if it is no such file."""
    name, numbers, rest = _read(content, path)
    _, fixed, _ = _read(rest, path)
    kind, ndim = parse_type(name, path)
    return [Record(kind, ndim, fixed, numbers)]


def _read(content: bytes, path: object) -> tuple[str, np.ndarray, bytes]:
    """Name and values of the first matrix, and what follows it."""
    damaged = BadInput(
        f"{path}: damaged, or not a transform in a MATLAB-4 file; copy or write it again, or "
        "convert a matrix of FSL with --from fsl"
    )
    if len(content) < _HEADER:
        raise damaged
    order = "<" if struct.unpack("<i", content[:4])[0] in _TYPES else ">"
    code, rows, columns, imaginary, length = struct.unpack(f"{order}5i", content[:_HEADER])
    dtype = np.dtype(_TYPES.get(code, "<f8"))
    size = rows * columns * dtype.itemsize
    start = _HEADER + length
    sensible = code in _TYPES and imaginary == 0 and min(rows, columns) >= 0
    if not sensible or not 0 < length <= _LONGEST_NAME or len(content) < start + size:
        raise damaged
    name = content[_HEADER:start].rstrip(b"\0").decode("ascii", errors="replace")
    values = np.frombuffer(content[start : start + size], dtype).astype(np.float64)
    return name, values, content[start + size :]
