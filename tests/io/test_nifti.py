"""NIfTI in and out; nibabel, as an independent reader and writer, is the referee."""

from __future__ import annotations

import gzip
import sys
from contextlib import nullcontext
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from nifti_files import SHAPE, numbers, oblique, rotation, save

from deepatlas.io.header import forms_differ_mm, say_if_forms_differ
from deepatlas.io.images import (
    read_geometry,
    read_header,
    read_image,
    read_labels,
    scan_id,
    write_image,
    write_labels,
)
from deepatlas.spatial.geometry import Geometry, Volume


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", ">i2", ">f4", "f8", "i8"])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_values_of_any_type_arrive(tmp_path: Path, dtype: str, name: str) -> None:
    data = numbers(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype).newbyteorder("="))
    nib.Nifti1Image(data, oblique(), header, dtype=data.dtype).to_filename(tmp_path / name)
    volume = read_image(tmp_path / name)
    assert volume.data.dtype == torch.float32
    np.testing.assert_array_equal(volume.data.numpy(), data.astype("f4"))
    np.testing.assert_allclose(volume.geometry.affine, oblique(), atol=1e-5)
    labels, kept = read_labels(tmp_path / name)
    assert labels.data.dtype == torch.int64
    np.testing.assert_array_equal(labels.data.numpy(), numbers("int64"))
    assert kept == np.dtype(dtype if dtype[-2] != "f" else "uint8").newbyteorder("=")


def test_scaling_is_applied(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers("int16"), np.eye(4))
    image.header.set_slope_inter(0.5, -3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    stored = nib.load(tmp_path / "a.nii")
    assert (stored.dataobj.slope, stored.dataobj.inter) == (0.5, -3)
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").data, stored.get_fdata())


def test_nifti_2_is_read(tmp_path: Path) -> None:
    nib.Nifti2Image(numbers(), oblique()).to_filename(tmp_path / "a.nii.gz")
    volume = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, numbers())
    np.testing.assert_allclose(volume.geometry.affine, oblique())
    assert read_geometry(tmp_path / "a.nii.gz").same_as(volume.geometry)


