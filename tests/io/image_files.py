"""Scans of every format but NIfTI, written by SimpleITK, nibabel or by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from dicom_files import write_frames

sitk = pytest.importorskip("SimpleITK")


SHAPE = (7, 5, 4)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
INTEGERS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def oblique(flip: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """(4, 4) RAS: turned about two axes, anisotropic, far from the origin."""
    c, s = math.cos(0.4), math.sin(0.4)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, -s], [0, s, c]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array([0.8, 1.3, 2.5]) * flip)
    affine[:3, 3] = -31.5, 12.25, 70.0
    return affine


def numbers(dtype: str = "int16", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def by_itk(values: np.ndarray, affine: np.ndarray | None = None) -> Any:
    """SimpleITK's image of values (i, j[, k]) at a RAS placement."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    if affine is not None:
        d = values.ndim
        lps = (LPS @ affine)[:3]
        spacing = np.linalg.norm(lps[:d, :d], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:d, :d] / spacing).ravel().tolist())
        image.SetOrigin(lps[:d, 3].tolist())
    return image


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **how: Any) -> Path:
    sitk.WriteImage(by_itk(values, affine), str(path), **how)
    return path


def save_mgh(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nib.MGHImage(values, affine).to_filename(path)
    return path


def corners_by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Some indices of a file, and their places (RAS mm) to ITK."""
    image = sitk.ReadImage(str(path))
    corners = np.array(list(np.ndindex(*[2] * image.GetDimension())))
    index = corners * (np.array(image.GetSize()) - 1)
    points = [image.TransformIndexToPhysicalPoint(i.tolist()) for i in index]
    return index, np.array(points) * [-1, -1, 1][: image.GetDimension()]


flips = pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
itk_formats = pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])


def big_endian_mha(values: np.ndarray) -> bytes:
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "CompressedData = False\nElementSpacing = 1 2 3\nDimSize = 7 5 4\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return header.encode() + values.T.astype(">i2").tobytes()


def big_endian_nrrd(values: np.ndarray) -> bytes:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 7 5 4\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (4,5,6)\nendian: big\n"
        "encoding: raw\n\n"
    )
    return header.encode() + values.T.astype(">i2").tobytes()


SCANS: dict[str, Callable[[Path], Path]] = {
    ".mha": lambda p: save(p, numbers(), oblique((-1, 1, 1)), useCompression=True),
    ".mhd": lambda p: save(p, numbers(), oblique((-1, 1, 1))),
    ".nrrd": lambda p: save(p, numbers(), oblique((1, -1, 1)), useCompression=True),
    ".mgz": lambda p: save_mgh(p, numbers(), oblique()),
    ".mgh": lambda p: save_mgh(p, numbers(), oblique()),
    ".png": lambda p: save(p, numbers("uint8", (6, 5))),
    ".tif": lambda p: save(p, numbers("float32", (6, 5))),
    ".tiff": lambda p: save(p, numbers("uint16", (6, 5))),
    ".dcm": lambda p: write_frames(p, numbers(), oblique((1, -1, -1))),
}
