"""NIfTI files written by nibabel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (5, 6, 4)


def rotation(*angles: float) -> np.ndarray:
    """Turned about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
        matrix = turn @ matrix
    return matrix


def oblique(flip: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """An oblique, anisotropic, off-centre placement; `flip` turns axes round."""
    affine = np.eye(4)
    affine[:3, :3] = rotation(0.3, -0.2, 0.5) @ np.diag(np.array([0.8, 1.1, 2.5]) * flip)
    affine[:3, 3] = -31.5, 12.25, 70.0
    return affine


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None, **fields: Any) -> Path:
    """Write with nibabel; `fields` of the header are set as they are."""
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine, dtype=data.dtype)
    for name, value in fields.items():
        image.header[name] = value
    image.to_filename(path)
    return path


def numbers(dtype: str = "int16", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)
