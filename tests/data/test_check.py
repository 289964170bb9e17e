"""All faults of a cohort are found and told together, each with its file and a remedy."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from deepatlas.data.check import check_cohort
from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort

SHAPE = (9, 8, 7)
AFFINE = np.array([[0.9, 0.1, 0, -20], [-0.1, 1.2, 0, 5], [0, 0, 2, 60], [0, 0, 0, 1.0]])


def scan(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype("float32")


def label_map(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    labels = np.zeros(shape, "int16")
    labels[2:5, 2:5] = 3
    labels[5:7, 2:5] = 700
    return labels


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine, dtype=data.dtype).to_filename(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three good scans a, b, c; a and b are labelled."""
    for n, name in enumerate("abc"):
        save(tmp_path / "images" / f"{name}.nii.gz", scan(seed=n))
    for name in "ab":
        save(tmp_path / "labels" / f"{name}.nii.gz", label_map())
    return tmp_path


def faults_of(root: Path) -> list[str]:
    with pytest.raises(BadInput) as caught:
        check_cohort(read_cohort(root), needs_labels=True, needs_pairs=True)
    return caught.value.faults


def test_good_scans_pass_and_what_was_found_is_returned(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    facts = check_cohort(
        read_cohort(root),
        needs_labels=True,
        needs_pairs=True,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    content = (root / "images" / "a.nii.gz").read_bytes()
    assert facts["a"].image.digest == hashlib.sha256(content).hexdigest()
    assert facts["a"].labels is not None
    assert facts["a"].labels.values == (3, 700)
    assert facts["a"].labels.dtype == "int16"
    assert facts["c"].labels is None
    assert facts["c"].image.geometry is not None
    assert facts["c"].image.geometry.shape == SHAPE


def with_value(data: np.ndarray, value: float) -> np.ndarray:
    data = data.copy()
    data[1, 2, 3] = value
    return data


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


# what is done to the file, and what is then said about it
IMAGE_FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (cut, "damaged or truncated", "copy or export it again"),
    "no NIfTI": (lambda p: p.write_text("hello " * 99), "not a NIfTI file", "export it again"),
    "empty file": (lambda p: p.write_bytes(b""), "is empty", "export it again"),
    "NaN": (lambda p: save(p, with_value(scan(), np.nan)), "1 of 504 voxels are NaN", "replace"),
    "infinite": (lambda p: save(p, with_value(scan(), np.inf)), "infinite", "replace"),
    "too big for float32": (
        lambda p: save(p, with_value(scan().astype("f8"), 1e300)),
        "infinite",
        "replace",
    ),
    "constant": (lambda p: save(p, np.full(SHAPE, 7, "u1")), "every voxel is 7", "export"),
    "several volumes": (
        lambda p: save(p, scan((*SHAPE, 2))),
        "several volumes (9x8x7x2",
        "save one volume",
    ),
    "2-D": (lambda p: save(p, scan((9, 8))), "is 2-D, most scans are 3-D", "remove it"),
}


@pytest.mark.parametrize("kind", IMAGE_FAULTS)
def test_faults_of_an_image(root: Path, kind: str) -> None:
    damage, why, remedy = IMAGE_FAULTS[kind]
    path = root / "images" / "c.nii.gz"
    damage(path)
    (fault,) = faults_of(root)
    assert fault.startswith(f"{path}: ")
    assert why in fault
    assert remedy in fault


def moved(millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] += millimetres
    return affine


LABEL_FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (cut, "damaged or truncated", "copy or export it again"),
    "empty": (lambda p: save(p, np.zeros(SHAPE, "u1")), "no voxel is labelled", "remove the file"),
    "fractions": (
        lambda p: save(p, with_value(label_map().astype("f4"), 0.5)),
        "1 of 504 label voxels are fractions, such as 0.5",
        "nearest neighbour",
    ),
    "NaN": (lambda p: save(p, with_value(label_map().astype("f4"), np.nan)), "NaN", "set them"),
    "negative": (lambda p: save(p, with_value(label_map(), -2)), "negative", "renumber"),
    "shape": (
        lambda p: save(p, label_map((9, 8, 6))),
        "has 9 x 8 x 6 voxels, its image 9 x 8 x 7",
        "nearest neighbour",
    ),
    "affine": (lambda p: save(p, label_map(), moved(0.25)), "up to 0.25 mm away", "header"),
    "several volumes": (
        lambda p: save(p, label_map((*SHAPE, 2))),
        "several volumes",
        "save one volume",
    ),
}


