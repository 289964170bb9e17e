"""Packed files hold the same whoever packed them, ISA-L or Python; SimpleITK is the referee."""

from __future__ import annotations

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
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import DisplacementField

sitk = pytest.importorskip("SimpleITK")

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
    index = torch.tensor([[3, 5, 7], [40, 50, 60], [46, 60, 52]]).double().clamp(max=46)
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


@pytest.mark.skipif(packing.LEVEL != 2, reason="ISA-L is not made for this processor")
def test_files_are_the_same_without_isal(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
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
