"""An oblique series, and SimpleITK as the referee of what is read of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepatlas.io.images import read_image

sitk: Any = pytest.importorskip("SimpleITK")


SHAPE = (7, 5, 4)


def numbers(dtype: str = "int16") -> np.ndarray:
    return np.arange(math.prod(SHAPE)).reshape(SHAPE).astype(dtype)


def larger() -> np.ndarray:
    """Images that ITK is willing to pack."""
    return np.random.default_rng(0).integers(0, 4000, (32, 24, 4)).astype("uint16")


def oblique() -> np.ndarray:
    """(4, 4) voxel (column, row, slice) to RAS mm, right-handed in LPS as ITK wants it."""
    c, s = math.cos(0.4), math.sin(0.4)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, -s], [0, s, c]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.8, -1.3, 2.5]) @ np.diag([1, 1, -1])
    affine[:3, 3] = -31.5, 12.25, 70.0
    return affine


def by_itk(folder: Path) -> Any:
    """The series as SimpleITK's own reader of series gives it."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(names)


def check_as_itk(folder: Path) -> None:
    theirs, ours = by_itk(folder), read_image(folder)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).T, ours.data)
    index = np.array(list(np.ndindex(*[2] * 3))) * (np.array(theirs.GetSize()) - 1)
    places = [theirs.TransformIndexToPhysicalPoint(n) for n in index.tolist()]
    np.testing.assert_allclose(
        ours.geometry.to_mm(torch.from_numpy(index)), np.array(places) * [-1, -1, 1], atol=1e-4
    )
