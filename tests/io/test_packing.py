"""Packed files hold the same whoever packed them, ISA-L or Python; SimpleITK is the referee."""

from __future__ import annotations

import io
import math
import platform
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deepatlas.io import packing
from deepatlas.io.images import read_image, write_image
from deepatlas.io.transforms import read_transform, write_transform
from deepatlas.io.transforms.hdf5 import write_packed
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import DisplacementField

sitk = pytest.importorskip("SimpleITK")

SUPPORTED = ("x86_64", "AMD64", "aarch64", "arm64")
CHUNK = 1 << 18  # numbers
SHAPE = (47, 61, 53)  # its displacements fill a chunk and part of another


def some_field() -> DisplacementField:
    grid = Geometry.axis_aligned(SHAPE, (1.5, 0.7, 2.0))
    return DisplacementField(
        torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(0)), grid
    )


def write_all(folder: Path) -> None:
    field = some_field()
    write_image(folder / "scan.nii.gz", Volume(field.voxels[0], field.geometry))
    write_transform(folder / "field.h5", field)
    write_transform(folder / "field.x5", field, field.geometry)


def check_all(folder: Path) -> None:
    field = some_field()
    np.testing.assert_array_equal(read_image(folder / "scan.nii.gz").data, field.voxels[0])
    for name in ("field.h5", "field.x5"):
        found = read_transform(folder / name)
        assert isinstance(found, DisplacementField)
        torch.testing.assert_close(found.voxels, field.voxels, rtol=0, atol=1e-5)


def test_itk_and_hdf5_read_what_was_packed(tmp_path: Path) -> None:
    write_all(tmp_path)
    field = some_field()
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "scan.nii.gz")))
    np.testing.assert_array_equal(image.T, field.voxels[0])
    grid = field.geometry
    index = torch.tensor([[3, 5, 7], [40, 50, 30], [46, 60, 52]]).double()
    lps = np.array([-1.0, -1.0, 1.0])
    itk = sitk.ReadTransform(str(tmp_path / "field.h5"))
    found = [itk.TransformPoint(tuple(p)) for p in grid.to_mm(index).numpy() * lps]
    np.testing.assert_allclose(found * lps, field(grid.to_mm(index)), atol=1e-4)
    for name, inner in (("field.h5", "TransformParameters"), ("field.x5", "Transform")):
        with h5py.File(tmp_path / name) as file:
            stored = file[f"TransformGroup/0/{inner}"]
            assert np.prod(stored.chunks) < stored.size
            assert stored.id.get_storage_size() < 0.95 * stored.nbytes
    check_all(tmp_path)


@pytest.mark.parametrize(
    "shape",
    [(1,), (CHUNK,), (CHUNK + 1,), (2 * CHUNK,), (40, 56, 40, 3), (3, 2, 70, 2), (2, CHUNK + 3)],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_a_dataset_is_as_hdf5_would_pack_it(shape: tuple[int, ...], dtype: str) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(dtype)
    rows = min(shape[0], max(1, CHUNK // math.prod(shape[1:])))
    with h5py.File(io.BytesIO(), "w") as file:
        write_packed(file, "ours", values)
        file.create_dataset(
            "theirs", data=values, chunks=(rows, *shape[1:]), compression="gzip",
            compression_opts=1, shuffle=True,
        )  # fmt: skip
        ours, theirs = file["ours"], file["theirs"]
        assert ours.dtype == values.dtype
        np.testing.assert_array_equal(ours[()], values)
        assert ours.chunks == theirs.chunks
        size, other = (stored.id.get_storage_size() for stored in (ours, theirs))
        assert size < 1.1 * other + 100


@pytest.mark.skipif(platform.machine() not in SUPPORTED, reason="ISA-L is not made for it")
def test_files_hold_the_same_without_isal(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
    assert packing.LEVEL == 2
    write_all(ours)
    code = (
        "import sys; sys.modules['isal'] = None\n"
        "from pathlib import Path\n"
        "from tests.io.test_packing import check_all, packing, write_all\n"
        "assert packing.LEVEL == 3\n"
        f"check_all(Path({str(ours)!r})); write_all(Path({str(theirs)!r}))\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
    check_all(theirs)
    for name in ("scan.nii.gz", "field.h5", "field.x5"):
        size, other = (len((folder / name).read_bytes()) for folder in (ours, theirs))
        assert size < 1.1 * other
