"""NIfTI files (.nii, .nii.gz): headers and arrays, in and out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from deepatlas.errors import BadInput
from deepatlas.io.atomic import replacing
from deepatlas.io.packing import DAMAGED, LEVEL, gzip

_GZIP = b"\x1f\x8b"
_NIFTI2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))  # how such a file begins


def is_nifti(path: Path | str) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return Path(path).name.lower().endswith((".nii", ".nii.gz"))


def read_content(path: Path) -> bytes:
    """The bytes of a file; BadInput if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the file") from error


def write_array(path: Path, data: np.ndarray, header: nib.Nifti1Header) -> None:
    """Write an array under a header made by `placed`.

    The same input gives the same bytes with the same libraries.
    """
    if not is_nifti(path):
        raise BadInput(f"{path}: a NIfTI file's name ends in .nii or .nii.gz; rename it")
    header.set_data_dtype(data.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(data.reshape(header.get_data_shape()), None, header, dtype=data.dtype)
    path = Path(path)
    with replacing(path, size=data.nbytes) as aside, aside.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # no time and no name inside, so that the same scan gives the same bytes
            with gzip.GzipFile("", "wb", compresslevel=LEVEL, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def unpacked(content: bytes, path: Path) -> bytes:
    """A file's bytes, unpacked where they are gzip; BadInput if that is damaged."""
    if content[:2] != _GZIP:
        return content
    with _damage(path):
        return gzip.decompress(content)


def unpacked_start(file: BinaryIO, size: int, path: Path) -> bytes:
    """The first `size` bytes of an open file, unpacked where it is gzip."""
    is_packed = file.read(2) == _GZIP
    file.seek(0)
    with _damage(path):
        stream = gzip.GzipFile(fileobj=file) if is_packed else file
        return stream.read(size)


def read_header(path: Path) -> nib.Nifti1Header:
    """The header of a NIfTI file, without its voxels; BadInput if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return _header_in(file, path)
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the file") from error


def decode_header(content: bytes, path: Path) -> nib.Nifti1Header:
    """`read_header` of a file's bytes; `path` is named in errors."""
    return _header_in(io.BytesIO(content), path)


def _header_in(file: BinaryIO, path: Path) -> nib.Nifti1Header:
    """The header at the start of an open file, packed or not."""
    return _parse_header(unpacked_start(file, nib.Nifti2Header.sizeof_hdr, path), path)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file causes into one sentence."""
    try:
        yield
    except DAMAGED as error:
        raise BadInput(
            f"{path}: damaged or truncated gzip file ({error}); copy or export it again",
            kind="truncated",
        ) from error


def _parse_header(start: bytes, path: Path) -> nib.Nifti1Header:
    kind = nib.Nifti2Header if start[:4] in _NIFTI2 else nib.Nifti1Header
    if len(start) < kind.sizeof_hdr:
        raise BadInput(
            f"{path}: {'truncated' if start else 'is empty'}; copy or export it again",
            kind="truncated",
        )
    try:
        header = kind.from_fileobj(io.BytesIO(start[: kind.sizeof_hdr]))
        if header["magic"].item().rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
            raise ValueError("the header is not that of a single NIfTI file")
        header.get_data_dtype()
        if int(header.get_data_offset()) < 0:
            raise ValueError("its voxels would begin before the file")
    except (ValueError, OverflowError, OSError, HeaderDataError, WrapStructError) as error:
        raise BadInput(
            f"{path}: not a NIfTI file or damaged ({error}); export it again as .nii.gz"
        ) from error
    return header


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Header and scaled values of a file's bytes."""
    content = unpacked(content, path)
    header = _parse_header(content[: nib.Nifti2Header.sizeof_hdr], path)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise BadInput(
            f"{path}: holds {'complex numbers' if dtype.kind == 'c' else 'colours'}; "
            "expected one grey value a voxel: convert it",
            kind="not-grey",
        )
    shape = tuple(int(n) for n in header.get_data_shape())
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    offset = int(header.get_data_offset())
    if min(shape, default=0) < 0 or len(content) < offset + size:
        raise BadInput(
            f"{path}: truncated: {max(len(content) - offset, 0)} of {size} bytes of voxels "
            "are there; copy or export it again",
            kind="truncated",
        )
    with _damage(path):
        values = np.asanyarray(nib.arrayproxy.ArrayProxy(io.BytesIO(content), header))
    return header, values
