"""Grey pictures (.png, .tif, .tiff) as 2-D scans: first axis along a row, pixels of 1 mm.

Axes and origin are those that ITK gives such a file. The resolution that some files carry is that
of a screen or printer more often than that of the scan, and is not used.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from deepatlas.errors import BadInput
from deepatlas.io.header import from_other_format

_SAMPLE_FORMAT, _BITS = 339, 258  # tags of TIFF
_KINDS = {1: "u", 2: "i", 3: "f"}
_PLACE = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK: to the left and back
_GREY = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_lock = threading.Lock()


def decode_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What a file's bytes say of its axes and type.

    Raises
    ------
    BadInput : damaged, colours, or several pages.
    """
    with _opened(content, path) as picture:
        return _header(picture, path)


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and grey values of a file's bytes.

    Raises
    ------
    BadInput : damaged, truncated, colours, or several pages.
    """
    with _opened(content, path) as picture:
        header = _header(picture, path)
        values = np.asarray(picture).astype(_dtype(picture))  # Pillow has few types
    return header, values.T


@contextmanager
def _opened(content: bytes, path: Path) -> Iterator[Image.Image]:
    """The picture; whatever Pillow finds wrong becomes one sentence."""
    try:
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "Truncated|Corrupt|Tag ")  # else a half is read
            with Image.open(io.BytesIO(content), formats=("PNG", "TIFF")) as picture:
                yield picture
    except BadInput:
        raise
    except Exception as error:  # Pillow raises almost anything on damaged files
        raise BadInput(
            f"{path}: not a PNG or TIFF picture or damaged ({error}); copy or export it again"
        ) from error


def _header(picture: Image.Image, path: Path) -> nib.Nifti2Header:
    if picture.mode not in _GREY:
        raise BadInput(
            f"{path}: holds colours or transparency ({picture.mode}); expected one grey value a "
            "pixel: convert it",
            kind="not-grey",
        )
    pages = getattr(picture, "n_frames", 1)
    if pages != 1:
        raise BadInput(
            f"{path}: holds {pages} pages; expected one 2-D scan: save a page as a file of its "
            "own, or the stack as NIfTI",
            kind="several-volumes",
        )
    return from_other_format(picture.size, _dtype(picture), _PLACE, path)


def _dtype(picture: Image.Image) -> np.dtype:
    """The type of the values in the file, which Pillow may hold in another."""
    if picture.mode in ("1", "L") and picture.format == "PNG":
        return np.dtype("uint8")
    if picture.format == "PNG":
        return np.dtype("uint16")
    tags = getattr(picture, "tag_v2", {})
    kind = _KINDS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "u")
    bits = tags.get(_BITS, (1,))[0]
    size = next((n for n in (1, 2, 4, 8) if 8 * n >= bits), 8)
    return np.dtype(f"{kind}{size}")
