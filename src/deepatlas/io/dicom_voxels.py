"""The voxels of a DICOM file: as they are or in runs (RLE) by pydicom, JPEG of any kind by ITK."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

_PACKED_AT_MOST = 10_000  # to one, that voxels are packed
_PIXELS = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "NumberOfFrames", "PixelData",
)  # fmt: skip


def stored_values(dataset: Any) -> np.ndarray:
    """The numbers of a file as they are stored, (frames, rows, columns); unscaled.

    Raises
    ------
    ValueError or almost anything : there are none, or not as many as the file says.
    OSError : no room for a copy.
    """
    if "PixelData" not in dataset:
        raise ValueError("it has no voxels")
    shape = (int(dataset.get("NumberOfFrames") or 1), int(dataset.Rows), int(dataset.Columns))
    size, found = int(np.prod(shape, dtype=object)), len(dataset.PixelData)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and size > _PACKED_AT_MOST * found:
        raise ValueError(f"{found} bytes for {size} voxels")
    values = _unpacked(dataset) if "JPEG" in syntax.name else dataset.pixel_array
    return values.reshape(shape)


def _unpacked(dataset: Any) -> np.ndarray:
    """Packed voxels by ITK, from a file that holds nothing else: it scales no values then."""
    import pydicom
    import SimpleITK

    bare = pydicom.Dataset()
    for keyword in _PIXELS:
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.PhotometricInterpretation = "MONOCHROME2"  # whichever it is, the numbers stay
    bare.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    bare.SOPInstanceUID = pydicom.uid.generate_uid()
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    with tempfile.TemporaryDirectory(prefix="deepatlas-") as folder:
        copy = Path(folder) / "image.dcm"
        bare.save_as(copy, enforce_file_format=True)
        reader.SetFileName(str(copy))
        with _quiet():
            return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()))


@contextmanager
def _quiet() -> Iterator[None]:
    """What ITK's C++ prints about a damaged file goes nowhere; our own sentence says it.

    Nor does what other threads write to descriptor 2 meanwhile, so commands write to a copy of it.
    """
    with ExitStack() as undo:
        with suppress(OSError):  # there may be no stderr
            kept = os.dup(2)
            undo.callback(os.close, kept)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            undo.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
            undo.callback(os.dup2, kept, 2)
        yield
