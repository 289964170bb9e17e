"""Scans of other formats than NIfTI; SimpleITK and nibabel, which write them, are the referees."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from image_files import (
    INTEGERS,
    LPS,
    SCANS,
    SHAPE,
    big_endian_mha,
    big_endian_nrrd,
    by_itk,
    corners_by_itk,
    flips,
    itk_formats,
    numbers,
    oblique,
    save,
    save_mgh,
)

from deepatlas.data.check import check_cohort
from deepatlas.errors import BadInput
from deepatlas.io.header import read_placement
from deepatlas.io.images import (
    FORMATS,
    decode_header,
    is_scan,
    nifti_name,
    read_geometry,
    read_header,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from deepatlas.io.layouts import read_cohort
from deepatlas.spatial.geometry import Geometry, Volume

sitk = pytest.importorskip("SimpleITK")


@flips
@itk_formats
@pytest.mark.parametrize("packed", [True, False])
def test_one_scan_in_any_format_of_itk_is_one_volume(
    flip: tuple[int, int, int], ending: str, packed: bool, tmp_path: Path
) -> None:
    path = save(tmp_path / f"a{ending}", numbers(), oblique(flip), useCompression=packed)
    nifti = save(tmp_path / "a.nii.gz", numbers(), oblique(flip))
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, oblique(flip), rtol=0, atol=1e-9)
    assert torch.equal(found.data, read_image(nifti).data)
    assert found.geometry.same_as(read_image(nifti).geometry)
    assert read_geometry(path).same_as(found.geometry, 1e-9)
    index, places = corners_by_itk(path)
    np.testing.assert_allclose(found.geometry.to_mm(torch.from_numpy(index)), places, atol=1e-9)


@flips
@pytest.mark.parametrize("ending", [".mgz", ".mgh"])
def test_a_volume_of_freesurfer_is_that_of_nibabel(
    flip: tuple[int, int, int], ending: str, tmp_path: Path
) -> None:
    path = save_mgh(tmp_path / f"a{ending}", numbers(), oblique(flip))
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, nib.load(path).affine, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.geometry.affine, oblique(flip), atol=1e-5)
    assert read_geometry(path).same_as(found.geometry, 1e-9)


@itk_formats
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_values_of_any_type_arrive(dtype: str, ending: str, tmp_path: Path) -> None:
    values = numbers() - (20 if np.dtype(dtype).kind == "i" else 0)
    path = save(tmp_path / f"a{ending}", values.astype(dtype), oblique())
    np.testing.assert_array_equal(read_image(path).data, values)
    labels, kept = read_labels(path)
    assert kept == (dtype if dtype in INTEGERS else "uint8")
    np.testing.assert_array_equal(labels.data, values)
    assert read_header(path).get_data_dtype() == dtype


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_values_of_freesurfer_arrive(dtype: str, tmp_path: Path) -> None:
    path = save_mgh(tmp_path / "a.mgz", numbers(dtype), oblique())
    np.testing.assert_array_equal(read_image(path).data, numbers())
    labels, kept = read_labels(path)
    assert kept == (dtype if dtype in INTEGERS else "uint8")
    assert kept.isnative
    np.testing.assert_array_equal(labels.data, numbers("int64"))


@pytest.mark.parametrize(
    ("ending", "make", "affine"),
    [
        (".mha", big_endian_mha, LPS @ np.diag([1.0, 2, 3, 1])),
        (".nrrd", big_endian_nrrd, [[1, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]]),
    ],
)
def test_big_endian_files_and_those_that_say_ras(
    ending: str, make: Callable[[np.ndarray], bytes], affine: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(make(numbers()))
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, affine)
    index, places = corners_by_itk(path)
    np.testing.assert_allclose(found.geometry.to_mm(torch.from_numpy(index)), places, atol=1e-9)


def test_text_voxels(tmp_path: Path) -> None:
    text = " ".join(str(n) for n in numbers().T.ravel()).encode() + b"\n"
    empty = np.zeros((0, 0, 0))
    nrrd = big_endian_nrrd(empty).replace(b"encoding: raw", b"encoding: ascii")
    nrrd = nrrd.replace(b"short", b"int64")  # more bytes in memory than in the file
    mha = big_endian_mha(empty).replace(b"MSB = True", b"MSB = False")
    mha = mha.replace(b"MET_SHORT", b"MET_LONG_LONG")
    mha = mha.replace(b"BinaryData = True", b"BinaryData = False")
    for name, header in (("a.nrrd", nrrd), ("a.mha", mha)):
        (tmp_path / name).write_bytes(header + text)
        np.testing.assert_array_equal(read_image(tmp_path / name).data, numbers())


@itk_formats
def test_a_slice_and_a_volume_of_four_axes(ending: str, tmp_path: Path) -> None:
    """A slice (X, Y, 1) of a tilted volume is 2-D and lies where it would as NIfTI."""
    values, tilted = numbers()[:, :, :1], oblique((-1, 1, 1))
    thin = save(tmp_path / f"thin{ending}", values, tilted)
    nifti = save(tmp_path / "thin.nii", values, tilted)
    assert read_image(thin).geometry.ndim == 2
    assert read_image(thin).geometry.same_as(read_image(nifti).geometry)
    four = sitk.JoinSeries([by_itk(numbers(), oblique())])
    sitk.WriteImage(four, str(tmp_path / f"four{ending}"))
    found = read_image(tmp_path / f"four{ending}")
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, oblique(), atol=1e-9)
    sitk.WriteImage(sitk.JoinSeries([by_itk(numbers())] * 2), str(tmp_path / f"two{ending}"))
    with pytest.raises(BadInput, match=rf"two\{ending}: holds several volumes \(7x5x4x2"):
        read_image(tmp_path / f"two{ending}")


def test_contract_every_format_has_its_sample() -> None:
    assert set(SCANS) | {".nii", ".nii.gz"} == set(FORMATS)


@pytest.mark.parametrize("ending", list(SCANS))
def test_contract_results_lie_on_the_scan(ending: str, tmp_path: Path) -> None:
    """To ITK too, which reads scan and result by itself."""
    path = SCANS[ending](tmp_path / f"a{ending}")
    volume = read_image(path)
    assert is_scan(path)
    assert nifti_name(path) == "a.nii.gz"
    write_labels(tmp_path / "l.nii.gz", Volume(volume.data.long(), volume.geometry), "int16", path)
    write_image(tmp_path / "i.nii.gz", volume, like=path)
    for name in ("l.nii.gz", "i.nii.gz"):
        assert read_geometry(tmp_path / name).same_as(volume.geometry)
        written = sitk.ReadImage(str(tmp_path / name))
        assert written.GetSize() == volume.geometry.shape
        index, places = corners_by_itk(tmp_path / name)
        to_us = volume.geometry.to_mm(torch.from_numpy(index))
        np.testing.assert_allclose(to_us, places, atol=1e-4)
        header = nib.load(tmp_path / name).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        assert header.get_xyzt_units()[0] == "mm"


@itk_formats
def test_a_result_on_a_slice_lies_in_the_plane_of_the_slice(ending: str, tmp_path: Path) -> None:
    upright = np.array([[0, 0, 2.5, 3], [0.8, 0, 0, 4], [0, 1.3, 0, 5], [0, 0, 0, 1]])
    path = save(tmp_path / f"a{ending}", numbers()[:, :, :1], upright)
    write_image(tmp_path / "r.nii.gz", read_image(path), like=path)
    np.testing.assert_allclose(nib.load(tmp_path / "r.nii.gz").affine, upright, atol=1e-6)
    assert nib.load(tmp_path / "r.nii.gz").shape == (7, 5, 1)


def test_a_cohort_of_several_formats(tmp_path: Path) -> None:
    endings = {"a": (".mha", ".nrrd"), "b": (".mhd", ".nii.gz"), "c": (".mgz", ".mha")}
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, (image, labels) in endings.items():
        write = save_mgh if image == ".mgz" else save
        write(tmp_path / "images" / f"{name}{image}", numbers(), oblique())
        save(tmp_path / "labels" / f"{name}{labels}", numbers("uint16") % 3, oblique())
    cohort = read_cohort(tmp_path)
    assert cohort.faults == ()
    assert [s.id for s in cohort.labelled] == ["a", "b", "c"]
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    for name in endings:
        found = facts[name].labels
        assert found is not None
        assert (found.values, found.dtype) == ((1, 2), "uint16")
        assert len({facts[name].image.digest, found.digest, ""}) == 3


def test_one_scan_under_two_endings_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "a.mha", numbers(), oblique())
    save(tmp_path / "images" / "a.nii.gz", numbers(), oblique())
    (fault,) = read_cohort(tmp_path).faults
    assert "a.nii.gz: a second image of scan 'a' beside a.mha; keep one" in fault


def test_labels_on_another_grid_than_their_image_are_a_fault(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "images" / "a.mha", numbers(), oblique())
    save(tmp_path / "labels" / "a.nrrd", numbers("uint8") % 3, oblique((-1, 1, 1)))
    with pytest.raises(BadInput, match=r"a\.nrrd: lies up to .* mm away from its image"):
        check_cohort(read_cohort(tmp_path), needs_labels=True, needs_pairs=False)


@pytest.mark.parametrize(
    ("directions", "place"),
    [
        ("(-2,0,0) (0,-3,0)", [[2, 0, -10], [0, 3, -20], [0, 0, 1]]),
        ("(2,0,0) (0,0,3)", [[-2, 0, -10], [0, 3, 30], [0, 0, 1]]),
        ("(0,2,0) (0,0,-3)", [[-2, 0, -20], [0, -3, 30], [0, 0, 1]]),
    ],
)
def test_an_nrrd_slice_of_any_plane(
    directions: str, place: list[list[float]], tmp_path: Path
) -> None:
    """Axial, coronal and sagittal, in LPS; a slice keeps the two world axes that it lies along."""
    header = (
        "NRRD0004\ntype: short\ndimension: 2\nspace: left-posterior-superior\nsizes: 7 5\n"
        f"space directions: {directions}\nspace origin: (10,20,30)\nendian: little\n"
        "encoding: raw\n\n"
    )
    values = numbers(shape=(7, 5))
    (tmp_path / "a.nrrd").write_bytes(header.encode() + values.T.astype("<i2").tobytes())
    found = read_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(found.data, values)
    np.testing.assert_allclose(found.geometry.affine, place, atol=1e-9)


def test_a_geometry_needs_no_voxels(tmp_path: Path) -> None:
    grid = Geometry(SHAPE, torch.from_numpy(oblique()))
    for name in ("a.mha", "a.nrrd"):
        save(tmp_path / name, numbers(), oblique(), useCompression=True)
        content = (tmp_path / name).read_bytes()[:-30]
        assert read_placement(decode_header(content, tmp_path / name), name).same_as(grid)
