"""Transforms from and to files, one file per format; LPS appears here and nowhere else.

| file | holds | read by |
| --- | --- | --- |
| .h5 | any chain | ITK, SimpleITK, 3D Slicer, ANTs |
| .mat, .tfm, .txt | affine maps | the same |
| .nii, .nii.gz | one displacement field | the same |
| .x5 | an affine map or a field; a draft | NiTransforms |

Forms of other families (`FOREIGN`) need both scans' grids, but to read files of ants.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_bytes
from deepatlas.io.nifti import is_nifti, read_content
from deepatlas.io.transforms import hdf5, mat, text
from deepatlas.io.transforms.ants import ants_files, read_ants, write_ants
from deepatlas.io.transforms.fsl import read_fsl, write_fsl
from deepatlas.io.transforms.itk import Record, from_records, to_records
from deepatlas.io.transforms.learn2reg import read_learn2reg, write_learn2reg
from deepatlas.io.transforms.nifti import read_displacement, write_displacement
from deepatlas.io.transforms.x5 import read_x5, write_x5
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Transform

__all__ = ["read_displacement", "read_transform", "write_displacement", "write_transform"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Format:
    """How one kind of file stores ITK's records."""

    encode: Callable[[Sequence[Record]], bytes]
    decode: Callable[[bytes, object], list[Record]]


X5 = ".x5"
FORMATS = {
    ".h5": Format(hdf5.encode, hdf5.decode),
    ".hdf5": Format(hdf5.encode, hdf5.decode),
    ".mat": Format(mat.encode, mat.decode),
    ".tfm": Format(text.encode, text.decode),
    ".txt": Format(text.encode, text.decode),
}


@dataclass(frozen=True)
class Foreign:
    """A form of another family; `write` and `read` also take the grids, `moving=` and `fixed=`.

    Attributes
    ----------
    reads_alone : its files say where they lie, so `read` takes the path only.
    files : what is written for a path.
    """

    write: Callable[..., None]
    read: Callable[..., Transform]
    files: Callable[[Path], list[Path]] = lambda path: [path]
    reads_alone: bool = False


FOREIGN = {
    "ants": Foreign(write_ants, read_ants, ants_files, reads_alone=True),
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
    if path.suffix.lower() == X5:
        return read_x5(path)
    return from_records(_format(path).decode(read_content(path), path), path)


def needs_grid(path: Path) -> bool:
    """Whether files of this name hold fields on the fixed grid, whatever the map was made of."""
    return is_nifti(path) or path.suffix.lower() == X5


def write_transform(
    path: Path, transform: Transform, fixed: Geometry | None = None, like: Path | None = None
) -> None:
    """Write a transform, fixed mm -> moving mm, in the format that the name asks for.

    Parameters
    ----------
    fixed : the grid of formats that hold one field (`needs_grid`).
    like : the fixed scan's file, see `write_displacement`.

    Raises
    ------
    BadInput : a format that cannot hold this transform or is not known, or no grid for a field.
    DeepAtlasError : no room or no right to write there.
    """
    path = Path(path)
    if needs_grid(path):
        if fixed is None:
            raise BadInput(
                f"{path}: a field lies on a grid; give the scan that it starts from, --fixed "
                "(--moving for an inverse)"
            )
        if is_nifti(path):
            return write_displacement(path, transform, fixed, like)
        _log.warning("%s: X5 is a draft; keep an .h5 beside it", path)
        return write_x5(path, transform, fixed)
    form = _format(path)
    try:
        content = form.encode(to_records(transform))
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
    write_bytes(path, content)
    return None


def _format(path: Path) -> Format:
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join([*FORMATS, ".nii", ".nii.gz", X5])
        raise BadInput(f"{path}: not a transform file that is read here; expected one of {known}")
    return found
