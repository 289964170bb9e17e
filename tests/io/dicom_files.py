"""DICOM files for tests, written tag by tag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SERIES = "1.2.826.0.1.3680043.8.498.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
Change = Callable[[Dataset, int], None]


def pixels(values: np.ndarray) -> Dataset:
    """What a file says of its values (columns, rows[, frames]), and the values."""
    image = Dataset()
    image.Columns, image.Rows = values.shape[:2]
    if values.ndim == 3:
        image.NumberOfFrames = values.shape[2]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8 * values.itemsize
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = int(values.dtype.kind == "i")
    image.PixelData = values.T.tobytes()
    return image


def image(values: np.ndarray, **tags: Any) -> Dataset:
    """A file with one image or several frames, which is not placed in space."""
    made = pixels(values)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = tags.pop("SOPClassUID", MR)
    made.SOPInstanceUID = generate_uid()
    made.SeriesInstanceUID, made.Modality = SERIES, "MR"
    for keyword, value in tags.items():
        setattr(made, keyword, value)
    return made


def placed(affine: np.ndarray, number: int) -> dict[str, Any]:
    """The tags that place slice `number` of a grid, (4, 4) voxel (column, row, slice) to RAS mm."""
    lps = LPS @ affine
    across, down = (lps[:3, n] / np.linalg.norm(lps[:3, n]) for n in (0, 1))
    return {
        "ImagePositionPatient": [f"{v:.6f}" for v in lps[:3, 3] + number * lps[:3, 2]],
        "ImageOrientationPatient": [f"{v:.10f}" for v in (*across, *down)],
        "PixelSpacing": [f"{np.linalg.norm(lps[:3, n]):.8f}" for n in (1, 0)],  # rows first
        "SliceThickness": f"{np.linalg.norm(lps[:3, 2]):.6f}",
    }


def write_series(
    folder: Path,
    values: np.ndarray,
    affine: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    change: Change | None = None,
) -> Path:
    """One file a slice, named and numbered in order; `change` may edit each before it is saved."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(values.shape[2]):
        made = image(values[:, :, number], **placed(affine, number), InstanceNumber=number + 1)
        if change is not None:
            change(made, number)
        name = names[number] if names else f"im{number:03d}.dcm"
        made.save_as(folder / name, enforce_file_format=True)
    return folder


def write_frames(path: Path, values: np.ndarray, affine: np.ndarray, **shared: Any) -> Path:
    """One file of the enhanced kind, with a place for each frame."""
    made = image(values, SOPClassUID=ENHANCED_MR)
    path.parent.mkdir(parents=True, exist_ok=True)

    def group(**tags: Any) -> Items:
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        return Items([item])

    def item(**groups: Items) -> Dataset:
        return group(**groups)[0]

    tags = placed(affine, 0)
    scale = {"PixelValueTransformationSequence": group(**shared)} if shared else {}
    made.SharedFunctionalGroupsSequence = Items([item(
        PixelMeasuresSequence=group(**{k: tags[k] for k in ("PixelSpacing", "SliceThickness")}),
        PlaneOrientationSequence=group(ImageOrientationPatient=tags["ImageOrientationPatient"]),
        **scale,
    )])  # fmt: skip
    made.PerFrameFunctionalGroupsSequence = Items([
        item(PlanePositionSequence=group(
            ImagePositionPatient=placed(affine, number)["ImagePositionPatient"]
        ))
        for number in range(values.shape[2])
    ])  # fmt: skip
    made.save_as(path, enforce_file_format=True)
    return path


def packed(path: Path, kind: str) -> None:
    """Pack a file's voxels as ITK does."""
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor(kind)
    writer.SetFileName(str(path))
    made = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    writer.Execute(made)
