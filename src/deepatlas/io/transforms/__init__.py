"""Transforms from and to files, one file per format; LPS appears here and nowhere else.

| file | holds | read by |
| --- | --- | --- |
| .h5 | any chain | ITK, SimpleITK, 3D Slicer, ANTs |
| .mat, .tfm, .txt | affine maps | the same |
| .nii, .nii.gz | one displacement field | the same |

Forms of other families say nothing about the world: they need both scans' grids (`FOREIGN`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_bytes
from deepatlas.io.nifti import is_nifti, read_content
from deepatlas.io.transforms import hdf5, mat, text
from deepatlas.io.transforms.fsl import read_fsl, write_fsl
from deepatlas.io.transforms.itk import Record, from_records, to_records
from deepatlas.io.transforms.learn2reg import read_learn2reg, write_learn2reg
from deepatlas.io.transforms.nifti import read_displacement, write_displacement
from deepatlas.spatial.transform import Transform

__all__ = ["read_displacement", "read_transform", "write_displacement", "write_transform"]


@dataclass(frozen=True)
class Format:
    """How one kind of file stores ITK's records."""

    encode: Callable[[Sequence[Record]], bytes]
    decode: Callable[[bytes, object], list[Record]]


FORMATS = {
    ".h5": Format(hdf5.encode, hdf5.decode),
    ".hdf5": Format(hdf5.encode, hdf5.decode),
    ".mat": Format(mat.encode, mat.decode),
    ".tfm": Format(text.encode, text.decode),
    ".txt": Format(text.encode, text.decode),
}


@dataclass(frozen=True)
class Foreign:
    """A form of another family; both functions also take the grids, `moving=` and `fixed=`."""

    write: Callable[..., None]
    read: Callable[..., Transform]


FOREIGN = {
    "fsl": Foreign(write_fsl, read_fsl),
    "learn2reg": Foreign(write_learn2reg, read_learn2reg),
}


def read_transform(path: Path) -> Transform:
    """The transform in a file, fixed mm to moving mm (RAS).

    Raises
    ------
    BadInput : the file cannot be read, or is of no format that is read here.
    """
    path = Path(path)
    if is_nifti(path):
        return read_displacement(path)
    return from_records(_format(path).decode(read_content(path), path), path)


def write_transform(path: Path, transform: Transform) -> None:
    """Write a transform in ITK's form of the format that the name asks for.

    Raises
    ------
    BadInput : a format that cannot hold this transform, or is not known.
    DeepAtlasError : no room or no right to write there.
    """
    path = Path(path)
    if is_nifti(path):
        raise BadInput(f"{path}: a field in NIfTI lies on a grid; say on which (fixed)")
    form = _format(path)
    try:
        content = form.encode(to_records(transform))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    write_bytes(path, content)


def _format(path: Path) -> Format:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join([*FORMATS, ".nii", ".nii.gz"])
        raise BadInput(f"{path}: not a transform file that is read here; expected one of {known}")
    return found
