"""DICOM: a folder that holds one series, or one file (.dcm), also with several frames.

Slope and intercept are those of each image by itself.
"""

from __future__ import annotations

import io
import struct
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from deepatlas.errors import BadInput, DeepAtlasError
from deepatlas.io import nifti
from deepatlas.io.dicom_stack import Slice, stack
from deepatlas.io.dicom_voxels import stored_values
from deepatlas.io.header import from_other_format

_MARK, _MARK_AT = b"DICM", 128
_SERIES = b"DICOM series of deepatlas\n"  # how the content of a folder begins
_SIZES = struct.Struct("<QQ")
# what lies beside the slices in many folders and is none of them
_BESIDE = {
    ".json", ".txt", ".md", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".pdf", ".html", ".db", ".ini",
    ".log", ".sh", ".py", ".jpg", ".jpeg", ".png", ".gif", ".bval", ".bvec", ".zip", ".exe", ".inf",
    ".nii", ".gz", ".nrrd", ".mha", ".mgz",
}  # fmt: skip
_DIRECTORY = "DICOMDIR"
_TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32")
_lock = threading.Lock()

Files = list[tuple[str, bytes]]


@dataclass(frozen=True, eq=False)
class _Frame:
    """One slice, and how its voxels are found and scaled.

    Attributes
    ----------
    number : of the frame within its file.
    scale : slope and intercept.
    stored : the least and the largest number that its bits can hold.
    """

    image: Slice
    dataset: Any
    number: int
    scale: tuple[float, float]
    stored: tuple[int, int]


def holds_dicom(folder: Path) -> bool:
    """Whether a folder has a DICOM file in it, other than a DICOMDIR."""
    try:
        return any(_is_marked(path) for path in Path(folder).iterdir() if _may_be_slice(path))
    except OSError:
        return False


def read_series(folder: Path) -> bytes:
    """The files of a folder one after another, by name, with their names and sizes.

    Raises
    ------
    BadInput : no DICOM file there, or one that cannot be read.
    """
    try:
        paths = sorted(path for path in Path(folder).iterdir() if _may_be_slice(path))
    except OSError as error:
        raise BadInput(f"{folder}: cannot be read ({error.strerror}); check the folder") from error
    if not any(_is_marked(path) for path in paths):
        inner = [path.name for path in sorted(Path(folder).iterdir()) if holds_dicom(path)]
        raise BadInput(
            f"{folder}: is a folder without DICOM files; give a scan's file or the folder of one "
            f"DICOM series{f', such as {folder}/{inner[0]}' if inner else ''}"
        )
    content = [_SERIES]
    for path in paths:
        name, data = path.name.encode(), nifti.read_content(path)
        content += [_SIZES.pack(len(name), len(data)), name, data]
    return b"".join(content)


def decode_header(content: bytes, path: Path) -> nib.Nifti2Header:
    """What the files say of axes, place and type.

    Raises
    ------
    BadInput : damaged, several series, colours, or slices that make no volume.
    """
    with _words(path):
        return _header(_frames(_files(content, path), path, voxels=False), path)[0]


def decode_array(content: bytes, path: Path) -> tuple[nib.Nifti2Header, np.ndarray]:
    """Header and scaled values of the files.

    Raises
    ------
    BadInput : damaged, truncated, several series, colours, or slices that make no volume.
    """
    with _words(path):
        frames = _frames(_files(content, path), path, voxels=True)
        header, order = _header(frames, path)
        values = np.empty(header.get_data_shape(), header.get_data_dtype(), order="F")
        stored: dict[int, np.ndarray] = {}
        for n, frame in enumerate(frames[n] for n in order):
            if id(frame.dataset) not in stored:
                stored = {id(frame.dataset): _stored(frame, path)}
            values[..., n] = _scaled(stored[id(frame.dataset)][frame.number], frame).T
    return header, values


def _may_be_slice(path: Path) -> bool:
    hidden = path.name.startswith(".") or path.name.upper() == _DIRECTORY
    return not hidden and path.suffix.lower() not in _BESIDE and path.is_file()