@pytest.mark.parametrize("kind", LABEL_FAULTS)
def test_faults_of_a_label_map(root: Path, kind: str) -> None:
    damage, why, remedy = LABEL_FAULTS[kind]
    path = root / "labels" / "b.nii.gz"
    damage(path)
    (fault,) = faults_of(root)
    assert fault.startswith(f"{path}: ")
    assert why in fault
    assert remedy in fault


def test_noise_of_a_header_and_single_4d_volumes_are_no_fault(root: Path) -> None:
    save(root / "labels" / "b.nii.gz", label_map()[..., None], moved(5e-4))
    save(root / "images" / "c.nii.gz", scan((*SHAPE, 1)))
    save(root / "labels" / "c.nii.gz", label_map().astype("f4"))
    check_cohort(read_cohort(root), needs_labels=True, needs_pairs=True)


def test_all_faults_are_told_at_once(root: Path) -> None:
    cut(root / "images" / "a.nii.gz")
    save(root / "images" / "b.nii.gz", with_value(scan(), np.nan))
    save(root / "images" / "c.nii", scan())
    save(root / "images" / "d.nii.gz", scan())
    save(root / "labels" / "b.nii.gz", with_value(label_map((9, 8, 6)).astype("f4"), 0.5))
    save(root / "labels" / "d.nii.gz", label_map(), moved(3))
    save(root / "labels" / "lost.nii.gz", label_map())
    (root / "images" / "e.xyz").write_bytes(b"x")
    with pytest.raises(BadInput) as caught:
        check_cohort(read_cohort(root), needs_labels=True, needs_pairs=True)
    told = str(caught.value)
    assert told.startswith("8 faults:")
    for name, why in [
        ("images/a.nii.gz", "truncated"),
        ("images/b.nii.gz", "NaN"),
        ("images/c.nii.gz", "second image of scan 'c'"),
        ("labels/b.nii.gz", "fractions"),
        ("labels/b.nii.gz", "9 x 8 x 6 voxels"),
        ("labels/d.nii.gz", "3 mm away"),
        ("labels/lost.nii.gz", "a label map without image"),
        ("images/e.xyz", "not a scan by its name"),
    ]:
        assert [f for f in caught.value.faults if name in f and why in f], (name, why)


@pytest.mark.parametrize(
    ("scans", "labels", "needs_labels", "needs_pairs", "words"),
    [
        ("abc", "", True, True, ["none of 3 scans has a label map", "`voxelmorph`"]),
        ("abc", "", True, False, ["none of 3 scans has a label map", "`voxelmorph`"]),
        ("a", "a", True, True, ["a single scan (a)", "`segmentation`"]),
        ("a", "a", False, True, ["a single scan (a)", "`segmentation`"]),
        ("a", "", True, True, ["one scan and no label map", "`segmentation`", "`voxelmorph`"]),
        ("a", "", False, True, ["one scan and no label map"]),
        ("a", "", True, False, ["one scan and no label map"]),
        ("abc", "", False, True, []),
        ("a", "a", True, False, []),
        ("a", "", False, False, []),
    ],
)
def test_recipes_that_would_work_are_named(
    tmp_path: Path,
    scans: str,
    labels: str,
    needs_labels: bool,
    needs_pairs: bool,
    words: list[str],
) -> None:
    for name in scans:
        save(tmp_path / "images" / f"{name}.nii", scan())
    for name in labels:
        save(tmp_path / "labels" / f"{name}.nii", label_map())
    cohort = read_cohort(tmp_path)
    if not words:
        check_cohort(cohort, needs_labels=needs_labels, needs_pairs=needs_pairs)
        return
    with pytest.raises(BadInput) as caught:
        check_cohort(cohort, needs_labels=needs_labels, needs_pairs=needs_pairs)
    (fault,) = caught.value.faults
    assert fault.startswith(f"{tmp_path}: ")
    for word in words:
        assert word in fault


def test_two_hundred_small_scans_take_seconds(tmp_path: Path) -> None:
    image = save(tmp_path / "images" / "s000.nii.gz", scan((36, 50, 36))).read_bytes()
    labels = save(tmp_path / "labels" / "s000.nii.gz", label_map((36, 50, 36))).read_bytes()
    for n in range(1, 200):
        (tmp_path / "images" / f"s{n:03}.nii.gz").write_bytes(image)
        (tmp_path / "labels" / f"s{n:03}.nii.gz").write_bytes(labels)
    start = time.process_time()
    check_cohort(read_cohort(tmp_path), needs_labels=True, needs_pairs=True)
    assert time.process_time() - start < 10
