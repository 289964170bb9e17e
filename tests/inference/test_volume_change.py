"""`jacobian`: determinants in mm, their logarithm, and the volume of each structure."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from test_session import oblique, write_scan

from deepatlas.errors import BadInput
from deepatlas.inference.volume_change import jacobian
from deepatlas.io.images import read_image, write_image, write_labels
from deepatlas.io.transforms import write_transform
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Composite, DisplacementField


@pytest.mark.parametrize("d", [2, 3])
def test_an_affine_map_has_its_determinant_everywhere(d: int, tmp_path: Path) -> None:
    grid = oblique(d)
    matrix = torch.eye(d + 1).double()
    matrix[:d, :d] += 0.1 * torch.tensor([[1, -2, 0.5], [2, 0, 1], [0, -1, 3]])[:d, :d]
    expected = float(torch.linalg.det(matrix))
    assert abs(expected - 1) > 0.1
    write_transform(tmp_path / "t.mat", Affine(matrix))
    write_scan(tmp_path / "fixed.nii.gz", grid)
    labels = torch.zeros(grid.shape, dtype=torch.int64)
    labels[2:5] = 7
    labels[6:] = 300
    write_labels(tmp_path / "labels.nii.gz", Volume(labels, grid), "int16")
    paths = {"onto": tmp_path / "fixed.nii.gz", "labels": tmp_path / "labels.nii.gz"}
    for inverse, value in ((False, expected), (True, 1 / expected)):
        out = tmp_path / str(inverse)
        result = jacobian([tmp_path / "t.mat"], **paths, out=out, inverse=inverse)
        assert [file.name for file in result.files] == [
            "jacobian.nii.gz", "log_jacobian.nii.gz", "volume_change.csv",
        ]  # fmt: skip
        found = read_image(result.determinant)
        assert found.geometry.same_as(grid)
        torch.testing.assert_close(found.data, torch.full(grid.shape, value), atol=1e-3, rtol=0)
        logarithm = read_image(result.log_determinant).data
        torch.testing.assert_close(logarithm, found.data.log(), atol=1e-6, rtol=0)
        assert result.folds_percent == 0
        assert result.table is not None
        rows = list(csv.DictReader(result.table.open()))
        assert [row["label"] for row in rows] == ["7", "300"]
        cell = float(np.prod(grid.spacing_mm))
        for row in rows:
            count = int((labels == int(row["label"])).sum())
            assert int(row["voxels"]) == count
            assert float(row["volume_mm3"]) == pytest.approx(count * cell, rel=1e-4)
            assert float(row["mapped_volume_mm3"]) == pytest.approx(count * cell * value, rel=1e-3)
            assert float(row["change_percent"]) == pytest.approx(100 * (value - 1), abs=0.1)
            assert row["folded_voxels"] == "0"


def test_simpleitk_has_the_same_determinant(tmp_path: Path) -> None:
    """Of a chain, on an oblique anisotropic grid, where the voxels are no cubes."""
    grid = oblique(3)
    waves = torch.stack([torch.sin(torch.linspace(0, 3, n)) for n in (grid.shape[0],) * 3])
    field = DisplacementField((waves * 1.5)[:, :, None, None].expand(3, *grid.shape), grid)
    chain = Composite([Affine.translation([0.3, 0.2, -0.4]), field])
    write_transform(tmp_path / "t.h5", chain)
    write_scan(tmp_path / "fixed.nii.gz", grid)
    result = jacobian([tmp_path / "t.h5"], onto=tmp_path / "fixed.nii.gz", out=tmp_path / "out")
    assert result.table is None
    itk = sitk.ReadTransform(str(tmp_path / "t.h5"))
    ours, lps = read_image(result.determinant).data, np.array([-1.0, -1.0, 1.0])

    def there(index: torch.Tensor) -> np.ndarray:
        point = grid.to_mm(index).numpy() * lps
        return np.array(itk.TransformPoint(tuple(point)))

    found, expected = [], []
    for index in torch.cartesian_prod(*[torch.arange(2, n - 2, 3) for n in grid.shape]):
        steps = torch.eye(3, dtype=torch.int64)
        columns = [(there(index + step) - there(index - step)) / 2 for step in steps]
        cell = torch.linalg.det(grid.affine[:3, :3])
        expected.append(float(np.linalg.det(np.array(columns)) / cell))
        found.append(float(ours[tuple(index)]))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(np.array(found) - 1).max() > 0.05


def test_folds_are_counted_and_have_no_logarithm(tmp_path: Path) -> None:
    grid = oblique(3)
    voxels = torch.zeros(3, *grid.shape)
    voxels[0, 5:] = -4.0  # what lies behind the fifth plane comes before it
    write_transform(tmp_path / "t.h5", DisplacementField(voxels, grid))
    write_scan(tmp_path / "fixed.nii.gz", grid)
    result = jacobian([tmp_path / "t.h5"], onto=tmp_path / "fixed.nii.gz", out=tmp_path / "out")
    assert result.folds_percent > 1
    determinant = read_image(result.determinant).data
    logarithm = read_image(result.log_determinant).data
    assert torch.equal(determinant <= 0, ~logarithm.isfinite())


@pytest.mark.parametrize("shape", [(1, 8, 9), (7, 1, 9)])
def test_an_axis_of_one_voxel_is_stretched_too(shape: tuple[int, ...], tmp_path: Path) -> None:
    """By the affine part as along the others; a field that ends there has no say."""
    grid = Geometry(shape, oblique(3).affine)
    field = DisplacementField(torch.full((3, *shape), 0.3), grid)
    scale = torch.diag(torch.tensor([1.2, 1.2, 1.2, 1.0]).double())
    write_transform(tmp_path / "t.h5", Composite([field, Affine(scale)]))
    write_image(tmp_path / "fixed.nii.gz", Volume(torch.zeros(shape), grid))
    result = jacobian([tmp_path / "t.h5"], onto=tmp_path / "fixed.nii.gz", out=tmp_path / "out")
    found = read_image(result.determinant)
    torch.testing.assert_close(found.data, torch.full(shape, 1.2**3), atol=1e-3, rtol=0)


def test_a_table_of_another_map_does_not_stay(tmp_path: Path) -> None:
    write_transform(tmp_path / "t.mat", Affine.identity(3))
    _, labels = write_scan(tmp_path / "fixed.nii.gz", oblique(3))
    write_labels(tmp_path / "labels.nii.gz", labels, "int16")
    given = {"onto": tmp_path / "fixed.nii.gz", "out": tmp_path / "out"}
    first = jacobian([tmp_path / "t.mat"], **given, labels=tmp_path / "labels.nii.gz")
    assert first.table is not None
    assert first.table.exists()
    second = jacobian([tmp_path / "t.mat"], **given)
    assert sorted(second.files) == sorted((tmp_path / "out").iterdir())


def test_labels_of_another_grid(tmp_path: Path) -> None:
    write_transform(tmp_path / "t.h5", Affine.identity(3))
    write_scan(tmp_path / "fixed.nii.gz", oblique(3))
    other = oblique(3, 1)
    zeros = Volume(torch.zeros(other.shape, dtype=torch.int64), other)
    write_labels(tmp_path / "labels.nii.gz", zeros, "int16")
    with pytest.raises(BadInput, match=r"labels\.nii\.gz: does not lie on the grid of"):
        jacobian(
            [tmp_path / "t.h5"], onto=tmp_path / "fixed.nii.gz",
            labels=tmp_path / "labels.nii.gz", out=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_folds_of_a_thin_scan(tmp_path: Path) -> None:
    """Two slices have no voxel inside along one axis; there is a share of folds all the same."""
    grid = Geometry.axis_aligned((7, 6, 2), (1.0, 1.0, 4.0))
    write_transform(tmp_path / "t.h5", Affine.identity(3))
    write_scan(tmp_path / "fixed.nii.gz", grid)
    result = jacobian([tmp_path / "t.h5"], onto=tmp_path / "fixed.nii.gz", out=tmp_path / "out")
    assert result.folds_percent == 0
