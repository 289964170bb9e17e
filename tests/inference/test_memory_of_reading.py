"""What reading scans and label maps takes is what is counted before it."""

from __future__ import annotations

import math
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out
sys.path.insert(0, str(Path(__file__).parents[1] / "io"))

from dicom_files import write_series
from test_session import PLANS, oblique, write_scan

from deepatlas.data.intensity import match
from deepatlas.inference.memory import slab, to_read
from deepatlas.io.images import read_image, read_labels
from deepatlas.spatial.geometry import SLAB_POINTS


def test_reading_counts_the_histogram_and_planes_of_many_points(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    voxels, grid = math.prod(oblique(3).shape), PLANS[3].shape
    assert to_read(path, grid, matched=True) - to_read(path, grid) == 15 * voxels
    assert to_read(path, (2, 1024, 1024)) - to_read(path, grid) == 320 * (1024**2 - SLAB_POINTS)
    image = torch.rand(60, 60, 60)
    tracemalloc.start()
    match(image, [n / 20 for n in range(1, 20)])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < (28 - 4 - 4) * image.numel()  # the scan itself, as read and as scaled, aside


def most_held(read: Callable[[Path], object], path: Path) -> int:
    read(path)  # libraries are loaded at the first
    tracemalloc.start()
    read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("scale", [None, (1, -1024), (0.5, 0)])
def test_reading_a_series_takes_what_is_counted(
    scale: tuple[float, float] | None, tmp_path: Path
) -> None:
    def change(made: Any, number: int) -> None:
        if scale is not None:
            made.RescaleSlope, made.RescaleIntercept = scale

    shape = (160, 160, 24)
    values = np.arange(math.prod(shape)).reshape(shape).astype("int16")
    folder = write_series(tmp_path / "s", values, np.diag([-1.0, -1.0, 1.0, 1.0]), change=change)
    assert most_held(read_image, folder) < to_read(folder, shape) - slab(shape)


@pytest.mark.parametrize("slope", [None, 2.0])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_reading_labels_and_scaled_scans_takes_what_is_counted(
    dtype: str, ending: str, slope: float | None, tmp_path: Path
) -> None:
    generator, shape = np.random.default_rng(0), (90, 80, 70)
    image = nib.Nifti1Image(generator.integers(0, 40, shape).astype(dtype), np.eye(4))
    image.header.set_slope_inter(slope or 1, 0)
    path = tmp_path / f"a{ending}"
    image.to_filename(path)
    beside = slab(shape) - 2**18  # bytes whatever the scan
    assert most_held(read_labels, path) < to_read(path, shape, labels=True) - beside
    if slope is not None:
        assert most_held(read_image, path) < to_read(path, shape) - beside
