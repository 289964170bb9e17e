"""Scans and label maps from and to NIfTI files (.nii, .nii.gz), 2-D and 3-D."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
import torch
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from deepatlas.errors import BadInput
from deepatlas.io.atomic import replacing
from deepatlas.io.header import placed, read_placement
from deepatlas.spatial.geometry import Geometry, Volume

_NAME = re.compile(r"(.*?)(\.nii|\.nii\.gz)", re.IGNORECASE | re.DOTALL)
_GZIP = b"\x1f\x8b"
_INTEGERS = (np.uint8, np.int16, np.int32, np.int64)  # what a float file's whole values become
_NIFTI2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))  # how such a file begins
_WHOLE = 1e-3  # a scaled label this near to a whole number is that number


def is_nifti(path: Path | str) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return _NAME.fullmatch(Path(path).name) is not None


def scan_id(path: Path | str) -> str:
    """The file's name without .nii or .nii.gz and without nnU-Net's `_0000`."""
    name = Path(path).name
    match = _NAME.fullmatch(name)
    return (match[1] if match else name).removesuffix("_0000")


def read_content(path: Path) -> bytes:
    """The bytes of a file; BadInput if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the file") from error


def read_image(path: Path) -> Volume:
    """A scan as float32, its scaling applied; BadInput if it cannot be read."""
    return decode_image(read_content(path), path)


def read_labels(path: Path) -> tuple[Volume, np.dtype]:
    """A label map as int64, and the integer type that it has on disk.

    A float file whose values are whole counts as the smallest fitting of uint8, int16, int32
    and int64.

    Raises
    ------
    BadInput : the file cannot be read, or holds NaN or fractions.
    """
    return decode_labels(read_content(path), path)


def read_geometry(path: Path) -> Geometry:
    """The grid of a scan from its header alone; BadInput if that cannot be read."""
    return read_placement(read_header(path), path)


def decode_geometry(content: bytes, path: Path) -> Geometry:
    """`read_geometry` of a file's bytes; `path` is named in errors."""
    return read_placement(_header_in(io.BytesIO(content), path), path)


def decode_image(content: bytes, path: Path) -> Volume:
    """`read_image` of a file's bytes; `path` is named in errors."""
    header, values = decode_array(content, path)
    geometry = read_placement(header, path)
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the check reports
        image = values.reshape(geometry.shape).astype(np.float32)
    return Volume(torch.from_numpy(np.ascontiguousarray(image)), geometry)


def decode_labels(content: bytes, path: Path) -> tuple[Volume, np.dtype]:
    """`read_labels` of a file's bytes; `path` is named in errors."""
    header, values = decode_array(content, path)
    geometry = read_placement(header, path)
    if values.dtype.kind == "f":
        values = _whole(values, path)
        dtype = _smallest(values)
    else:
        dtype = values.dtype.newbyteorder("=")
        if dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise BadInput(f"{path}: label values above 2^63 - 1; renumber them")
    labels = values.reshape(geometry.shape).astype(np.int64)
    return Volume(torch.from_numpy(np.ascontiguousarray(labels)), geometry), dtype


def write_image(
    path: Path, volume: Volume, like: Path | None = None, dtype: np.dtype | str = "float32"
) -> None:
    """Write a scan, with codes and units of the file `like`; gzip if named .gz.

    Values of an integer `dtype` are rounded and clipped to its range.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    """
    data, dtype = volume.data.detach().cpu().numpy(), np.dtype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        data = np.rint(data.astype(np.float64)).clip(limits.min, limits.max)
        data = np.where(data >= float(limits.max), limits.max, data.astype(dtype))
    write_array(path, data.astype(dtype), placed(volume.geometry, _header_of(like)))


def write_labels(
    path: Path, volume: Volume, dtype: np.dtype | str, like: Path | None = None
) -> None:
    """Write a label map in an integer type, with codes and units of the file `like`.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    ValueError : a label does not fit into `dtype`.
    """
    labels = volume.data.detach().cpu().numpy()
    dtype = np.dtype(dtype)
    if dtype.kind not in "iu" or labels.dtype.kind not in "iub":
        raise ValueError(f"labels are integers on disk and in memory; got {labels.dtype}, {dtype}")
    if labels.size and not (
        np.iinfo(dtype).min <= int(labels.min()) and int(labels.max()) <= np.iinfo(dtype).max
    ):
        raise ValueError(f"labels {labels.min()} to {labels.max()} do not fit into {dtype}")
    write_array(path, labels.astype(dtype), placed(volume.geometry, _header_of(like)))