def _is_marked(path: Path) -> bool:
    """Whether a file says that it is DICOM; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_MARK_AT + len(_MARK))[_MARK_AT:] == _MARK
    except OSError:
        return False


def _files(content: bytes, path: Path) -> Files:
    """Names and bytes of the files of a content."""
    if not content.startswith(_SERIES):
        return [(Path(path).name, content)]
    found, at = [], len(_SERIES)
    while at < len(content):
        name, size = _SIZES.unpack_from(content, at)
        at += _SIZES.size
        found.append((content[at : at + name].decode(), content[at + name : at + name + size]))
        at += name + size
    return found


@contextmanager
def _words(path: Path) -> Iterator[None]:
    """Whatever pydicom and ITK find wrong becomes one sentence; their warnings go nowhere."""
    try:
        with _lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DeepAtlasError, MemoryError):
        raise
    except Exception as error:  # pydicom raises almost anything on damaged files
        raise _damaged(path, "", str(error)) from error


def _damaged(path: object, name: str, why: str) -> BadInput:
    """The file is named where it is one of a folder's."""
    of_folder = f"{name}: " if name and name != Path(str(path)).name else ""
    return BadInput(
        f"{path}: {of_folder}damaged, truncated or not a DICOM file ({why}); copy or export it "
        f"again{', or move it elsewhere if it is no slice' if of_folder else ''}"
    )


def _frames(files: Files, path: Path, *, voxels: bool) -> list[_Frame]:
    """All slices of the one series in these files."""
    datasets = [_dataset(name, content, path, voxels=voxels) for name, content in files]
    names = [name for name, _ in files]
    chosen = _one_series(datasets, names, path)
    found: dict[str, str] = {}
    for n in chosen:
        uid = str(datasets[n].get("SOPInstanceUID", names[n]))
        if uid in found:
            raise BadInput(
                f"{path}: {found[uid]} and {names[n]} are copies of one image; remove one"
            )
        found[uid] = names[n]
    return [frame for n in chosen for frame in _frames_of(datasets[n], names[n], path)]


def _dataset(name: str, content: bytes, path: Path, *, voxels: bool) -> Any:
    import pydicom

    try:
        return pydicom.dcmread(io.BytesIO(content), stop_before_pixels=not voxels)
    except Exception as error:
        raise _damaged(path, name, str(error)) from error


def _one_series(datasets: Sequence[Any], names: Sequence[str], path: Path) -> list[int]:
    """The files that are images, which must be of one series."""
    series: dict[str, list[int]] = {}
    for n, dataset in enumerate(datasets):
        series.setdefault(str(dataset.get("SeriesInstanceUID", "")), []).append(n)
    images = {
        uid: members
        for uid, members in series.items()
        if uid == "" or any("Rows" in datasets[n] for n in members)
    }
    if len(images) == 1:
        (members,) = images.values()
        return members
    if not images:
        raise BadInput(f"{path}: holds no image, but other DICOM objects; give a series of images")
    if "" in images:
        raise _damaged(path, names[images[""][0]], "it names no series")
    kinds = [_series_words(datasets[members[0]], len(members)) for members in images.values()]
    raise BadInput(
        f"{path}: holds {len(images)} series: {'; '.join(sorted(kinds))}; move the one that is "
        "meant into a folder of its own"
    )


def _series_words(dataset: Any, files: int) -> str:
    number, words = dataset.get("SeriesNumber"), dataset.get("SeriesDescription")
    named = " ".join(str(part) for part in (number, words and f"'{words}'") if part is not None)
    return f"{named or 'without a name'} ({files} file{'s' * (files != 1)})"


def _frames_of(dataset: Any, name: str, path: Path) -> list[_Frame]:
    """The slices of one file."""
    try:
        _refuse_colours(dataset, name, path)
        bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
        count = int(dataset.get("NumberOfFrames") or 1)
        if not (0 < bits <= 32 and 0 < count <= 1 << 20):
            raise ValueError(f"{bits} bits, {count} frames")
        stored = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        found = []
        for number in range(count):
            image = _slice(dataset, number, f"{name}, frame {number + 1}" if count > 1 else name)
            slope, intercept = (
                _said(dataset, number, "PixelValueTransformationSequence", keyword)
                for keyword in ("RescaleSlope", "RescaleIntercept")
            )
            scale = (1.0 if slope is None else float(slope), float(intercept or 0))
            if not np.isfinite(scale).all() or scale[0] == 0:
                raise ValueError(f"slope {scale[0]}, intercept {scale[1]}")
            found.append(_Frame(image, dataset, number, scale, stored))
    except BadInput:
        raise
    except Exception as error:
        raise _damaged(path, name, str(error)) from error
    return found


