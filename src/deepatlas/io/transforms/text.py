"""ITK's text transform files (.tfm, .txt): linear maps and chains of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io.transforms.itk import COMPOSITE, FIELD, Record, parse_type

_FIRST = "#Insight Transform File V1.0"


def encode(records: Sequence[Record]) -> bytes:
    """The bytes of a file; several records become a composite, which ITK applies last to first."""
    if any(record.kind == FIELD for record in records):
        raise BadInput("a text file holds affine maps only; write a field as .h5")
    stored = list(records)
    if len(stored) > 1:
        stored = [Record(COMPOSITE, stored[0].ndim), *reversed(stored)]
    lines = [_FIRST]
    for number, record in enumerate(stored):
        lines += [f"#Transform {number}", f"Transform: {record.type_name}"]
        if record.kind != COMPOSITE:
            lines += [f"Parameters: {_words(record.numbers)}"]
            lines += [f"FixedParameters: {_words(record.fixed)}"]
    return ("\n".join(lines) + "\n").encode()


def _words(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)


def decode(content: bytes, path: object) -> list[Record]:
    """The records of a file in order of application; BadInput if it is no such file."""
    damaged = BadInput(f"{path}: not an ITK transform as text; expected {_FIRST!r} first")
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise damaged from None
    if not lines or lines[0].strip() != _FIRST:
        raise damaged
    found: list[dict[str, str]] = []
    for line in lines[1:]:
        key, colon, value = line.partition(":")
        if not colon or line.startswith("#"):
            continue
        if key.strip() == "Transform":
            found.append({})
        if found:
            found[-1][key.strip()] = value.strip()
    records = [_record(entry, path) for entry in found]
    return [record for record in reversed(records) if record.kind != COMPOSITE]


def _record(entry: dict[str, str], path: object) -> Record:
    kind, ndim = parse_type(entry["Transform"], path)
    try:
        numbers, fixed = (
            np.array([float(word) for word in entry.get(key, "").split()])
            for key in ("Parameters", "FixedParameters")
        )
    except ValueError:
        raise BadInput(f"{path}: its {kind} has words where numbers belong; mend them") from None
    return Record(kind, ndim, fixed, numbers)
