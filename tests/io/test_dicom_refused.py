"""DICOM series that are no one volume, or damaged: each is refused in words that name the slice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from dicom_files import LPS, Change, image, packed, placed, write_series
from dicom_samples import larger, numbers, oblique

from deepatlas.errors import BadInput
from deepatlas.io.images import read_geometry, read_image


def refused(folder: Path, why: str) -> None:
    for read in (read_image, read_geometry):
        with pytest.raises(BadInput, match=why) as caught:
            read(folder)
        assert str(caught.value).startswith(f"{folder}: ")


def test_missing_and_uneven_slices_are_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", np.repeat(numbers(), 3, axis=2), oblique())
    for number in (4, 7, 8):
        (folder / f"im{number:03d}.dcm").unlink()
    refused(folder, r"they lie 2\.5 mm apart, but im003\.dcm and im005\.dcm 5 mm, 1 missing "
            r"between them; im006\.dcm and im009\.dcm 7\.5 mm, 2 missing")  # fmt: skip

    def slid(made: Dataset, number: int) -> None:
        made.ImagePositionPatient = placed(oblique(), number + 0.3 * (number == 2))[
            "ImagePositionPatient"
        ]

    refused(write_series(tmp_path / "t", numbers(), oblique(), change=slid),
            r"im001\.dcm and im002\.dcm 3\.25 mm; im002\.dcm and im003\.dcm 1\.75 mm")  # fmt: skip


def test_rounded_places_are_even(tmp_path: Path) -> None:
    def rounded(made: Dataset, number: int) -> None:
        made.ImagePositionPatient = [round(float(v), 2) for v in made.ImagePositionPatient]
        made.ImageOrientationPatient = [round(float(v), 4) for v in made.ImageOrientationPatient]

    folder = write_series(tmp_path / "s", numbers(), oblique(), change=rounded)
    np.testing.assert_allclose(read_geometry(folder).affine, oblique(), atol=0.01)


def test_several_series_are_listed(tmp_path: Path) -> None:
    for n, (name, words) in enumerate([("a", "T1 MPRAGE"), ("b", "T2")]):

        def named(made: Dataset, number: int, n: int = n, words: str = words) -> None:
            made.SeriesInstanceUID = f"1.2.{n}"
            made.SeriesNumber, made.SeriesDescription = n + 3, words

        names = [f"{name}{k}" for k in range(4)]
        write_series(tmp_path / "s", numbers()[:, :, : 4 - n], oblique(), names=names, change=named)
    refused(tmp_path / "s", r"holds 2 series: 3 'T1 MPRAGE' \(4 files\); 4 'T2' \(3 files\); move")


def test_copies_and_several_volumes(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers(), oblique())
    (folder / "im001 (1).dcm").write_bytes((folder / "im001.dcm").read_bytes())
    refused(folder, r"im001 \(1\)\.dcm and im001\.dcm are copies of one image")
    made = pydicom.dcmread(folder / "im001.dcm")
    made.SOPInstanceUID = "1.2.3"
    made.save_as(folder / "im001 (1).dcm")
    refused(folder, r"several images at one place: im001 \(1\)\.dcm and im001\.dcm; keep one")
    echo = write_series(tmp_path / "t", numbers(), oblique())
    write_series(tmp_path / "t", numbers(), oblique(), names=[f"second{n}" for n in range(4)])
    refused(echo, r"holds 2 images at every place \(echoes.*such as im000\.dcm and second0; put")


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    tilted = oblique()
    tilted[:3, 2] += 0.3 * oblique()[:3, 1]
    refused(write_series(tmp_path / "s", numbers(), tilted), r"gantry tilted by 8\.9 degrees")


def changed(keyword: str, value: Any) -> Change:
    """Slice 2 says something else."""

    def change(made: Dataset, number: int) -> None:
        if number == 2:
            setattr(made, keyword, value)

    return change


@pytest.mark.parametrize(
    ("keyword", "value", "why"),
    [
        ("ImageOrientationPatient", [0, 1, 0, 0, 0, -1], "im000.dcm and im002.dcm do not lie in p"),
        ("PixelSpacing", [1.3, 0.9], r"pixels of 0\.8 x 1\.3 mm and im002\.dcm of 0\.9 x 1\.3 mm"),
        ("PhotometricInterpretation", "RGB", r"im002\.dcm holds colours \(RGB\)"),
        ("SamplesPerPixel", 3, r"im002\.dcm holds colours"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], r"im002\.dcm holds the slices"),
        ("ImagePositionPatient", None, "im000.dcm and im002.dcm do not lie in parallel"),
        ("ImagePositionPatient", [1, 2], "im002.dcm: damaged"),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "im002.dcm: damaged.*right angles"),
        ("PixelSpacing", [0, 1], r"im002\.dcm: damaged.*pixels of"),
        ("RescaleSlope", 0, r"im002\.dcm: damaged.*slope 0"),
        ("BitsStored", 99, r"im002\.dcm: damaged.*99 bits"),
        ("SeriesInstanceUID", None, r"im002\.dcm: damaged.*it names no series"),
    ],
)
def test_slices_that_are_unlike_the_others_are_named(
    keyword: str, value: Any, why: str, tmp_path: Path
) -> None:
    refused(write_series(tmp_path / "s", numbers(), oblique(), change=changed(keyword, value)), why)


def test_images_of_two_sizes(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers()[:, :, :2], oblique())
    write_series(folder, numbers()[:5], oblique(), names=["x", "y", "z", "w"])
    refused(folder, r"im000\.dcm has 7 x 5 pixels and \w 5 x 5")


def test_images_without_a_place_are_no_volume(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = image(numbers()[:, :, 0])
        (tmp_path / "s").mkdir(exist_ok=True)
        made.save_as(tmp_path / "s" / name, enforce_file_format=True)
    refused(tmp_path / "s", r"do not say where they lie")


def test_folders_that_are_no_scan(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is a folder without DICOM files; give a scan's file or the folder")
    write_series(tmp_path / "study" / "series1", numbers(), oblique())
    refused(tmp_path / "study", r"one DICOM series, such as .*study/series1")
    report = image(numbers()[:, :, 0])
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    (tmp_path / "report").mkdir()
    report.save_as(tmp_path / "report" / "r.dcm", enforce_file_format=True)
    refused(tmp_path / "report", "holds no image, but other DICOM objects")


def test_a_damaged_slice_is_named(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", numbers(), oblique())
    path = folder / "im001.dcm"
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(BadInput, match=rf"^{folder}: .*(im001\.dcm|missing)"):
            read_image(folder)


def test_packed_voxels_that_are_cut(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", larger(), oblique())
    for path in folder.iterdir():
        packed(path, "JPEG2000")
    path = folder / "im001.dcm"
    whole = path.read_bytes()
    for end in range(len(whole) - 85, len(whole) - 4, 5):
        path.write_bytes(whole[:end])
        with pytest.raises(BadInput, match=rf"^{folder}: .*im001\.dcm"):
            read_image(folder)


def test_more_voxels_claimed_than_there_are(tmp_path: Path) -> None:
    """No memory is taken on its word."""
    folder = write_series(tmp_path / "s", numbers(), oblique(), change=changed("Rows", 65535))
    with pytest.raises(BadInput, match=r"has 7 x 5 pixels and im002\.dcm 7 x 65535;"):
        read_image(folder)
    alone = image(numbers()[:, :, 0], Rows=65535, Columns=65535, **placed(LPS, 0))
    alone.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(BadInput, match=r"a\.dcm: damaged"):
        read_image(tmp_path / "a.dcm")
