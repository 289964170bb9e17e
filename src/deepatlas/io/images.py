"""Scans and label maps, 2-D and 3-D: read from files of any format below, written as NIfTI.

| file | axes and place |
| --- | --- |
| .nii, .nii.gz | its header (see `io.header`) |
| .mha, .mhd, .nrrd | its header, as ITK reads it |
| .mgz, .mgh | its header, as nibabel reads it |
| .png, .tif, .tiff | 2-D, axes as ITK reads them, pixels of 1 mm |
| .dcm, or a folder | DICOM: the images of one series (see `io.dicom_stack`) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.io import dicom, metaimage, mgh, nifti, nrrd_file, picture
from deepatlas.io.header import placed, read_placement
from deepatlas.spatial.geometry import Geometry, Volume

_INTEGERS = (np.uint8, np.int16, np.int32, np.int64)  # what a float file's whole values become
_WHOLE = 1e-3  # a scaled label this near to a whole number is that number


@dataclass(frozen=True)
class Format:
    """How files of one kind are read; what they say of axes and place comes as a NIfTI header.

    Attributes
    ----------
    header : of a file's bytes, without its voxels; the path is named in errors.
    decode : header and scaled values (any grey type) of a file's bytes.
    content : the bytes of a file and of those that belong to it.
    """

    header: Callable[[bytes, Path], nib.Nifti1Header]
    decode: Callable[[bytes, Path], tuple[nib.Nifti1Header, np.ndarray]]
    content: Callable[[Path], bytes] = nifti.read_content


_NIFTI = Format(nifti.decode_header, nifti.decode_array)
_METAIMAGE = Format(metaimage.decode_header, metaimage.decode_array, metaimage.read_content)
_MGH = Format(mgh.decode_header, mgh.decode_array)
_PICTURE = Format(picture.decode_header, picture.decode_array)
_SERIES = Format(dicom.decode_header, dicom.decode_array, dicom.read_series)
FORMATS = {
    ".nii.gz": _NIFTI,
    ".nii": _NIFTI,
    ".mha": _METAIMAGE,
    ".mhd": _METAIMAGE,
    ".nrrd": Format(nrrd_file.decode_header, nrrd_file.decode_array),
    ".mgz": _MGH,
    ".mgh": _MGH,
    ".png": _PICTURE,
    ".tif": _PICTURE,
    ".tiff": _PICTURE,
    ".dcm": Format(dicom.decode_header, dicom.decode_array),
}
ENDINGS = ", ".join(FORMATS)


def is_scan(path: Path | str) -> bool:
    """Whether a file's name has an ending of `FORMATS`, or a folder holds DICOM."""
    return dicom.holds_dicom(Path(path)) if Path(path).is_dir() else _ending(path) != ""


def scan_id(path: Path | str) -> str:
    """The file's or folder's name without its ending and without nnU-Net's `_0000`."""
    return _stem(path).removesuffix("_0000")


def nifti_name(path: Path | str) -> str:
    """The name of the NIfTI file that a result of this file gets; that of a NIfTI file stays."""
    return Path(path).name if nifti.is_nifti(path) else f"{_stem(path)}.nii.gz"


def read_content(path: Path) -> bytes:
    """The bytes of a scan's file, with those that belong to it; BadInput if unreadable.

    Of a .mhd also those of its voxels, of a folder those of the DICOM files in it, by name.
    """
    return _format(path).content(Path(path))


def read_header(path: Path) -> nib.Nifti1Header:
    """What a file says of its axes, place and type, as a NIfTI header; BadInput if unreadable."""
    if nifti.is_nifti(path):
        return nifti.read_header(path)
    return decode_header(read_content(path), path)


def read_geometry(path: Path) -> Geometry:
    """The grid of a scan from its header alone; BadInput if that cannot be read."""
    return read_placement(read_header(path), path)


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


def decode_header(content: bytes, path: Path) -> nib.Nifti1Header:
    """`read_header` of a file's bytes; `path` is named in errors."""
    return _format(path).header(content, path)


def decode_image(content: bytes, path: Path) -> Volume:
    """`read_image` of a file's bytes; `path` is named in errors."""
    header, values = _format(path).decode(content, path)
    geometry = read_placement(header, path)
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, which the check reports
        image = np.ascontiguousarray(values.reshape(geometry.shape), dtype=np.float32)
    if not image.flags.writeable:
        image = image.copy()
    return Volume(torch.from_numpy(image), geometry)


def decode_labels(content: bytes, path: Path) -> tuple[Volume, np.dtype]:
    """`read_labels` of a file's bytes; `path` is named in errors."""
    header, values = _format(path).decode(content, path)
    geometry = read_placement(header, path)
    if values.dtype.kind == "f":
        values = _whole(values, path)
        dtype = _smallest(values)
    else:
        dtype = values.dtype.newbyteorder("=")
        if dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise BadInput(f"{path}: label values above 2^63 - 1; renumber them")
    labels = np.ascontiguousarray(values.reshape(geometry.shape), dtype=np.int64)
    if not labels.flags.writeable:
        labels = labels.copy()
    return Volume(torch.from_numpy(labels), geometry), dtype


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
    nifti.write_array(
        path, data.astype(dtype, copy=False), placed(volume.geometry, _header_of(like))
    )


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
    nifti.write_array(
        path, labels.astype(dtype, copy=False), placed(volume.geometry, _header_of(like))
    )


def _ending(path: Path | str) -> str:
    """The ending of a name among `FORMATS`, in lower case; empty if it has none of them."""
    name = Path(path).name.lower()
    return next((ending for ending in FORMATS if name.endswith(ending)), "")


def _stem(path: Path | str) -> str:
    name = Path(path).name or Path(path).resolve().name  # of the folder "."
    return name[: len(name) - len(_ending(name))]


def _format(path: Path) -> Format:
    """How a file is read, by its name; folders are DICOM."""
    if Path(path).is_dir():
        return _SERIES
    ending = _ending(path)
    if not ending:
        raise BadInput(
            f"{path}: not a scan that is read here, by its name; expected one of {ENDINGS}: "
            "convert it"
        )
    return FORMATS[ending]


def _header_of(like: Path | None) -> nib.Nifti1Header | None:
    return None if like is None else read_header(like)


def _whole(values: np.ndarray, path: Path) -> np.ndarray:
    """Float labels as int64."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise BadInput(
            f"{path}: {int(wrong.sum())} of {values.size} label voxels are NaN or infinite; "
            "labels are integers: set them to 0 or mend the map",
            kind="nan-or-inf",
        )
    nearest = np.rint(values)
    away = np.subtract(values, nearest)
    wrong = np.abs(away, out=away) > _WHOLE
    del away  # before the next array of that size
    if wrong.any():
        example = float(values[wrong].flat[0])
        raise BadInput(
            f"{path}: {int(wrong.sum())} of {values.size} label voxels are fractions, such as "
            f"{example:.4g}; labels are integers: resample label maps with nearest neighbour",
            kind="fractional-labels",
        )
    if values.size and max(-nearest.min(), nearest.max()) >= 2.0**63:
        raise BadInput(f"{path}: label values above 2^63 - 1; renumber them")
    return np.ascontiguousarray(nearest, dtype=np.int64)


def _smallest(labels: np.ndarray) -> np.dtype:
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    fitting = (k for k in _INTEGERS if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return np.dtype(next(fitting))