@pytest.mark.parametrize("shape", [(5, 6, 4, 1), (5, 6, 4, 1, 1)])
def test_a_single_volume_of_more_axes_is_squeezed(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = read_image(save(tmp_path / "a.nii", numbers().reshape(shape)))
    np.testing.assert_array_equal(volume.data, numbers())


def test_the_sform_counts_then_the_qform_then_what_itk_does(tmp_path: Path) -> None:
    image = nib.Nifti1Image(numbers(), None)
    image.header.set_sform(oblique(), 1)
    image.header.set_qform(np.diag([2.0, 3, 4, 1]), 1)
    image.to_filename(tmp_path / "both.nii")
    np.testing.assert_allclose(read_geometry(tmp_path / "both.nii").affine, oblique(), atol=1e-5)
    assert forms_differ_mm(read_header(tmp_path / "both.nii")) > 10
    image.header["sform_code"] = 0
    image.to_filename(tmp_path / "q.nii")
    expected = torch.diag(torch.tensor([2.0, 3, 4, 1]))
    np.testing.assert_allclose(read_geometry(tmp_path / "q.nii").affine, expected, atol=1e-5)
    assert forms_differ_mm(read_header(tmp_path / "q.nii")) == 0
    image.header["qform_code"] = 0
    image.to_filename(tmp_path / "none.nii")
    itk = sitk.ReadImage(str(tmp_path / "none.nii"))
    index = (2, 1, 3)
    lps = np.array(itk.TransformIndexToPhysicalPoint(index))
    ours = read_geometry(tmp_path / "none.nii").to_mm(torch.tensor(index))
    np.testing.assert_allclose(ours, lps * (-1, -1, 1))


def test_a_voxel_size_that_the_sform_has_not_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a qform, ITK takes the directions of the sform and the size that stands beside it."""
    image = nib.Nifti1Image(numbers(), None)
    image.header.set_sform(oblique(), 1)
    image.header["pixdim"][1:4] = np.linalg.norm(oblique()[:3, :3], axis=0)
    assert forms_differ_mm(image.header) < 1e-4
    image.header["pixdim"][2] += 1
    image.to_filename(tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii")
    last = tuple(n - 1 for n in numbers().shape)
    itk = np.array(sitk.ReadImage(str(tmp_path / "a.nii")).TransformIndexToPhysicalPoint(last))
    ours = read_geometry(tmp_path / "a.nii").to_mm(torch.tensor(last)).numpy()
    assert forms_differ_mm(header) == pytest.approx(
        np.linalg.norm(ours - itk * (-1, -1, 1)), abs=1e-3
    )
    say_if_forms_differ(header, "a.nii")
    assert "a.nii: sform and voxel size (pixdim) differ by up to" in caplog.text


def test_axes_that_itk_does_not_read_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for shear, is_read in ((1e-4, True), (1e-3, False)):
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        affine[0, 1] = 2 * shear
        image = nib.Nifti1Image(numbers(), None)
        image.header.set_sform(affine, 1)
        image.header["pixdim"][1:4] = 2
        image.to_filename(tmp_path / "a.nii")
        itk = nullcontext() if is_read else pytest.raises(RuntimeError, match="orthonormal")
        with itk:
            sitk.ReadImage(str(tmp_path / "a.nii"))
        caplog.clear()
        say_if_forms_differ(read_header(tmp_path / "a.nii"), "a.nii")
        assert ("not at right angles" in caplog.text) is not is_read


@pytest.mark.parametrize(("unit", "length_mm"), [("meter", 1000), ("micron", 0.001)])
def test_units_become_mm_and_stay_in_what_is_written(
    tmp_path: Path, unit: str, length_mm: float
) -> None:
    image = nib.Nifti1Image(numbers(), oblique())
    image.header.set_xyzt_units(unit, "sec")
    image.to_filename(tmp_path / "a.nii")
    volume = read_image(tmp_path / "a.nii")
    scaled = np.diag([length_mm] * 3 + [1]) @ oblique()
    np.testing.assert_allclose(volume.geometry.affine, scaled, rtol=1e-5)
    smaller = Volume(volume.data[1:], Geometry((4, 6, 4), volume.geometry.affine))
    for name, each in (("same.nii", volume), ("other.nii", smaller)):
        write_image(tmp_path / name, each, like=tmp_path / "a.nii")
        written = nib.load(tmp_path / name)
        assert written.header.get_xyzt_units() == (unit, "sec")
        np.testing.assert_allclose(written.affine, oblique(), rtol=1e-5)
        assert read_image(tmp_path / name).geometry.same_as(each.geometry)


@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (4, 2), (0, 0)])
@pytest.mark.parametrize("on_its_grid", [True, False])
def test_codes_of_like_are_kept(tmp_path: Path, codes: tuple[int, int], on_its_grid: bool) -> None:
    image = nib.Nifti1Image(numbers(), None)
    image.header.set_qform(oblique((-1, 1, 1)), codes[0])
    image.header.set_sform(oblique((-1, 1, 1)), codes[1])
    image.to_filename(tmp_path / "like.nii.gz")
    volume = read_image(tmp_path / "like.nii.gz")
    if not on_its_grid:
        finer = volume.geometry.affine @ torch.diag(torch.tensor([0.5, 1, 1, 1]).double())
        volume = Volume(torch.zeros(9, 6, 4), Geometry((9, 6, 4), finer))
    write_image(tmp_path / "out.nii.gz", volume, like=tmp_path / "like.nii.gz")
    header = nib.load(tmp_path / "out.nii.gz").header
    if codes != (0, 0) or on_its_grid:
        assert (int(header["qform_code"]), int(header["sform_code"])) == codes
    assert read_geometry(tmp_path / "out.nii.gz").same_as(volume.geometry)
    np.testing.assert_allclose(header.get_zooms(), volume.geometry.spacing_mm, rtol=1e-5)
    if on_its_grid:
        like = nib.load(tmp_path / "like.nii.gz").header
        for field in ("quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z", "pixdim"):
            np.testing.assert_array_equal(header[field], like[field])


@pytest.mark.parametrize("alike", [True, False])
def test_an_axis_that_nifti_1_cannot_hold(alike: bool, tmp_path: Path) -> None:
    data = np.arange(40_000 * 2, dtype=np.int16).reshape(40_000, 2, 1)
    image = nib.Nifti2Image(data, oblique())
    image.header.set_sform(oblique(), 4)
    image.to_filename(tmp_path / "like.nii.gz")
    volume, _ = read_labels(tmp_path / "like.nii.gz")
    write_labels(
        tmp_path / "new.nii.gz", volume, "int16", tmp_path / "like.nii.gz" if alike else None
    )
    written = nib.load(tmp_path / "new.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), data.reshape(written.shape))
    assert int(written.header["sform_code"]) == (4 if alike else 1)
    assert read_geometry(tmp_path / "new.nii.gz").coincides_with(volume.geometry)


def test_a_sheared_grid_has_no_qform(tmp_path: Path) -> None:
    affine = torch.from_numpy(oblique()).clone()
    affine[0, 1] += 0.5
    volume = Volume(torch.zeros(SHAPE), Geometry(SHAPE, affine))
    write_image(tmp_path / "a.nii", volume)
    assert int(nib.load(tmp_path / "a.nii").header["qform_code"]) == 0
    assert read_geometry(tmp_path / "a.nii").same_as(volume.geometry)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_what_is_written_is_read_by_us_nibabel_and_itk(
    tmp_path: Path, flip: tuple[int, int, int]
) -> None:
    data = torch.from_numpy(numbers("float32")) / 7
    volume = Volume(data, Geometry(SHAPE, torch.from_numpy(oblique(flip))))
    path = tmp_path / "a.nii.gz"
    write_image(path, volume)
    image = nib.load(path)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)
    np.testing.assert_allclose(image.get_sform(), oblique(flip), rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), oblique(flip), atol=1e-4)
    assert torch.equal(read_image(path).data, data)
    itk = sitk.ReadImage(str(path))
    lps = np.array(itk.TransformIndexToPhysicalPoint((4, 2, 3)))
    ours = volume.geometry.to_mm(torch.tensor([4, 2, 3]))
    np.testing.assert_allclose(ours, lps * (-1, -1, 1), atol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_labels_come_back_as_they_were(tmp_path: Path, dtype: str) -> None:
    values = np.array([0, 1, 7, np.iinfo(dtype).max], dtype=dtype)
    data = values[numbers("int64") % 4]
    source = save(tmp_path / "a.nii.gz", data, oblique())
    labels, kept = read_labels(source)
    assert kept == np.dtype(dtype)
    write_labels(tmp_path / "b.nii.gz", labels, kept, like=source)
    image = nib.load(tmp_path / "b.nii.gz")
    assert image.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), data)


@pytest.mark.parametrize(
    ("top", "kept"), [(200, "uint8"), (300, "int16"), (40_000, "int32"), (2**40, "int64")]
)
def test_whole_float_labels_become_the_smallest_integers(
    tmp_path: Path, top: int, kept: str
) -> None:
    data = np.where(numbers() % 2, top, 0).astype("float64")
    labels, dtype = read_labels(save(tmp_path / "a.nii", data))
    assert dtype == np.dtype(kept)
    assert sorted(labels.data.unique().tolist()) == [0, top]


def test_labels_scaled_by_their_header_are_rounded(tmp_path: Path) -> None:
    image = nib.Nifti1Image((numbers() % 2 * 255).astype("uint8"), np.eye(4))
    image.header.set_slope_inter(1 / 255, 0)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    labels, dtype = read_labels(tmp_path / "a.nii")
    np.testing.assert_array_equal(labels.data, numbers() % 2)
    assert dtype == np.uint8


@pytest.mark.parametrize(
    ("values", "whole", "kept"),
    [([0, 2.9999, 3.0001], [0, 3, 3], "uint8"), ([0, -1, 5], [0, -1, 5], "int16")],
)
def test_nearly_whole_and_negative_float_labels(
    tmp_path: Path, values: list[float], whole: list[int], kept: str
) -> None:
    data = np.array(values, "f4").reshape(3, 1) * np.ones(4, "f4")
    labels, dtype = read_labels(save(tmp_path / "a.nii", data))
    assert labels.data[:, 0].tolist() == whole
    assert dtype == np.dtype(kept)


def test_labels_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    geometry = Geometry.axis_aligned(SHAPE, (1, 1, 1))
    with pytest.raises(ValueError, match="do not fit"):
        write_labels(tmp_path / "a.nii", Volume(torch.full(SHAPE, 256), geometry), "uint8")
    with pytest.raises(ValueError, match="integers"):
        write_labels(tmp_path / "a.nii", Volume(torch.zeros(SHAPE), geometry), "uint8")
    assert not list(tmp_path.iterdir())


def test_the_same_scan_gives_the_same_bytes(tmp_path: Path) -> None:
    volume = Volume(torch.rand(SHAPE), Geometry.axis_aligned(SHAPE, (1, 2, 3)))
    write_image(tmp_path / "a.nii.gz", volume)
    write_image(tmp_path / "another.nii.gz", volume)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert content == (tmp_path / "another.nii.gz").read_bytes()
    assert content[4:8] == bytes(4)  # gzip's time stamp
    assert gzip.decompress(content)[:4] == (348).to_bytes(4, "little")


def test_no_private_text_of_like_is_copied(tmp_path: Path) -> None:
    source = save(tmp_path / "a.nii", numbers(), descrip=b"Jane Doe", cal_max=9, intent_code=1002)
    write_image(tmp_path / "b.nii", read_image(source), like=source)
    header = nib.load(tmp_path / "b.nii").header
    assert header["descrip"].item() == b""
    assert header["cal_max"] == 0
    assert header["intent_code"] == 0


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("a.nii", "a"),
        ("a.b.nii.gz", "a.b"),
        ("A_0000.NII.GZ", "A"),
        ("x_0001.nii", "x_0001"),
        ("dir/x_0000.nii", "x"),
        ("x.mha", "x"),
        ("x_0000.nrrd", "x"),
        ("x.y.TIFF", "x.y"),
        ("x.gz", "x.gz"),
    ],
)
def test_scan_id(name: str, identifier: str) -> None:
    assert scan_id(name) == identifier
    assert scan_id(Path(name)) == identifier


class TestSlices:
    """2-D files, whatever plane they lie in."""

    DATA = numbers("float32", (7, 5))

    @pytest.mark.parametrize("shape", [(7, 5), (7, 5, 1), (7, 5, 1, 1)])
    def test_the_number_of_axes_is_kept(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        affine = np.diag([0.7, 1.3, 4, 1])
        affine[:3, 3] = 5, -8, 30
        source = save(tmp_path / "a.nii.gz", self.DATA.reshape(shape), affine)
        volume = read_image(source)
        assert volume.data.shape == (7, 5)
        np.testing.assert_allclose(volume.geometry.affine, affine[:, [0, 1, 3]][[0, 1, 3]])
        write_image(tmp_path / "b.nii.gz", volume, like=source)
        image = nib.load(tmp_path / "b.nii.gz")
        assert image.shape == shape[:3]
        np.testing.assert_allclose(image.affine, nib.load(source).affine, rtol=1e-6)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj).reshape(7, 5), self.DATA)

    @pytest.mark.parametrize("columns", [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)])
    @pytest.mark.parametrize("tilt", [0.0, 0.4])
    def test_distances_in_any_plane_are_true(
        self, tmp_path: Path, columns: tuple[int, ...], tilt: float
    ) -> None:
        affine = np.eye(4)
        affine[:3, :3] = (rotation(tilt, tilt / 2, 0.3) @ np.eye(3))[:, columns] @ np.diag(
            [-0.7, 1.3, 4]
        )
        affine[:3, 3] = 3, 2, 1
        source = save(tmp_path / "a.nii", self.DATA.reshape(7, 5, 1), affine)
        geometry = read_geometry(source)
        index = np.array([[0, 0, 0], [6, 0, 0], [0, 4, 0], [3, 2, 0]])
        space = index @ affine[:3, :3].T
        flat = geometry.to_mm(torch.from_numpy(index[:, :2])).numpy()
        for n in range(4):
            np.testing.assert_allclose(
                np.linalg.norm(flat - flat[n], axis=1),
                np.linalg.norm(space - space[n], axis=1),
                atol=1e-5,
            )
        shifted = geometry.affine.clone()
        shifted[:2, 2] += shifted[:2, 0]
        write_image(
            tmp_path / "b.nii", Volume(torch.zeros(6, 5), Geometry((6, 5), shifted)), like=source
        )
        moved = affine.copy()
        moved[:3, 3] += affine[:3, 0]
        written = nib.load(tmp_path / "b.nii").affine
        np.testing.assert_allclose(written[:, [0, 1, 3]], moved[:, [0, 1, 3]], atol=1e-5)

    def test_a_coronal_slice_keeps_its_world_axes(self, tmp_path: Path) -> None:
        affine = np.eye(4)
        affine[:3, :3] = [[0, -2, 0], [0, 0, 1], [3, 0, 0]]
        affine[:3, 3] = 10, 20, 30
        geometry = read_geometry(save(tmp_path / "a.nii", self.DATA.reshape(7, 5, 1), affine))
        np.testing.assert_allclose(geometry.affine, [[0, -2, 10], [3, 0, 30], [0, 0, 1]])

    def test_without_like(self, tmp_path: Path) -> None:
        geometry = Geometry.axis_aligned((7, 5), (0.7, 1.3), (4.0, 5.0))
        write_image(tmp_path / "a.nii", Volume(torch.from_numpy(self.DATA), geometry))
        assert nib.load(tmp_path / "a.nii").shape == (7, 5)
        assert read_geometry(tmp_path / "a.nii").same_as(geometry)
