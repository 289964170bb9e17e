"""Folds and SDlogJ against affine maps, brute force, SimpleITK and Learn2Reg's own recipe."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from scipy.ndimage import correlate1d, gaussian_filter

from deepatlas.evaluation.folding import folded_cells, folding
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.jacobian import folds_percent, jacobian_determinant
from deepatlas.spatial.transform import Affine

SHAPE = (9, 13, 7)


def smooth(shape: tuple[int, ...], amplitude: float, seed: int = 0) -> np.ndarray:
    """A smooth random displacement of that standard deviation in voxels."""
    rng = np.random.default_rng(seed)
    field = np.stack([gaussian_filter(rng.normal(size=shape), 1.5) for _ in shape])
    return (amplitude * field / field.std()).astype(np.float32)


def affine(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The displacement of x -> matrix x."""
    points = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(float)
    return np.tensordot(matrix - np.eye(len(shape)), points, axes=1)


def central_determinant(field: np.ndarray) -> np.ndarray:
    """At the voxels one from the border."""
    found = jacobian_determinant(torch.from_numpy(field)[None])[0].numpy()
    return found[(slice(1, -1),) * len(field)]


@pytest.mark.parametrize("shape", [SHAPE, (12, 8)], ids=["3d", "2d"])
def test_an_affine_map_has_one_determinant(shape: tuple[int, ...]) -> None:
    d = len(shape)
    matrix = np.eye(d) + np.random.default_rng(1).normal(0, 0.2, (d, d))
    expected = np.linalg.det(matrix)
    assert 0 < expected < 1 - 0.05 or expected > 1.05
    determinant = central_determinant(affine(matrix, shape))
    assert determinant.shape == tuple(n - 2 for n in shape)
    assert determinant == pytest.approx(expected, rel=1e-5)
    found = folding(affine(matrix, shape))
    assert (found.folds_percent, found.cells_percent, found.left_out) == (0, 0, 0)
    assert found.sdlogj == pytest.approx(0, abs=1e-5)


def test_a_mirrored_map_folds_everywhere() -> None:
    found = folding(affine(np.diag([1.0, -1.0, 1.0]), SHAPE))
    assert (found.folds_percent, found.cells_percent) == (100, 100)
    assert found.left_out == np.prod([n - 2 for n in SHAPE])
    assert math.isnan(found.sdlogj)


def test_the_determinant_equals_that_of_simpleitk_in_mm() -> None:
    spacing = (0.8, 1.5, 2.2)
    field = smooth(SHAPE, 0.7)
    in_mm = field * np.reshape(spacing, (3, 1, 1, 1))
    image = sitk.GetImageFromArray(in_mm.transpose(3, 2, 1, 0), isVector=True)
    image.SetSpacing(spacing)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image)).T
    inside = expected[1:-1, 1:-1, 1:-1]
    assert central_determinant(field) == pytest.approx(inside, abs=1e-4)
    assert inside.std() > 0.1


def test_the_determinant_is_that_of_the_map_in_mm_on_an_oblique_grid() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    grid, matrix = np.eye(4), np.eye(4)
    grid[:3, :3] = turn @ np.diag([0.8, 1.5, -2.2])
    grid[:3, 3] = (30, -40, 50)
    matrix[:3, :3] += rng.normal(0, 0.2, (3, 3))
    displacement = Affine(torch.tensor(matrix)).displacement(Geometry(SHAPE, torch.tensor(grid)))
    determinant = central_determinant(displacement.numpy())
    assert determinant == pytest.approx(np.linalg.det(matrix), rel=1e-4)


@pytest.mark.parametrize("shape", [(6, 5, 7), (8, 6)], ids=["3d", "2d"])
def test_cells_equal_brute_force(shape: tuple[int, ...]) -> None:
    field = smooth(shape, 2.0, seed=3)
    d = len(shape)
    expected = np.zeros([n - 1 for n in shape], bool)
    for cell in np.ndindex(*expected.shape):
        for corner in itertools.product((0, 1), repeat=d):
            here = np.add(cell, corner)
            columns = []
            for axis in range(d):
                other = here.copy()
                other[axis] += 1 - 2 * corner[axis]
                step = field[(slice(None), *other)] - field[(slice(None), *here)]
                columns.append(step * (1 - 2 * corner[axis]) + np.eye(d)[axis])
            expected[cell] |= np.linalg.det(np.stack(columns, axis=1)) <= 0
    assert np.array_equal(folded_cells(field), expected)
    assert 0 < expected.mean() < 1
    assert folding(field).cells_percent == pytest.approx(100 * expected.mean())


def test_folds_that_central_differences_do_not_see() -> None:
    field = np.zeros((3, *SHAPE), np.float32)
    field[0, ::2] = 0.6
    field[0, 1::2] = -0.6
    found = folding(field)
    assert found.folds_percent == 0
    assert found.cells_percent == 50  # every second cell is turned over, the others stretched


def test_the_share_of_folded_voxels_and_those_left_out() -> None:
    field = np.zeros((2, 10, 8), np.float32)
    field[0, 5:] = -3.0
    found = folding(field)
    # det is 1 - 3 / 2 in the two rows of voxels beside the step, 1 in the other six
    assert found.folds_percent == pytest.approx(100 * 2 / 8)
    assert found.cells_percent == pytest.approx(100 * 1 / 9)
    assert found.left_out == 2 * 6
    assert found.sdlogj == 0


def test_sdlogj_by_hand() -> None:
    stretch = np.array([0.0, 0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
    field = np.zeros((2, 9, 5))
    field[1] = 0.0
    field[0] = stretch[:, None]
    rates = 1 + (stretch[2:] - stretch[:-2]) / 2
    assert folding(field).sdlogj == pytest.approx(np.std(np.log(rates)), rel=1e-5)


def learn2reg(field: np.ndarray) -> float:
    """As in Learn2Reg's evaluation: zeros outside, two voxels cropped, 3 added."""
    rows = [[correlate1d(u, [-0.5, 0, 0.5], axis=n, mode="constant") for n in range(3)]
            for u in field]  # fmt: skip
    matrix = np.array(rows).transpose(2, 3, 4, 0, 1) + np.eye(3)
    determinant = np.linalg.det(matrix[2:-2, 2:-2, 2:-2])
    return float(np.log((determinant + 3).clip(1e-9, 1e9)).std())


def test_learn2reg_form_equals_its_evaluation() -> None:
    field = smooth(SHAPE, 1.2)
    found = folding(field)
    assert found.folds_percent > 0
    assert found.sdlogj_learn2reg == pytest.approx(learn2reg(field), rel=1e-4)
    assert found.sdlogj_learn2reg < found.sdlogj / 2


def test_a_map_that_is_not_a_number_is_folded() -> None:
    field = np.full((2, 6, 6), np.nan)
    found = folding(field)
    assert (found.folds_percent, found.cells_percent, found.left_out) == (100, 100, 16)


@pytest.mark.parametrize("thin", [1, 2])
def test_folds_of_a_thin_grid_are_those_of_the_command_jacobian(thin: int) -> None:
    field = np.zeros((2, thin, 9), np.float32)
    field[1, :, 5:] = -3.0
    found = folding(field)
    assert found.folds_percent == pytest.approx(100 * 2 / 7)
    assert folds_percent(torch.from_numpy(field)[None]) == pytest.approx(100 * 2 / 7)
    assert (found.left_out, found.sdlogj) == (2 * thin, 0)
    assert math.isnan(found.sdlogj_learn2reg)
    assert math.isnan(found.cells_percent) == (thin == 1)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="a displacement"):
        folding(np.zeros((3, 5, 5)))
