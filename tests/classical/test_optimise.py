"""Rigid and affine registration of phantoms whose true maps are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepatlas.classical import Affine, Rigid, optimise, optimise_all
from deepatlas.data.phantom import Phantom
from deepatlas.spatial import transform
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.matrix import fit, to_matrix
from deepatlas.spatial.transform import resample

PHANTOM = Phantom(seed=3)
VOXEL_MM = 1.4
SMALL = Phantom(seed=3, shape=(28, 34, 28), spacing_mm=(VOXEL_MM,) * 3)
FAR = (math.radians(25), math.radians(-10), math.radians(10), 20.0, -15.0, 15.0, 0.12)


def moved(volume: Volume, matrix: Tensor) -> Volume:
    """The same voxels somewhere else in the world."""
    return Volume(volume.data, Geometry(volume.geometry.shape, matrix @ volume.geometry.affine))


def far(fixed: Volume) -> Tensor:
    d = fixed.geometry.ndim
    parameters = FAR if d == 3 else (FAR[0], *FAR[3:5], FAR[6])
    return to_matrix(
        torch.tensor(parameters, dtype=torch.float64), fixed.geometry.centre_mm, "similarity"
    )


def mean_error(found: transform.Transform, truth: transform.Transform, points: Tensor) -> float:
    return float((found(points) - truth(points)).norm(dim=-1).mean())


def test_subjects_far_apart_end_near_the_least_squares_fit() -> None:
    moving, fixed = PHANTOM.subject(1).image, PHANTOM.subject(2).image
    truth = PHANTOM.true_map(moving=1, fixed=2)
    inside = fixed.geometry.points_mm()[fixed.data > 0.3]
    best = fit(inside, truth(inside), "affine")
    change = far(fixed) @ torch.linalg.inv(best)
    found = optimise(moving=moved(moving, change), fixed=fixed, model=Affine())
    back = transform.Affine(change).inverse()
    marks, places = PHANTOM.landmarks_mm(2), PHANTOM.landmarks_mm(1)
    error = (back(found.transform(marks)) - places).norm(dim=-1).mean()
    least = (transform.Affine(best)(marks) - places).norm(dim=-1).mean()
    assert not found.fault
    assert found.similarity > found.start
    assert float(error - least) < 0.5


@pytest.mark.parametrize("d", [2, 3])
def test_one_scan_on_an_oblique_anisotropic_grid(d: int) -> None:
    """What moved is known exactly, and the grids share neither spacing, axes nor shape."""
    source = Phantom(seed=4, shape=(64, 76)) if d == 2 else SMALL
    fixed = source.subject(0).image
    turn = to_matrix(
        torch.tensor([0.3] * (1 if d == 2 else 3) + [0.0] * d, dtype=torch.float64),
        fixed.geometry.centre_mm,
        "rigid",
    )
    shape, spacing = ((50, 64), (1.6, 1.2)) if d == 2 else ((47, 35, 19), (1.0, 1.5, 2.5))
    own = Geometry.axis_aligned(shape, spacing)
    shift = transform.Affine.translation(fixed.geometry.centre_mm - own.centre_mm).matrix
    oblique = resample(
        fixed, Geometry(shape, turn @ shift @ own.affine), transform.Affine.identity(d)
    )
    change = far(fixed)
    found = optimise(moving=moved(oblique, change), fixed=fixed, model=Affine())
    inside = fixed.geometry.points_mm()[fixed.data > 0.3]
    assert not found.fault
    assert mean_error(found.transform, transform.Affine(change), inside) < 0.7


def test_a_rigid_map_keeps_distances() -> None:
    fixed = SMALL.subject(0).image
    parameters = torch.tensor(FAR[:6], dtype=torch.float64)
    change = to_matrix(parameters, fixed.geometry.centre_mm, "rigid")
    found = optimise(moving=moved(fixed, change), fixed=fixed, model=Rigid()).transform
    assert isinstance(found, transform.Affine)
    linear = found.matrix[:3, :3]
    torch.testing.assert_close(linear.T @ linear, torch.eye(3, dtype=torch.float64))
    assert mean_error(found, transform.Affine(change), fixed.geometry.points_mm()) < 0.5


def cropped(volume: Volume, voxels: int) -> Volume:
    """Without so many at the end of the first axis, half of them at the end of the last."""
    n, _, m = volume.data.shape
    data = volume.data[: n - voxels, :, : m - voxels // 2]
    return Volume(data, Geometry(tuple(data.shape), volume.geometry.affine))


@pytest.mark.parametrize(
    ("model", "near_voxels"), [(Rigid(search=False), 0.25), (Affine(search=False), 0.5)]
)
def test_many_at_once_are_what_each_is_alone(model: Rigid | Affine, near_voxels: float) -> None:
    fixed = SMALL.subject(0).image
    scans = [cropped(SMALL.subject(k).image, k) for k in (1, 2, 3)]  # no two of one shape
    together = optimise_all(moving=scans, fixed=fixed, model=model)
    alone = [optimise(moving=scan, fixed=fixed, model=model) for scan in scans]
    for one, other in zip(together, alone, strict=True):
        # Another order of sums moves a rigid map by up to a fifth of a voxel, an affine by a third.
        apart = mean_error(one.transform, other.transform, fixed.geometry.points_mm())
        assert apart < near_voxels * VOXEL_MM


@torch.inference_mode()
def test_it_works_where_gradients_are_off() -> None:
    fixed = SMALL.subject(0).image
    found = optimise(moving=fixed, fixed=fixed, model=Affine(search=False))
    points = fixed.geometry.points_mm()
    assert mean_error(found.transform, transform.Affine.identity(3), points) < VOXEL_MM / 5


@pytest.mark.parametrize("slices", [1, 2])
def test_scans_of_few_slices(slices: int) -> None:
    image = SMALL.subject(0).image
    data = image.data[:, :, 14 : 14 + slices]
    fixed = Volume(data, Geometry.axis_aligned(tuple(data.shape), (1.4, 1.4, 5.0)))
    change = to_matrix(
        torch.tensor([0.0, 0.0, 0.3, 6.0, -4.0, 0.0], dtype=torch.float64),
        fixed.geometry.centre_mm,
        "rigid",
    )
    found = optimise(moving=moved(fixed, change), fixed=fixed, model=Affine())
    assert not found.fault
    inside = fixed.geometry.points_mm()[fixed.data > 0.3]
    error = found.transform(inside) - transform.Affine(change)(inside)
    assert float(error[:, :2].norm(dim=1).mean()) < 1


def test_a_single_bright_voxel() -> None:
    data = torch.zeros(20, 20, 20)
    data[10, 9, 8] = 1
    speck = Volume(data, Geometry.axis_aligned(data.shape, (1.0, 1.0, 1.0)))
    found = optimise(moving=speck, fixed=SMALL.subject(0).image, model=Affine())
    assert found.fault
    optimise(moving=speck, fixed=speck, model=Affine())  # says something, whatever it is


def test_a_constant_scan_is_said() -> None:
    fixed = SMALL.subject(0).image
    flat = Volume(torch.ones_like(fixed.data), fixed.geometry)
    assert "constant" in optimise(moving=flat, fixed=fixed, model=Affine()).fault
    with pytest.raises(ValueError, match="constant"):
        optimise(moving=fixed, fixed=flat, model=Affine())


def test_scans_that_never_meet_are_said() -> None:
    fixed = SMALL.subject(0).image
    away = transform.Affine.translation(torch.tensor([500.0, 0.0, 0.0], dtype=torch.float64))
    found = optimise(moving=fixed, fixed=fixed, model=Affine(search=False), initial=away)
    assert "covered" in found.fault
    assert found.transform is away


def test_scans_of_different_things_are_said() -> None:
    fixed = SMALL.subject(0).image
    torch.manual_seed(0)
    noise = Volume(torch.rand(fixed.data.shape), fixed.geometry)
    found = optimise(moving=noise, fixed=fixed, model=Rigid())
    assert "alike" in found.fault or "fits" in found.fault
