"""Where voxels lie."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepatlas.spatial.geometry import Geometry, Volume

dims = pytest.mark.parametrize("d", [2, 3])


@dims
def test_there_and_back(d: int, slanted: Callable[..., Geometry]) -> None:
    grid = slanted(d, flip=(-1, 1, -1))
    index = 20 * torch.randn(5, 4, d, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(grid.to_index(grid.to_mm(index)), index)
    torch.testing.assert_close(grid.to_mm(grid.to_index(index)), index)
    one = grid.to_mm(torch.tensor([3, 1, 2][:d]))  # integers and single points too
    expected = grid.affine @ torch.tensor([*[3.0, 1.0, 2.0][:d], 1.0], dtype=torch.float64)
    torch.testing.assert_close(one, expected[:d])
    assert one.dtype == torch.float64


@dims
def test_every_voxel_has_its_point(d: int, slanted: Callable[..., Geometry]) -> None:
    grid = slanted(d)
    points = grid.points_mm()
    assert points.shape == (*grid.shape, d)
    place = (7, 3, 5)[:d]
    torch.testing.assert_close(points[place], grid.to_mm(torch.tensor(place)))
    slabs = list(grid.slabs(points=100))
    assert len(slabs) > 1
    assert torch.equal(torch.cat([part for _, part in slabs]), points)
    assert [i for rows, _ in slabs for i in range(grid.shape[0])[rows]] == list(range(11))
    assert [rows.stop for rows, _ in slabs][-1] == grid.shape[0]
    assert len(list(grid.slabs(points=1))) == grid.shape[0]


@dims
def test_facts_of_a_slanted_grid(d: int, slanted: Callable[..., Geometry]) -> None:
    grid = slanted(d, flip=(1, -1, 1))
    assert grid.ndim == d
    assert grid.spacing_mm == pytest.approx((1.1, 0.8, 2.0)[:d])
    torch.testing.assert_close(grid.centre_mm, torch.tensor([-20.0, 35.0, 8.0][:d]).double())
    corners = grid.corners_mm()
    assert corners.shape == (2**d, d)
    torch.testing.assert_close(corners.mean(dim=0), grid.centre_mm)
    ends = grid.points_mm()
    for corner in itertools.product(*[(0, n - 1) for n in grid.shape]):
        assert (corners - ends[corner]).norm(dim=1).min() < 1e-9


@pytest.mark.parametrize("shape", [(4, 7), (4, 7, 5), (3, 1)], ids=str)
def test_axis_aligned(shape: tuple[int, ...]) -> None:
    d = len(shape)
    spacing, centre = (0.5, 2.0, 1.25)[:d], (10.0, -3.0, 4.0)[:d]
    places: list[Any] = [None, centre, np.array(centre), torch.tensor(centre)]
    for place in places:
        grid = Geometry.axis_aligned(shape, spacing, place)
        assert grid.spacing_mm == pytest.approx(spacing)
        wanted = torch.zeros(d) if place is None else torch.tensor(centre)
        torch.testing.assert_close(grid.centre_mm, wanted.double())
        assert torch.equal(grid.affine[:d, :d], torch.diag(torch.tensor(spacing)).double())


def test_the_same_within_a_tolerance(slanted: Callable[..., Geometry]) -> None:
    grid = slanted(3)
    moved = grid.affine.clone()
    moved[:3, 3] += torch.tensor([0.0, 9e-4, 0.0])
    assert grid.same_as(Geometry(grid.shape, moved))
    assert not grid.same_as(Geometry(grid.shape, moved), tolerance_mm=1e-4)
    turned = grid.affine.clone()
    turned[0, 1] += 1e-3  # small at one voxel, 13 times larger at the far corner
    assert not grid.same_as(Geometry(grid.shape, turned))
    assert not grid.same_as(Geometry((11, 14, 8), grid.affine))
    assert not grid.same_as(slanted(2))
    assert not grid.same_as(slanted(3, flip=(-1, 1, 1)))


def test_a_geometry_is_its_own() -> None:
    makes: list[Any] = [np.eye(4), torch.eye(4, dtype=torch.float64)]
    for made in makes:
        grid = Geometry((2, 3, 4), made)
        made[0, 3] = 99.0
        assert grid.affine[0, 3] == 0.0


@pytest.mark.parametrize(
    ("shape", "affine"),
    [((4,), torch.eye(2)), ((4, 4), torch.eye(4)), ((4, 4, 4, 4), torch.eye(5)),
     ((4, 0), torch.eye(3)), ((4, 4, 4), torch.ones(3, 4))],
    ids=str,
)  # fmt: skip
def test_only_grids_of_two_or_three_axes(shape: tuple[int, ...], affine: Tensor) -> None:
    with pytest.raises(ValueError, match="2 or 3 axes"):
        Geometry(shape, affine)


def test_a_volume_fills_its_grid(slanted: Callable[..., Geometry]) -> None:
    Volume(torch.zeros(11, 14, 7), slanted(3))
    with pytest.raises(ValueError, match=r"\(14, 11, 7\)"):
        Volume(torch.zeros(14, 11, 7), slanted(3))


def test_rounding_of_a_header_makes_no_other_grid() -> None:
    grid = Geometry.axis_aligned((20, 12, 9), (1.0, 2.0, 5.0))
    for shift, same in ((0.015, True), (0.03, False)):
        affine = grid.affine.clone()
        affine[2, 3] += shift
        other = Geometry(grid.shape, affine)
        assert grid.coincides_with(other) is same
        assert not grid.same_as(other)
    assert not grid.coincides_with(Geometry((20, 12, 8), grid.affine))
