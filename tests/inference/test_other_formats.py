"""Scans of other formats than NIfTI through the verbs: what a NIfTI file of the scan would give."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out
sys.path.insert(0, str(Path(__file__).parents[1] / "io"))

from dicom_files import write_series
from test_session import PLANS, VALUES, anatomy, flipped, importable, make_run, oblique

from deepatlas.errors import BadInput
from deepatlas.inference.chain import warp
from deepatlas.inference.register import register
from deepatlas.inference.segment import segment
from deepatlas.io.images import read_geometry, read_image, read_labels
from deepatlas.spatial.geometry import Geometry, Volume

__all__ = ["importable"]  # a fixture


def save(path: Path, volume: Volume, dtype: str = "float32") -> Path:
    """Write with SimpleITK or nibabel, whatever this package would do."""
    data = volume.data.numpy().astype(dtype)
    affine = volume.geometry.affine.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == "":
        return write_series(path, data, affine)
    if path.suffix == ".mgz":
        nib.MGHImage(data, affine).to_filename(path)
        return path
    d = volume.geometry.ndim
    lps = np.diag([-1.0, -1.0, 1.0][:d]) @ affine[:d]
    spacing = np.linalg.norm(lps[:, :d], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:, :d] / spacing).ravel().tolist())
    image.SetOrigin(lps[:, d].tolist())
    sitk.WriteImage(image, str(path))
    return path


def check_lies_on(result: Path, scan: Path) -> None:
    """Shape and place of a result to ITK are those of the scan."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(scan)) if scan.is_dir() else str(scan)
    a, b = sitk.ReadImage(str(result)), sitk.ReadImage(names)
    assert a.GetSize() == b.GetSize()
    ends = np.array(list(np.ndindex(*[2] * b.GetDimension()))) * (np.array(b.GetSize()) - 1)
    for index in ends.tolist():
        places = [image.TransformIndexToPhysicalPoint(index) for image in (a, b)]
        np.testing.assert_allclose(*places, atol=1e-3)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.mgz", "a"])
def test_segmentations_lie_on_scans_of_any_format(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    image, labels = anatomy(flipped(3))
    path = save(tmp_path / name, image, "int16")
    (written,) = segment(run, [path], out=tmp_path / "out")
    assert written == tmp_path / "out" / "a.nii.gz"
    found, dtype = read_labels(written)
    assert dtype == np.dtype("int16")
    assert found.geometry.same_as(image.geometry)
    assert torch.equal(found.data, labels.data)
    if path.suffix != ".mgz":
        check_lies_on(written, path)
    np.testing.assert_allclose(nib.load(written).affine, image.geometry.affine, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.png", "uint8"), ("a.png", "uint16"), ("a.tif", "uint16"), ("a.tiff", "float32")],
)
def test_segmentations_lie_on_their_pictures(name: str, dtype: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    place = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    image, labels = anatomy(Geometry((31, 27), place))
    low, high = image.data.min(), image.data.max()
    level = (image.data - low) / (high - low) * (250 if dtype == "uint8" else 40000)
    Image.fromarray(np.ascontiguousarray(level.numpy().astype(dtype).T)).save(tmp_path / name)
    (written,) = segment(run, [tmp_path / name], out=tmp_path / "out")
    found = read_labels(written)[0]
    assert set(found.data.unique().tolist()) == {0, *VALUES}
    assert found.geometry.same_as(read_geometry(tmp_path / name))
    assert (found.data == labels.data).float().mean() > 0.97
    check_lies_on(written, tmp_path / name)


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".mgz", ""])
def test_a_registration_is_that_of_the_nifti_files(ending: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3], "constant")
    grids = {"moving": oblique(3, 1), "fixed": oblique(3, 0)}
    scans = {name: anatomy(grid) for name, grid in grids.items()}
    paths = {name: save(tmp_path / f"{name}{ending}", scans[name][0], "int16") for name in grids}
    other = {name: save(tmp_path / "n" / f"{name}.nii", scans[name][0], "int16") for name in grids}
    labels = save(tmp_path / f"labels{ending}", scans["moving"][1], "int32")
    result = register(
        run, **paths, moving_labels=labels, out=tmp_path / "a", keep_dtype=True, write="all"
    )
    expected = register(
        run, **other, moving_labels=labels, out=tmp_path / "b", keep_dtype=True, write="all"
    )
    ours, theirs = read_image(result.moved), read_image(expected.moved)
    assert ours.geometry.same_as(grids["fixed"])
    assert (ours.data - theirs.data).abs().max() <= 1  # rounded to int16
    assert nib.load(result.moved).get_data_dtype() == np.int16
    assert result.moved_labels is not None
    moved, dtype = read_labels(result.moved_labels)
    assert dtype == np.int32
    same = moved.data == read_labels(tmp_path / "b/moved_labels.nii.gz")[0].data
    assert same.float().mean() > 0.999
    fields = [nib.load(tmp_path / f / "transform.nii.gz").get_fdata() for f in ("a", "b")]
    np.testing.assert_allclose(*fields, atol=1e-2)
    record = json.loads(result.record.read_text())
    assert record["to"]["file"] == str(paths["moving"])
    assert record["to"]["sha256"] != record["from"]["sha256"]
    warped = warp(
        [result.transform_file], image=paths["moving"], onto=paths["fixed"], out=tmp_path / "w"
    )
    assert warped.files == (tmp_path / "w" / "moving.nii.gz",)
    assert (read_image(warped.files[0]).data - ours.data).abs().max() <= 0.51
    assert read_geometry(warped.files[0]).same_as(grids["fixed"])


def test_a_warped_scan_does_not_replace_what_has_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    image, labels = anatomy(flipped(3))
    scan, map_ = save(tmp_path / "a.mha", image), save(tmp_path / "a.nrrd", labels, "int16")
    result = register(run, moving=scan, fixed=scan, out=tmp_path / "out")
    with pytest.raises(BadInput, match=r"a\.nii\.gz: two results of this name"):
        warp([result.transform_file], image=scan, labels=map_, onto=scan, out=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_two_formats_of_one_scan_are_not_segmented_into_one_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    paths = [save(tmp_path / name, anatomy(flipped(3))[0]) for name in ("a.mha", "a.nrrd")]
    with pytest.raises(BadInput, match=r"a\.mha, .*a\.nrrd: would all be written to a\.nii\.gz"):
        segment(run, paths, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_do_not_go_among_the_slices(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    scan = save(tmp_path / "a", anatomy(flipped(3))[0], "int16")
    before = sorted(scan.iterdir())
    with pytest.raises(BadInput, match=r"a: the results would lie among its files"):
        segment(run, [scan], out=scan)
    with pytest.raises(BadInput, match=r"a: the results would lie among its files"):
        register(run, moving=scan, fixed=scan, out=scan)
    assert sorted(scan.iterdir()) == before
