"""MetaImage (.mha, .mhd) and NRRD files through SimpleITK; LPS becomes RAS here.

ITK gets the bytes that were read, unpacked, in a temporary file: it reads packed voxels that are
damaged without a word, and what it prints about other damage goes to the process' stderr.
"""

from __future__ import annotations

import gzip
import os
import re
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from deepatlas.errors import BadInput, DeepAtlasError
from deepatlas.io import nifti
from deepatlas.io.header import from_other_format

_META_VOXELS = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*(?:\r?\n|\Z)", re.M)
_META_PACKED = re.compile(rb"^CompressedData[ \t]*=[ \t]*(?:True|1)[ \t]*\r?$", re.M | re.I)
_META_PACKED_SIZE = re.compile(rb"^CompressedDataSize[^\n]*\n", re.M)
_META_TEXT = re.compile(rb"^BinaryData[ \t]*=[ \t]*(?:False|0)[ \t]*\r?$", re.M | re.I)
_META_SKIP = re.compile(rb"^HeaderSize[ \t]*=[ \t]*(?!0[ \t]*\r?$)", re.M)
_NRRD_END = re.compile(rb"\r?\n\r?\n")
_NRRD_ELSEWHERE = re.compile(rb"^data ?file:", re.M | re.I)
_NRRD_PACKED = re.compile(rb"^encoding:[ \t]*(?:gz|gzip)[ \t]*\r?$", re.M | re.I)
_NRRD_TEXT = re.compile(rb"^encoding:[ \t]*(?:ascii|text|txt|hex)[ \t]*\r?$", re.M | re.I)
_TYPES = {
    "sitkUInt8": "uint8", "sitkInt8": "int8", "sitkUInt16": "uint16", "sitkInt16": "int16",
    "sitkUInt32": "uint32", "sitkInt32": "int32", "sitkUInt64": "uint64", "sitkInt64": "int64",
    "sitkFloat32": "float32", "sitkFloat64": "float64",
}  # fmt: skip
_TEXT_BYTES = 8  # of a value in memory for one of its characters in a file, at most
_lock = threading.Lock()


@dataclass(frozen=True)
class _Parts:
    """A file's header, changed to say that the voxels that follow it are not packed."""

    kind: str
    header: bytes
    voxels: bytes
    is_text: bool


def read_content(path: Path) -> bytes:
    """The bytes of a MetaImage as one file, also where its voxels lie in another (.mhd).

    Raises
    ------
    BadInput : a file cannot be read, or the voxels are spread over several files.
    """
    content = nifti.read_content(path)
    named = _META_VOXELS.search(content)
    if named is None or named[1].upper() == b"LOCAL":
        return content
    name = os.fsdecode(named[1])
    if name.upper().startswith("LIST") or "%" in name or _META_SKIP.search(content[: named.end()]):
        raise BadInput(
            f"{path}: its voxels lie in several files or behind another header; "
            "save the scan as one .mha file"
        )
    try:
        voxels = nifti.read_content(Path(path).parent / name)
    except (BadInput, ValueError) as error:
        raise BadInput(f"{path}: names {name!r} as the file of its voxels, and {error}") from None
    return content[: named.start()] + b"ElementDataFile = LOCAL\n" + voxels


def metaimage_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What the bytes of a MetaImage say of its axes, place and type.

    Raises
    ------
    BadInput : damaged, no such file, or not one grey value a voxel.
    """
    with _opened(_metaimage(content, path, voxels=False), path) as reader:
        return _header(reader, path)


def decode_metaimage(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and values of the bytes of a MetaImage.

    Raises
    ------
    BadInput : damaged, truncated, no such file, or not one grey value a voxel.
    """
    return _decode(_metaimage(content, path), path)


def nrrd_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What the bytes of an NRRD file say of its axes, place and type.

    Raises
    ------
    BadInput : damaged, no such file, or not one grey value a voxel.
    """
    with _opened(_nrrd(content, path, voxels=False), path) as reader:
        return _header(reader, path)


def decode_nrrd(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and values of the bytes of an NRRD file.

    Raises
    ------
    BadInput : damaged, truncated, no such file, or not one grey value a voxel.
    """
    return _decode(_nrrd(content, path), path)