def _refuse_colours(dataset: Any, name: str, path: Path) -> None:
    kind = str(dataset.get("PhotometricInterpretation", "MONOCHROME2"))
    if int(dataset.get("SamplesPerPixel") or 1) != 1 or not kind.startswith("MONOCHROME"):
        raise BadInput(
            f"{path}: {name} holds colours ({kind}); expected one grey value a pixel: convert it",
            kind="not-grey",
        )
    if "MOSAIC" in (dataset.get("ImageType") or ()):
        raise BadInput(
            f"{path}: {name} holds the slices of a volume side by side (a mosaic); convert the "
            "series to NIfTI with dcm2niix"
        )


def _said(dataset: Any, frame: int, group: str, keyword: str) -> Any:
    """A value that is said for a frame, for all frames of a file, or for the file; None if not."""
    for sequence, number in (
        ("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0),
    ):  # fmt: skip
        items = dataset.get(sequence)
        if items and group in items[number]:
            return items[number][group].value[0].get(keyword)
    return dataset.get(keyword)


def _slice(dataset: Any, number: int, name: str) -> Slice:
    position, directions, pixel, thickness = (
        _said(dataset, number, f"{group}Sequence", keyword)
        for group, keyword in (
            ("PlanePosition", "ImagePositionPatient"),
            ("PlaneOrientation", "ImageOrientationPatient"),
            ("PixelMeasures", "PixelSpacing"),
            ("PixelMeasures", "SliceThickness"),
        )
    )
    axes = None
    if position and directions:
        axes = _numbers(directions, 6).reshape(2, 3).T
        if not np.allclose(axes.T @ axes, np.eye(2), atol=1e-2):
            raise ValueError("the directions of its rows and columns are not at right angles")
        axes = axes / np.linalg.norm(axes, axis=0)
    else:
        pixel = pixel or dataset.get("ImagerPixelSpacing") or (1.0, 1.0)
    between_rows, between_columns = _numbers(pixel, 2)
    sizes = (float(between_columns), float(between_rows), float(thickness or 1.0))
    if min(sizes) <= 0 or not np.isfinite(sizes).all():
        raise ValueError(f"pixels of {sizes} mm")
    return Slice(
        name=name,
        shape=(int(dataset.Columns), int(dataset.Rows)),
        pixel_mm=sizes[:2],
        thickness_mm=sizes[2],
        position=None if axes is None else _numbers(position, 3),
        axes=axes,
    )


def _numbers(value: Any, count: int) -> np.ndarray:
    numbers = np.array([float(part) for part in value])
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{value} where {count} numbers belong")
    return numbers


def _header(frames: Sequence[_Frame], path: Path) -> tuple[nib.Nifti2Header, list[int]]:
    order, matrix = stack([frame.image for frame in frames], path)
    shape = (*frames[0].image.shape, len(frames))
    return from_other_format(shape, _dtype(frames), matrix, path), order


def _dtype(frames: Sequence[_Frame]) -> np.dtype:
    """The smallest type of the scaled values that the stored bits can hold."""
    if any(not float(part).is_integer() for frame in frames for part in frame.scale):
        return np.dtype("float32")
    ends = [end * frame.scale[0] + frame.scale[1] for frame in frames for end in frame.stored]
    fitting = (t for t in _TYPES if np.iinfo(t).min <= min(ends) and max(ends) <= np.iinfo(t).max)
    return np.dtype(next(fitting, "int64"))


def _stored(frame: _Frame, path: Path) -> np.ndarray:
    """The numbers of a frame's file as they are stored, (frames, rows, columns)."""
    try:
        return stored_values(frame.dataset)
    except OSError as error:
        raise DeepAtlasError(
            f"{path}: no room for a copy of it in {tempfile.gettempdir()} ({error.strerror}); make "
            "room there, or name another folder in the environment variable TMPDIR"
        ) from error
    except Exception as error:
        raise _damaged(path, frame.image.name, str(error).partition("\n")[0]) from error


def _scaled(stored: np.ndarray, frame: _Frame) -> np.ndarray:
    slope, intercept = frame.scale
    if (slope, intercept) == (1.0, 0.0):
        return stored
    if slope.is_integer() and intercept.is_integer():
        return stored.astype(np.int64) * int(slope) + int(intercept)
    return stored.astype(np.float64) * slope + intercept
