"""Scans on the working grid, and back on their own, without loss where none is needed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from deepatlas.data.intensity import scale
from deepatlas.data.labels import classes_to_labels
from deepatlas.data.plan import Plan
from deepatlas.data.prepare import (
    Preparation,
    PreparedScan,
    inside,
    place,
    prepare,
    say_if_outside,
)
from deepatlas.errors import BadInput
from deepatlas.io.images import read_image, read_labels
from deepatlas.io.subject import Subject
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, resample

PLAN = Plan((16, 24, 16), (1, 1, 1), (0, 0, 0), label_values=(5, 70000), label_dtype="int32")
ODD = (11, 20, 13)


def anatomy(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image and two ellipsoids of labels, no axis like another."""
    axes = [np.linspace(-1, 1, n) for n in shape]
    mesh = np.stack(np.meshgrid(*axes, indexing="ij"))
    labels = np.zeros(shape, "int32")
    for value, middle, radius in ((5, -0.25, 0.5), (70000, 0.3, 0.4)):
        offsets = [(m - middle * (n + 1) / 2) / radius for n, m in enumerate(mesh)]
        labels[sum(o**2 for o in offsets) < 1] = value
    noise = np.random.default_rng(seed).random(shape)
    return (100 * noise + 50 * (labels > 0)).astype("float32"), labels


def save(root: Path, affine: np.ndarray, shape: tuple[int, ...] = ODD) -> Subject:
    subject = Subject("s", root / "image.nii.gz", root / "labels.nii.gz")
    for path, data in zip((subject.image, subject.labels), anatomy(shape), strict=True):
        nib.Nifti1Image(data, affine, dtype=data.dtype).to_filename(path)
    return subject