def write_array(path: Path, data: np.ndarray, header: nib.Nifti1Header) -> None:
    """Write an array under a header made by `placed`; the same bytes for the same input."""
    if not is_nifti(path):
        raise BadInput(f"{path}: a NIfTI file's name ends in .nii or .nii.gz; rename it")
    header.set_data_dtype(data.dtype)
    image = nib.Nifti1Image(data.reshape(header.get_data_shape()), None, header, dtype=data.dtype)
    path = Path(path)
    with replacing(path, size=data.nbytes) as aside, aside.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # no time and no name inside, so that the same scan gives the same bytes
            with gzip.GzipFile("", "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def read_header(path: Path) -> nib.Nifti1Header:
    """The header of a NIfTI file, without its voxels; BadInput if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return _header_in(file, path)
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); check the file") from error


def _header_in(file: BinaryIO, path: Path) -> nib.Nifti1Header:
    """The header at the start of an open file, packed or not."""
    is_packed = file.read(2) == _GZIP
    file.seek(0)
    with _damage(path):
        stream = gzip.GzipFile(fileobj=file) if is_packed else file
        start = stream.read(nib.Nifti2Header.sizeof_hdr)
    return _parse_header(start, path)


def _header_of(like: Path | None) -> nib.Nifti1Header | None:
    return None if like is None else read_header(like)


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file causes into one sentence."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(
            f"{path}: damaged or truncated gzip file ({error}); copy or export it again"
        ) from error


def _parse_header(start: bytes, path: Path) -> nib.Nifti1Header:
    kind = nib.Nifti2Header if start[:4] in _NIFTI2 else nib.Nifti1Header
    if len(start) < kind.sizeof_hdr:
        raise BadInput(f"{path}: {'truncated' if start else 'is empty'}; copy or export it again")
    try:
        header = kind.from_fileobj(io.BytesIO(start[: kind.sizeof_hdr]))
        if header["magic"].item().rstrip(b"\0")[:3] not in (b"n+1", b"n+2"):
            raise ValueError("the header is not that of a single NIfTI file")
        header.get_data_dtype()
    except (ValueError, OSError, HeaderDataError, WrapStructError) as error:
        raise BadInput(
            f"{path}: not a NIfTI file or damaged ({error}); export it again as .nii.gz"
        ) from error
    return header


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti1Header, np.ndarray]:
    """Header and scaled values of a file's bytes."""
    if content[:2] == _GZIP:
        with _damage(path):
            content = gzip.decompress(content)
    header = _parse_header(content[: nib.Nifti2Header.sizeof_hdr], path)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise BadInput(
            f"{path}: holds {'complex numbers' if dtype.kind == 'c' else 'colours'}; "
            "expected one grey value a voxel: convert it"
        )
    shape = tuple(int(n) for n in header.get_data_shape())
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    offset = int(header.get_data_offset())
    if min(shape, default=0) < 0 or len(content) < offset + size:
        raise BadInput(
            f"{path}: truncated: {max(len(content) - offset, 0)} of {size} bytes of voxels "
            "are there; copy or export it again"
        )
    with _damage(path):
        values = np.asanyarray(nib.arrayproxy.ArrayProxy(io.BytesIO(content), header))
    return header, values


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Float labels as int64."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise BadInput(
            f"{path}: {int(wrong.sum())} of {values.size} label voxels are NaN or infinite; "
            "labels are integers: set them to 0 or mend the map"
        )
    nearest = np.rint(values)
    wrong = np.abs(values - nearest) > _WHOLE
    if wrong.any():
        example = float(values[wrong].flat[0])
        raise BadInput(
            f"{path}: {int(wrong.sum())} of {values.size} label voxels are fractions, such as "
            f"{example:.4g}; labels are integers: resample label maps with nearest neighbour"
        )
    if values.size and np.abs(nearest).max() >= 2.0**63:
        raise BadInput(f"{path}: label values above 2^63 - 1; renumber them")
    return nearest.astype(np.int64)


def _smallest(labels: np.ndarray) -> np.dtype:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    fitting = (k for k in _INTEGERS if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return np.dtype(next(fitting))
