"""HD95 against all pairs of surface voxels, MONAI and SimpleITK; spacing, borders and misses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from monai.metrics import compute_hausdorff_distance
from scipy.ndimage import binary_erosion, gaussian_filter

from deepatlas.evaluation.surface import hd95_mm, image_diagonal_mm, surface_points_mm

SPACING = (0.7, 2.5, 1.2)


def blobs(shape: tuple[int, ...], values: list[int], seed: int) -> np.ndarray:
    """A label map of smooth random structures, some of which touch the border."""
    rng = np.random.default_rng(seed)
    scores = [gaussian_filter(rng.normal(size=shape), 1.5) for _ in [0, *values]]
    return np.array([0, *values])[np.argmax(scores, axis=0)]


def brute_force(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...]) -> float:
    """All distances between the border voxels of two masks."""
    points = [np.argwhere(mask & ~binary_erosion(mask)) * np.array(spacing) for mask in (a, b)]
    apart = np.linalg.norm(points[0][:, None] - points[1][None], axis=-1)
    return max(np.percentile(apart.min(axis=1), 95), np.percentile(apart.min(axis=0), 95))


@pytest.mark.parametrize(
    ("shape", "spacing"), [((12, 9, 15), SPACING), ((23, 31), (3.0, 0.5))], ids=["3d", "2d"]
)
@pytest.mark.parametrize("seed", range(3))
def test_equals_brute_force(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    values = [2, 5, 9]
    prediction, target = blobs(shape, values, seed), blobs(shape, values, seed + 100)
    found = hd95_mm(prediction, target, values, spacing)
    for value in values:
        expected = brute_force(prediction == value, target == value, spacing)
        assert found[value] == pytest.approx(expected, rel=1e-12)
        assert expected > 0


def test_equals_monai() -> None:
    shape = (14, 10, 12)
    values = [1, 2]
    prediction, target = (np.pad(blobs(shape, values, seed), 2) for seed in (0, 1))
    one_hot = [
        torch.from_numpy(np.stack([labels == v for v in values])[None].astype(np.float32))
        for labels in (prediction, target)
    ]
    expected = compute_hausdorff_distance(
        *one_hot, include_background=True, percentile=95, spacing=list(SPACING)
    )[0]
    found = hd95_mm(prediction, target, values, SPACING)
    assert list(found.values()) == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_largest_distance_equals_simpleitk() -> None:
    prediction, target = np.zeros((2, 20, 12, 16), np.uint8)
    target[3:9, 4:8, 4:12] = 1
    prediction[6:14, 5:8, 3:10] = 1
    images = [sitk.GetImageFromArray(labels.T) for labels in (prediction, target)]
    for image in images:
        image.SetSpacing(SPACING)
    reference = sitk.HausdorffDistanceImageFilter()
    reference.Execute(*images)
    found = hd95_mm(prediction, target, [1], SPACING, percentile=100)[1]
    assert found == pytest.approx(reference.GetHausdorffDistance(), rel=1e-6)


def test_a_shift_along_an_axis_counts_that_axis_spacing() -> None:
    target = np.zeros((10, 11, 12), int)
    target[4, 5, 6] = 7
    for axis, step in enumerate(SPACING):
        found = hd95_mm(np.roll(target, 2, axis), target, [7], SPACING)
        assert found[7] == pytest.approx(2 * step)


def test_the_larger_direction_counts() -> None:
    target = np.zeros((40, 5), int)
    target[:10, 2] = 1
    prediction = target.copy()
    prediction[10:30, 2] = 1
    expected = np.percentile([0] * 10 + list(range(1, 21)), 95)
    assert hd95_mm(prediction, target, [1], (1, 1))[1] == pytest.approx(expected)
    assert hd95_mm(target, prediction, [1], (1, 1))[1] == pytest.approx(expected)


def test_the_border_of_the_image_is_surface() -> None:
    whole = np.ones((5, 6), int)
    assert len(surface_points_mm(whole, [1], (1, 1))[1]) == 2 * 5 + 2 * 4


def test_perfect_missed_spurious_and_absent() -> None:
    target = blobs((9, 8, 7), [1, 2], 0)
    prediction = np.where(target == 2, 3, target)
    found = hd95_mm(prediction, target, [1, 2, 3, 300], SPACING)
    assert found[1] == 0
    assert found[2] == math.inf
    assert found[3] == math.inf
    assert math.isnan(found[300])
    assert hd95_mm(prediction.astype(np.uint8), target.astype(np.uint8), [300], SPACING).keys()


def test_diagonal_of_the_image() -> None:
    assert image_diagonal_mm((3, 4), (1.0, 1.0)) == 5
    assert image_diagonal_mm((10, 10, 10), (0.3, 0.4, 1.2)) == pytest.approx(13)


def test_wrong_input_is_refused() -> None:
    labels = np.zeros((3, 4), int)
    with pytest.raises(ValueError, match="a spacing per axis"):
        hd95_mm(labels, labels, [1], (1, 1, 1))
    with pytest.raises(ValueError, match="one shape"):
        hd95_mm(labels, labels.T, [1], (1, 1))
