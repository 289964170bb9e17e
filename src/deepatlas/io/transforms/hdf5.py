"""ITK's HDF5 transform files (.h5): any chain of affine maps and displacement fields."""

from __future__ import annotations

import io
from collections.abc import Sequence

import h5py
import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io.transforms.itk import COMPOSITE, Record, parse_type

_GROUP = "TransformGroup"
_PACKED = 1000  # numbers from which on they are compressed
_CHUNK = 1 << 18
UNPACKED = 2000  # to one, that numbers are packed at most


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
    """Parameters; those of fields are packed lightly, their bytes in order of significance."""
    packed = len(record.numbers) > _PACKED
    how = {
        "compression": "gzip", "compression_opts": 1, "shuffle": True,
        "chunks": (min(len(record.numbers), _CHUNK),),
    }  # fmt: skip
    group.create_dataset("TransformParameters", data=record.numbers, **(how if packed else {}))


def decode(content: bytes, path: object) -> list[Record]:
    """The records of a file in order of application; BadInput if it is no such file."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            group = file[_GROUP]
            room = len(content) * UNPACKED
            records = [_read(group[str(number)], path, room) for number in range(len(group))]
    except BadInput:
        raise
    except Exception as error:  # h5py raises nearly anything for a damaged file
        raise BadInput(
            f"{path}: damaged, or not an ITK transform in HDF5 ({error}); copy or write it again"
        ) from error
    return [record for record in reversed(records) if record.kind != COMPOSITE]


def _read(group: h5py.Group, path: object, room: int) -> Record:
    """A record whose numbers take no more than `room` bytes."""
    name = group["TransformType"][0]
    kind, ndim = parse_type(name.decode() if isinstance(name, bytes) else str(name), path)
    if kind == COMPOSITE:
        return Record(kind, ndim)
    fixed, numbers = (
        group[name if name in group else name.replace("sform", "form")]  # of older ITK
        for name in ("TransformFixedParameters", "TransformParameters")
    )
    if fixed.nbytes + numbers.nbytes > room:
        raise ValueError(f"it claims {fixed.size + numbers.size} numbers")
    fixed, numbers = fixed[()], numbers[()]
    return Record(kind, ndim, np.asarray(fixed, np.float64).ravel(), np.asarray(numbers).ravel())
