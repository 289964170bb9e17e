"""DICOM series as scans; SimpleITK, and placements computed by hand, are the referees."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from dicom_files import Change, image, packed, write_frames, write_series
from dicom_samples import SHAPE, by_itk, check_as_itk, larger, numbers, oblique

from deepatlas.data.check import check_cohort
from deepatlas.errors import BadInput
from deepatlas.io.images import (
    is_scan,
    nifti_name,
    read_content,
    read_geometry,
    read_header,
    read_image,
    read_labels,
    scan_id,
    write_image,
)
from deepatlas.io.layouts import read_cohort
from deepatlas.run.check import check

sitk: Any = pytest.importorskip("SimpleITK")


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "int8"])
def test_an_oblique_series_is_what_was_written(dtype: str, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", numbers(dtype), oblique())
    found = read_image(folder)
    np.testing.assert_array_equal(found.data, numbers(dtype))
    np.testing.assert_allclose(found.geometry.affine, oblique(), atol=1e-5)
    assert read_header(folder).get_data_dtype() == dtype
    assert read_geometry(folder).same_as(found.geometry)
    labels, kept = read_labels(folder)
    assert kept == dtype
    np.testing.assert_array_equal(labels.data, numbers(dtype))
    if dtype != "int8":  # which ITK does not read
        check_as_itk(folder)


@pytest.mark.parametrize("numbered", [True, False])
def test_slices_are_ordered_by_their_places(numbered: bool, tmp_path: Path) -> None:
    """Not by name nor number: reversed and interleaved series are the same volume."""

    def renumbered(made: Dataset, number: int) -> None:
        made.InstanceNumber = 9 - number if numbered else None

    names = ["c", "a.dcm", "d.ima", "b.5.7"]
    folder = write_series(tmp_path / "s", numbers(), oblique(), names=names, change=renumbered)
    np.testing.assert_array_equal(read_image(folder).data, numbers())
    np.testing.assert_allclose(read_geometry(folder).affine, oblique(), atol=1e-5)


def test_a_left_handed_stack_is_turned_as_itk_turns_it(tmp_path: Path) -> None:
    """First file on top: the last axis goes along the normal of rows and columns, always."""
    flipped = oblique()
    flipped[:3, 2] *= -1
    folder = write_series(tmp_path / "s", numbers(), flipped)
    check_as_itk(folder)
    expected = flipped @ np.diag([1, 1, -1, 1])
    expected[:3, 3] = flipped[:3, 3] + 3 * flipped[:3, 2]
    np.testing.assert_allclose(read_geometry(folder).affine, expected, atol=1e-5)
    np.testing.assert_array_equal(read_image(folder).data, numbers()[:, :, ::-1])


@pytest.mark.parametrize(
    ("rows", "columns", "affine"),
    [
        ((1, 0, 0), (0, 1, 0), [[-2, 0, 0, -10], [0, -3, 0, -20], [0, 0, 4, 30]]),  # axial
        ((0, 1, 0), (0, 0, -1), [[0, 0, 4, -22], [-2, 0, 0, -20], [0, -3, 0, 30]]),  # sagittal
        ((1, 0, 0), (0, 0, -1), [[-2, 0, 0, -10], [0, 0, -4, -20], [0, -3, 0, 30]]),  # coronal
    ],
)
def test_placement_by_hand(
    rows: tuple[int, ...], columns: tuple[int, ...], affine: list[list[float]], tmp_path: Path
) -> None:
    """Head first, supine; columns 2 mm, rows 3 mm, slices 4 mm apart from (10, 20, 30) LPS on."""
    across = np.cross(rows, columns)
    folder = tmp_path / "s"
    folder.mkdir()
    for n in range(4):
        place = np.array([10, 20, 30]) + 4 * abs(across) * n
        made = image(
            numbers()[:, :, n], ImagePositionPatient=place.tolist(), PixelSpacing=[3, 2],
            ImageOrientationPatient=[*rows, *columns],
        )  # fmt: skip
        made.save_as(folder / f"{n}.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read_geometry(folder).affine[:3], affine, atol=1e-9)


def test_each_slice_has_its_own_scale(tmp_path: Path) -> None:
    """As in PET; and one scale for all, as in CT."""

    def scaled(made: Dataset, number: int) -> None:
        made.RescaleSlope, made.RescaleIntercept = f"{0.5 + number}", "-3.25"

    folder = write_series(tmp_path / "pet", numbers("uint16"), oblique(), change=scaled)
    np.testing.assert_allclose(
        read_image(folder).data, numbers() * (0.5 + np.arange(4)) - 3.25, rtol=1e-6
    )
    assert read_header(folder).get_data_dtype() == np.float32

    def hounsfield(made: Dataset, number: int) -> None:
        made.RescaleSlope, made.RescaleIntercept, made.BitsStored = 1, -1024, 12
        made.HighBit = 11

    folder = write_series(tmp_path / "ct", numbers("uint16"), oblique(), change=hounsfield)
    np.testing.assert_array_equal(read_image(folder).data, numbers() - 1024)
    assert read_header(folder).get_data_dtype() == np.int16
    assert read_labels(folder)[0].data.min() == -1024
    check_as_itk(folder)


@pytest.mark.parametrize("where", [{}, {"RescaleSlope": 2, "RescaleIntercept": -5}])
@pytest.mark.parametrize("name", ["scan.dcm", "scan/frames"])
def test_frames_of_one_file_are_slices(name: str, where: dict[str, int], tmp_path: Path) -> None:
    path = write_frames(tmp_path / name, numbers(), oblique(), **where)
    path = path if path.suffix else path.parent
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers() * 2 - 5 if where else numbers())
    np.testing.assert_allclose(found.geometry.affine, oblique(), atol=1e-5)
    assert nifti_name(path) == "scan.nii.gz"


@pytest.mark.parametrize("kind", ["JPEG", "JPEG2000"])
def test_packed_voxels(kind: str, tmp_path: Path) -> None:
    """Lossless JPEG of either kind; a scale is applied once."""

    folder = write_series(tmp_path / "s", larger(), oblique())
    for path in folder.iterdir():
        packed(path, kind)
        made = pydicom.dcmread(path)
        assert made.file_meta.TransferSyntaxUID.startswith("1.2.840.10008.1.2.4.")
        made.RescaleIntercept = -100
        made.save_as(path)
    found = read_image(folder)
    np.testing.assert_array_equal(found.data, larger().astype("f4") - 100)
    np.testing.assert_allclose(found.geometry.affine, oblique(), atol=1e-5)
    check_as_itk(folder)


def test_other_ways_of_storing(tmp_path: Path) -> None:
    def big(made: Dataset, number: int) -> None:
        made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        made.PixelData = numbers()[:, :, number].T.astype(">i2").tobytes()

    def deflated(made: Dataset, number: int) -> None:
        made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    def runs(made: Dataset, number: int) -> None:
        made.compress(RLELossless, generate_instance_uid=False)

    changes: dict[str, Change] = {"big": big, "deflated": deflated, "runs": runs}
    for name, change in changes.items():
        folder = write_series(tmp_path / name, numbers(), oblique(), change=change)
        np.testing.assert_array_equal(read_image(folder).data, numbers())


def test_one_image_is_a_slice(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers()[:, :, :1], oblique())
    assert read_geometry(folder).ndim == 2
    assert read_geometry(folder / "im000.dcm").same_as(read_geometry(folder))
    np.testing.assert_array_equal(read_image(folder / "im000.dcm").data, numbers()[:, :, 0])
    flat = image(numbers()[:, :, 0], ImagerPixelSpacing=[0.2, 0.1])
    flat.save_as(tmp_path / "xray.dcm", enforce_file_format=True)
    assert read_geometry(tmp_path / "xray.dcm").spacing_mm == (0.1, 0.2)


def test_names_and_what_lies_beside(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "sub-01.visit2", numbers(), oblique())
    (folder / "notes.txt").write_text("beside")
    (folder / "T1.nii.gz").write_bytes(b"what dcm2niix made of it")
    (folder / ".hidden").write_text("beside")
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "more").mkdir()
    assert is_scan(folder)
    assert not is_scan(tmp_path)
    assert (scan_id(folder), nifti_name(folder)) == ("sub-01.visit2", "sub-01.visit2.nii.gz")
    assert read_image(folder).geometry.shape == SHAPE


def test_other_objects_of_the_study_are_no_slices(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers(), oblique())
    report = image(numbers()[:, :, 0], SeriesInstanceUID="1.2.3")
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    report.save_as(folder / "report.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(folder).data, numbers())


def test_content_is_that_of_the_files(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers(), oblique())
    before = read_content(folder)
    (folder / "notes.txt").write_text("beside")
    assert read_content(folder) == before
    made = pydicom.dcmread(folder / "im002.dcm")
    made.PatientComments = "other"
    made.save_as(folder / "im002.dcm")
    assert read_content(folder) != before


def test_results_lie_on_the_series(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers(), oblique())
    write_image(tmp_path / "r.nii.gz", read_image(folder), like=folder)
    assert read_geometry(tmp_path / "r.nii.gz").same_as(read_geometry(folder))
    theirs, scan = sitk.ReadImage(str(tmp_path / "r.nii.gz")), by_itk(folder)
    for index in ((0, 0, 0), (6, 0, 3), (0, 4, 3)):
        np.testing.assert_allclose(
            *[of.TransformIndexToPhysicalPoint(index) for of in (theirs, scan)], atol=1e-4
        )


def test_a_cohort_of_series(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    for n, name in enumerate(("a", "b")):
        folder = write_series(tmp_path / "images" / name, numbers() + n, oblique())
        labels = read_image(folder)
        write_image(tmp_path / f"labels/{name}.nii.gz", labels, dtype="int16")
    (tmp_path / "images" / "empty").mkdir()
    cohort = read_cohort(tmp_path)
    assert cohort.faults == ()
    assert [subject.id for subject in cohort.labelled] == ["a", "b"]
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    assert facts["a"].image.digest != facts["b"].image.digest
    (tmp_path / "images/b/im001.dcm").unlink()
    with pytest.raises(BadInput, match=r"images/b: uneven or missing slices"):
        check_cohort(read_cohort(tmp_path), needs_labels=True, needs_pairs=True)
    (finding,) = [f for f in check(tmp_path).findings if f.severity == "error"]
    assert (finding.kind, finding.scan) == ("uneven-slices", "b")
