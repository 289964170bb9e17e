"""ITK's HDF5 transform files (.h5): any chain of affine maps and displacement fields."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Sequence

import h5py
import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io.packing import zlib
from deepatlas.io.transforms.itk import COMPOSITE, Record, parse_type

_GROUP = "TransformGroup"
_PACKED = 1000  # numbers from which on they are compressed
_CHUNK = 1 << 18
_LEVEL = 1  # more gains nothing on fields
UNPACKED = 2000  # to one, that numbers are packed at most
_HEAP = b"GCOL\1\0\0\0"


def encode(records: Sequence[Record]) -> bytes:
    """The bytes of a file; several records become a composite, which ITK applies last to first."""
    content = io.BytesIO()
    stored = list(records)
    if len(stored) > 1:
        stored = [Record(COMPOSITE, stored[0].ndim), *reversed(stored)]
    with h5py.File(content, "w") as file:
        file["ITKVersion"] = _text("5.4")
        file["HDFVersion"] = _text(h5py.version.hdf5_version)
        file["OSName"], file["OSVersion"] = _text("any"), _text("any")
        for number, record in enumerate(stored):
            group = file.create_group(f"{_GROUP}/{number}")
            group["TransformType"] = _text(record.type_name)
            if record.kind != COMPOSITE:
                group["TransformFixedParameters"] = record.fixed
                _write_numbers(group, record)
    return content.getvalue()


def _text(value: str) -> np.ndarray:
    return np.array([value.encode()], dtype=h5py.string_dtype("ascii"))


def _write_numbers(group: h5py.Group, record: Record) -> None:
    if len(record.numbers) > _PACKED:
        write_packed(group, "TransformParameters", record.numbers)
    else:
        group["TransformParameters"] = record.numbers


def write_packed(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """A dataset packed lightly, the bytes of its numbers in order of significance.

    What HDF5's own filters would store, in chunks along the first axis, by a faster library.
    """
    each = math.prod(values.shape[1:])
    rows = min(len(values), max(1, _CHUNK // each))
    chunk = np.zeros((rows, *values.shape[1:]), values.dtype)
    packed = group.create_dataset(
        name, values.shape, values.dtype, chunks=chunk.shape, compression="gzip",
        compression_opts=_LEVEL, shuffle=True,
    )  # fmt: skip
    for first in range(0, len(values), rows):
        some = values[first : first + rows]
        chunk[: len(some)] = some
        chunk[len(some) :] = 0
        by_significance = chunk.reshape(-1, 1).view(np.uint8).T
        corner = (first, *[0] * (values.ndim - 1))
        packed.id.write_direct_chunk(corner, zlib.compress(by_significance.tobytes(), _LEVEL))


def decode(content: bytes, path: object) -> list[Record]:
    """The records of a file in order of application; BadInput if it is no such file."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            group = file[_GROUP]
            records = [_read(group[str(number)], path, content) for number in range(len(group))]
    except BadInput:
        raise
    except Exception as error:  # h5py raises nearly anything for a damaged file
        raise BadInput(
            f"{path}: damaged, or not an ITK transform in HDF5 ({error}); copy or write it again"
        ) from error
    return [record for record in reversed(records) if record.kind != COMPOSITE]


def _read(group: h5py.Group, path: object, content: bytes) -> Record:
    """A record; its numbers are no more than the file's bytes could have been packed from."""
    kind, ndim = parse_type(_word(group["TransformType"], content), path)
    if kind == COMPOSITE:
        return Record(kind, ndim)
    fixed, numbers = (
        group[name if name in group else name.replace("sform", "form")]  # of older ITK
        for name in ("TransformFixedParameters", "TransformParameters")
    )
    if fixed.nbytes + numbers.nbytes > len(content) * UNPACKED:
        raise ValueError(f"it claims {fixed.size + numbers.size} numbers")
    fixed, numbers = fixed[()], numbers[()]
    return Record(kind, ndim, np.asarray(fixed, np.float64).ravel(), np.asarray(numbers).ravel())


def _word(dataset: h5py.Dataset, content: bytes) -> str:
    """The one string of a dataset.

    One of variable length is looked up in the file's bytes (a heap, in the terms of HDF5), because
    the library never returns, or ends the process, where a few of them are damaged.
    """
    kind = h5py.check_string_dtype(dataset.dtype)
    if kind is None or dataset.size != 1:
        raise ValueError("its type is no text")
    if kind.length is not None:
        return bytes(np.ravel(dataset[()])[0]).decode("ascii")
    start = dataset.id.get_offset()
    length, heap, wanted = struct.unpack_from("<IQI", content, -1 if start is None else start)
    for number, start, size in _objects(content, heap):
        if number == wanted and length <= size:
            return content[start : start + length].rstrip(b"\0").decode("ascii")
    raise ValueError("its type is not there")


def _objects(content: bytes, heap: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and size of what a global heap of HDF5 holds; ValueError if damaged.

    Source: HDF5 File Format Specification, III.E.
    """
    if content[heap : heap + 5] != b"GCOL\1":
        raise ValueError("a heap is damaged")
    (size,) = struct.unpack_from("<Q", content, heap + 8)
    at, end = heap + 16, heap + size
    if end > len(content):
        raise ValueError("a heap is cut")
    while at + 16 <= end:
        number, size = struct.unpack_from("<H6xQ", content, at)
        if number == 0 and at + size == end:  # the room that is left
            return
        if number == 0 or at + 16 + size > end:
            raise ValueError("a heap is damaged")
        yield number, at + 16, size
        at += 16 + (size + 7) // 8 * 8


def check_heaps(content: bytes) -> None:
    """ValueError where a global heap of a file is damaged, before HDF5 reads texts in it."""
    heap = content.find(_HEAP)
    while heap >= 0:
        for _ in _objects(content, heap):
            pass
        heap = content.find(_HEAP, heap + 1)