def _metaimage(content: bytes, path: Path, *, voxels: bool = True) -> _Parts:
    end = _META_VOXELS.search(content)
    if end is None or end[1].upper() != b"LOCAL":
        raise BadInput(f"{path}: not a MetaImage or damaged; export it again as .mha")
    header, data = content[: end.end()], content[end.end() :] if voxels else b""
    if voxels and _META_PACKED.search(header):
        try:
            data = zlib.decompress(data)
        except zlib.error as error:
            raise BadInput(
                f"{path}: its packed voxels are damaged or truncated ({error}); "
                "copy or export it again"
            ) from error
    header = _META_PACKED.sub(b"CompressedData = False", _META_PACKED_SIZE.sub(b"", header))
    return _Parts("Meta", header, data, _META_TEXT.search(header) is not None)


def _nrrd(content: bytes, path: Path, *, voxels: bool = True) -> _Parts:
    end = _NRRD_END.search(content)
    if end is None or content[:4] != b"NRRD":
        raise BadInput(f"{path}: not an NRRD file or damaged; export it again as .nrrd")
    header, data = content[: end.end()], content[end.end() :] if voxels else b""
    if _NRRD_ELSEWHERE.search(header):
        raise BadInput(f"{path}: its voxels lie in another file; save the scan as one .nrrd file")
    if voxels and _NRRD_PACKED.search(header):
        try:
            data = gzip.decompress(data)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadInput(
                f"{path}: its packed voxels are damaged or truncated ({error}); "
                "copy or export it again"
            ) from error
    header = _NRRD_PACKED.sub(b"encoding: raw", header)
    return _Parts("Nrrd", header, data, _NRRD_TEXT.search(header) is not None)


def _decode(parts: _Parts, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    import SimpleITK

    with _opened(parts, path) as reader:
        header = _header(reader, path)
        shape = tuple(int(n) for n in header.get_data_shape())
        size = int(np.prod(shape, dtype=object)) * header.get_data_dtype().itemsize
        if len(parts.voxels) * (_TEXT_BYTES if parts.is_text else 1) < size:
            raise BadInput(
                f"{path}: truncated: {len(parts.voxels)} of {size} bytes of voxels are there; "
                "copy or export it again"
            )
        values = SimpleITK.GetArrayFromImage(reader.Execute())
    return header, values.T  # ITK's arrays begin with the last axis


@contextmanager
def _opened(parts: _Parts, path: Path) -> Iterator[Any]:
    """ITK's reader of a file; whatever it finds wrong becomes one sentence."""
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(f"{parts.kind}ImageIO")
    try:
        with tempfile.TemporaryDirectory(prefix="deepatlas-") as folder:
            copy = Path(folder) / ("scan.mha" if parts.kind == "Meta" else "scan.nrrd")
            copy.write_bytes(parts.header + parts.voxels)
            reader.SetFileName(str(copy))
            with _quiet():
                reader.ReadImageInformation()
                yield reader
    except RuntimeError as error:
        raise BadInput(
            f"{path}: damaged, or of a kind of {copy.suffix} that ITK does not read; "
            "export it again"
        ) from error
    except OSError as error:
        raise DeepAtlasError(
            f"{path}: no room for a copy of it in {tempfile.gettempdir()} ({error.strerror}); make "
            "room there, or name another folder in the environment variable TMPDIR"
        ) from error


def _header(reader: Any, path: Path) -> nib.Nifti2Header:
    import SimpleITK

    types = {getattr(SimpleITK, name): np.dtype(kind) for name, kind in _TYPES.items()}
    dtype = types.get(reader.GetPixelID())
    if dtype is None or reader.GetNumberOfComponents() != 1:
        raise BadInput(
            f"{path}: holds colours, vectors or complex numbers; "
            "expected one grey value a voxel: convert it"
        )
    shape, n = reader.GetSize(), len(reader.GetSize())
    axes = np.array(reader.GetDirection()).reshape(n, n) * np.array(reader.GetSpacing())
    d, lps = min(n, 3), np.eye(4)
    lps[:d, :d], lps[:d, 3] = axes[:d, :d], reader.GetOrigin()[:d]
    return from_other_format(shape, dtype, np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """What ITK's C++ prints about a damaged file goes nowhere; our own sentence says it."""
    with _lock, ExitStack() as undo:
        with suppress(OSError):  # there may be no stderr
            kept = os.dup(2)
            undo.callback(os.close, kept)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            undo.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
            undo.callback(os.dup2, kept, 2)
        yield