def stored(order: tuple[int, ...], flips: tuple[int, ...], spacing: float = 1.0) -> np.ndarray:
    """World axis n is array axis order[n], run through in the direction flips[n]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for world, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        affine[world, axis] = flip * spacing
    affine[:3, 3] = 31.25, -17.5, 8.125
    return affine


def back(scan: PreparedScan, plan: Plan) -> torch.Tensor:
    """Labels of the working grid on the scan's own, in the file's values."""
    assert scan.labels is not None
    to_working = scan.preparation.transform.inverse()
    labels = Volume(scan.labels, plan.geometry)
    native = resample(labels, scan.preparation.native, to_working, labels=True).data
    return classes_to_labels(native, plan.label_values)


ORDERS = [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, 1, -1)), ((2, 0, 1), (1, -1, 1))]


@pytest.mark.parametrize(("order", "flips"), ORDERS)
def test_the_same_spacing_is_not_interpolated(
    tmp_path: Path, order: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    shape = tuple(ODD[order.index(axis)] for axis in range(3))
    subject = save(tmp_path, stored(order, flips), shape)
    scan = prepare(subject, PLAN)
    image = scale(read_image(subject.image).data, PLAN.percentiles)
    turned = image.permute(order).flip([n for n in range(3) if flips[n] < 0])
    inside = tuple(
        slice(start := (n - m + 1) // 2, start + m) for n, m in zip(PLAN.shape, ODD, strict=True)
    )
    expected = torch.zeros(PLAN.shape)
    expected[inside] = turned.half().float()
    assert torch.equal(scan.image[0], expected)
    labels, _ = read_labels(subject.labels)
    assert torch.equal(back(scan, PLAN), labels.data)


def test_a_scan_lies_at_one_place_however_it_is_stored(tmp_path: Path) -> None:
    image, _ = anatomy(ODD)
    seen = []
    for order, flips in itertools.product(
        itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    ):
        inverse = tuple(np.argsort(order))
        grid = Geometry(tuple(ODD[i] for i in inverse), torch.from_numpy(stored(order, flips)))
        data = torch.from_numpy(image).flip([n for n in range(3) if flips[n] < 0])
        volume = Volume(data.permute(inverse), grid)
        preparation = place(grid, PLAN)
        seen.append(resample(volume, PLAN.geometry, preparation.transform).data)
    assert all(torch.equal(seen[0], other) for other in seen[1:])
    assert seen[0].count_nonzero() == image.size


def test_world_alignment_moves_nothing(tmp_path: Path) -> None:
    subject = save(tmp_path, stored((0, 1, 2), (1, 1, 1)))
    centre = tuple(read_image(subject.image).geometry.centre_mm.tolist())
    plan = replace(PLAN, align="world", centre_mm=centre)
    preparation = prepare(subject, plan).preparation
    points = torch.rand(5, 3, dtype=torch.float64)
    assert torch.equal(preparation.transform(points), points)


def test_the_centres_of_the_fields_of_view_coincide(tmp_path: Path) -> None:
    subject = save(tmp_path, stored((0, 1, 2), (1, 1, 1), spacing=1.3))
    preparation = prepare(subject, PLAN).preparation
    assert preparation.native.same_as(read_image(subject.image).geometry)
    moved = preparation.transform(PLAN.geometry.centre_mm)
    np.testing.assert_allclose(moved, preparation.native.centre_mm)


@pytest.mark.parametrize("turned", [0.0, 1e-9, 0.2])
@pytest.mark.parametrize("shape", [(9, 14), (11, 8, 13)])
def test_what_lies_within_an_oblique_scan(shape: tuple[int, ...], turned: float) -> None:
    """Against the position of every voxel by itself."""
    d, random = len(shape), torch.Generator().manual_seed(3)
    grid = Geometry.axis_aligned(shape, (1.0, 1.5, 2.0)[:d], (5.0, 3.0, -2.0)[:d])
    matrices = []
    for offset in (-7.0, 2.5):
        matrix = torch.eye(d + 1, dtype=torch.float64)
        matrix[:d, :d] += turned * torch.randn(d, d, generator=random, dtype=torch.float64)
        matrix[:d, d] = offset
        matrices.append(matrix)
    scan = Preparation(Geometry((15, 9, 12)[:d], matrices[0]), Affine(matrices[1]))
    index = scan.native.to_index(scan.transform(grid.points_mm()))
    ends = torch.tensor(scan.native.shape) - 0.99
    expected = ((index >= -0.01) & (index <= ends)).all(dim=-1)
    assert expected.any()
    assert not expected.all()
    assert torch.equal(inside(scan, grid), expected[None])


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_oblique_anisotropic_labels_come_home(tmp_path: Path) -> None:
    c, s = np.cos(0.35), np.sin(0.35)
    affine = np.eye(4)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, c, s], [0, -s, c]]
    )
    affine[:3, :3] = turn @ np.diag([-0.9, 1.0, 2.2])
    affine[:3, 3] = 100, -50, 30
    subject = save(tmp_path, affine, (44, 36, 15))
    plan = replace(PLAN, shape=(64, 64, 56), spacing_mm=(0.9, 0.9, 0.9))
    scan = prepare(subject, plan)
    labels, _ = read_labels(subject.labels)
    home = back(scan, plan)
    assert home.shape == labels.data.shape
    for value in (5, 70000):
        assert (labels.data == value).sum() > 500
        assert dice(home == value, labels.data == value) > 0.9


def test_what_a_prepared_scan_holds(tmp_path: Path) -> None:
    subject = save(tmp_path, stored((0, 1, 2), (1, 1, 1), spacing=1.1))
    scan = prepare(subject, PLAN)
    assert scan.id == "s"
    assert scan.image.shape == (1, *PLAN.shape)
    assert scan.image.dtype == torch.float32
    assert 0 <= scan.image.min() <= scan.image.max() <= 1
    assert torch.equal(scan.image.half().float(), scan.image)
    assert scan.labels is not None
    assert scan.labels.shape == PLAN.shape
    assert scan.labels.dtype == torch.uint8
    assert scan.labels.unique().tolist() == [0, 1, 2]
    assert scan.present.tolist() == [True, True]
    assert not scan.image[0, 0, 0].any()  # outside the scan


def test_presence_of_classes(tmp_path: Path) -> None:
    subject = save(tmp_path, np.eye(4))
    partly = Subject("s", subject.image, subject.labels, annotated=(70000,))
    assert prepare(partly, PLAN).present.tolist() == [False, True]
    bare = Subject("s", subject.image)
    for scan in (prepare(bare, PLAN), prepare(subject, PLAN, labels=False)):
        assert scan.labels is None
        assert scan.present.tolist() == [False, False]
    assert torch.equal(prepare(bare, PLAN).image, prepare(subject, PLAN).image)


def test_histograms_are_matched_where_asked(tmp_path: Path) -> None:
    subject = save(tmp_path, np.eye(4))
    dark = tuple((0.05 * n) ** 2 for n in range(1, 20))
    matched = prepare(subject, replace(PLAN, histogram=dark)).image
    plain = prepare(subject, PLAN).image
    inside = plain > 0
    assert matched[inside].quantile(0.5) == pytest.approx(0.25, abs=0.02)
    assert torch.equal(matched == 0, plain == 0)


def test_slices(tmp_path: Path) -> None:
    plan = Plan((16, 24), (1, 1), (0, 0), label_values=(5, 70000))
    affine = np.diag([1.0, -1, 5, 1])
    subject = save(tmp_path, affine, (11, 20, 1))
    scan = prepare(subject, plan)
    assert scan.image.shape == (1, 16, 24)
    labels, _ = read_labels(subject.labels)
    assert torch.equal(back(scan, plan), labels.data)


def test_faults_name_the_file(tmp_path: Path) -> None:
    subject = save(tmp_path, np.eye(4))
    with pytest.raises(BadInput, match=r"labels\.nii\.gz: label values \[70000\] are not among"):
        prepare(subject, replace(PLAN, label_values=(5,)))
    with pytest.raises(BadInput, match=r"image\.nii\.gz: is 3-D; expected 2-D"):
        prepare(subject, Plan((16, 24), (1, 1), (0, 0)))
    broken = np.full(ODD, np.nan, "f4")
    nib.Nifti1Image(broken, np.eye(4)).to_filename(subject.image)
    with pytest.raises(BadInput, match=r"image\.nii\.gz: 2860 of 2860 voxels are NaN"):
        prepare(subject, PLAN)


@pytest.mark.parametrize(
    ("factor", "says"), [(1.0, ""), (1000.0, "of its field of view"), (0.001, "fills only")]
)
def test_a_scan_that_hardly_meets_the_working_grid_is_said(
    factor: float, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    plan = Plan(
        shape=(30, 40, 20), spacing_mm=(1.0, 1.0, 2.0), centre_mm=(0.0, 0.0, 0.0),
        label_values=(1,), label_dtype="uint8",
    )  # fmt: skip
    native = Geometry.axis_aligned((33, 44, 40), (factor, factor, factor))
    say_if_outside("scan.nii.gz", place(native, plan), plan.geometry)
    assert says in caplog.text
    assert bool(caplog.text) == bool(says)
