"""Voxels that follow a text header: bytes in, values out, with sizes checked first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deepatlas.errors import BadInput
from deepatlas.io.packing import DAMAGED, zlib


def unpacked(content: bytes, size: int, path: object) -> bytes:
    """What zlib or gzip packed, at most one byte more than the `size` that is expected.

    Raises
    ------
    BadInput : damaged or truncated; checksums are looked at.
    """
    opened = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        found = opened.decompress(content, size + 1)
        found += opened.decompress(opened.unconsumed_tail, 1) if len(found) == size else b""
        if not opened.eof and len(found) <= size:
            raise EOFError("incomplete")
    except DAMAGED as error:
        raise BadInput(
            f"{path}: its packed voxels are damaged or truncated ({error}); "
            "copy or export it again",
            kind="truncated",
        ) from error
    return found


def as_values(
    content: bytes, dtype: np.dtype, shape: Sequence[int], path: object, *, is_text: bool = False
) -> np.ndarray:
    """Values (*shape), the first axis the fastest in the file.

    Raises
    ------
    BadInput : fewer values than the header promises, or text that is no numbers.
    """
    count = math.prod(shape)
    if is_text:
        if len(content) < count:  # a digit a value, and no memory for more than there are
            raise _truncated(len(content), count * dtype.itemsize, path)
        words = content.split(maxsplit=count)[:count]
        if len(words) < count:
            raise _truncated(len(words) * dtype.itemsize, count * dtype.itemsize, path)
        try:
            return np.array(words).astype(dtype).reshape(shape, order="F")
        except ValueError as error:
            raise BadInput(
                f"{path}: its voxels are no numbers ({error}); export it again"
            ) from error
    if len(content) < count * dtype.itemsize:
        raise _truncated(len(content), count * dtype.itemsize, path)
    return np.frombuffer(content, dtype, count).reshape(shape, order="F")


def _truncated(found: int, expected: int, path: object) -> BadInput:
    return BadInput(
        f"{path}: truncated: {found} of {expected} bytes of voxels are there; "
        "copy or export it again",
        kind="truncated",
    )


def not_grey(path: object) -> BadInput:
    """The refusal of colours and vectors."""
    return BadInput(
        f"{path}: holds colours, vectors or complex numbers; "
        "expected one grey value a voxel: convert it",
        kind="not-grey",
    )
