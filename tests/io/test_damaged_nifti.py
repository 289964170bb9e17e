"""NIfTI files that are damaged, or hold what is no scan and no label map."""

from __future__ import annotations

import gzip
import sys
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from nifti_files import numbers, oblique, save

from deepatlas.errors import BadInput
from deepatlas.io.images import read_geometry, read_image, read_labels, write_image


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.7, 0.99])
def test_truncated_files_are_told(tmp_path: Path, name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype("int16")
    path = save(tmp_path / name, noise)
    truncate(path, share)
    for read in (read_image, read_labels):
        with pytest.raises(BadInput, match=r"truncated|damaged|is empty") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "export it again" in str(caught.value)


def test_any_flipped_byte_is_a_sentence_or_other_values(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", numbers(), oblique())
    whole = path.read_bytes()
    header = gzip.decompress(whole)
    random = np.random.default_rng(1)
    for position in random.integers(0, len(whole), 60):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        with_sentence(path)
    for position in range(0, 352, 2):
        damaged = bytearray(header)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        with_sentence(path)


def with_sentence(path: Path) -> None:
    for read in (read_image, read_labels, read_geometry):
        with suppress(BadInput):  # anything else would be a traceback for the user
            read(path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (np.zeros((4, 4, 4, 3), "f4"), "holds several volumes \\(4x4x4x3"),
        (np.zeros((4, 4, 1, 3), "f4"), "several volumes"),
        (np.zeros((4, 4, 4), "complex64"), "complex"),
        (np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "colours"),
    ],
)
def test_files_that_are_no_scan_are_refused(tmp_path: Path, data: np.ndarray, why: str) -> None:
    path = save(tmp_path / "a.nii.gz", data)
    for read in (read_image, read_labels):
        with pytest.raises(BadInput, match=why):
            read(path)


@pytest.mark.parametrize(("value", "why"), [(np.nan, "NaN"), (np.inf, "NaN"), (0.5, "fractions")])
def test_labels_that_are_no_integers_are_refused(tmp_path: Path, value: float, why: str) -> None:
    data = numbers("float32")
    data[1, 2, 3] = value
    path = save(tmp_path / "a.nii", data)
    with pytest.raises(BadInput, match=f"1 of 120 label voxels are {why}"):
        read_labels(path)


def test_a_missing_file_and_a_strange_affine(tmp_path: Path) -> None:
    for read in (read_image, read_labels, read_geometry):
        with pytest.raises(BadInput, match="there is no such file"):
            read(tmp_path / "none.nii")
    for value in (0, np.nan):
        image = nib.Nifti1Image(numbers(), None)
        image.header["sform_code"], image.header["srow_x"] = 1, value
        image.to_filename(tmp_path / "a.nii")
        with pytest.raises(BadInput, match="does not say where the voxels lie"):
            read_geometry(tmp_path / "a.nii")
    with pytest.raises(BadInput, match="ends in"):
        write_image(tmp_path / "a.mha", read_image(save(tmp_path / "b.nii", numbers())))
