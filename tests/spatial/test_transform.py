"""Maps of points in mm: what each kind does, inverses, order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepatlas.spatial.field import compose
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import (
    FADE_VOXELS,
    Affine,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
    find_points,
)

Waves = Callable[..., Tensor]
Slanted = Callable[..., Geometry]
dims = pytest.mark.parametrize("d", [2, 3])


def points_within(grid: Geometry, *, margin: float = 0.0, count: int = 300) -> Tensor:
    """Random points of the grid's box, `margin` voxels from its faces."""
    share = torch.rand(count, grid.ndim, generator=torch.Generator().manual_seed(1)).double()
    return grid.to_mm(margin + share * (torch.tensor(grid.shape) - 1 - 2 * margin))


def far(transform: Transform, other: Transform, points: Tensor) -> float:
    """Mean distance in mm between the images of points."""
    return float((transform(points) - other(points)).norm(dim=-1).mean())


@dims
def test_affine_maps(d: int, slanted: Slanted, some_affine: Callable[[int], Tensor]) -> None:
    matrix = some_affine(d)
    transform = Affine(matrix)
    points = points_within(slanted(d)).reshape(15, 20, d)
    homogeneous = torch.cat([points, torch.ones(15, 20, 1)], dim=-1).double()
    torch.testing.assert_close(transform(points), (homogeneous @ matrix.T)[..., :d])
    torch.testing.assert_close(transform.inverse()(transform(points)), points)
    shift = Affine.translation([1.0, -2.0, 3.0][:d])
    torch.testing.assert_close(
        shift(points) - points, torch.tensor([1.0, -2, 3][:d]).double().expand(15, 20, d)
    )
    both = Composite([shift, transform])  # the shift first
    product = Affine(transform.matrix @ shift.matrix)
    torch.testing.assert_close(both(points), product(points))
    assert far(both, Composite([transform, shift]), points) > 0.1


def test_what_is_no_affine_matrix() -> None:
    for wrong in (torch.ones(3, 3), torch.eye(4)[:3], torch.eye(2).repeat(2, 2)):
        with pytest.raises(ValueError, match="last row"):
            Affine(wrong)


def test_a_transform_keeps_its_own_numbers(slanted: Slanted) -> None:
    matrix, field, grid = torch.eye(3).double(), torch.zeros(2, 11, 14), slanted(2)
    parts: list[Transform] = [
        Affine(matrix), DisplacementField(field, grid), VelocityField(field, grid),
    ]  # fmt: skip
    matrix[0, 2], points = 5.0, points_within(grid)
    field += 3.0
    for transform in parts:
        torch.testing.assert_close(transform(points), points)
        torch.testing.assert_close(transform.inverse()(points), points)


@dims
def test_displacement_of_an_affine_map(
    d: int, slanted: Slanted, some_affine: Callable[[int], Tensor]
) -> None:
    grid, matrix = slanted(d, flip=(-1, 1, 1)), some_affine(d)
    to_mm = grid.affine
    in_voxels = torch.linalg.inv(to_mm) @ matrix @ to_mm
    x = Geometry(grid.shape, torch.eye(d + 1)).points_mm()
    expected = (Affine(in_voxels)(x) - x).movedim(-1, 0)
    got = Affine(matrix).displacement(grid)
    assert got.dtype == torch.float32
    assert got.shape == (d, *grid.shape)
    torch.testing.assert_close(got, expected.float(), rtol=0, atol=1e-5)


@dims
def test_a_field_gives_its_numbers_back(d: int, slanted: Slanted, waves: Waves) -> None:
    grid = slanted(d, flip=(1, -1, -1))
    field = waves(grid.shape, 2.0)[0] + 0.5
    transform = DisplacementField(field, grid)
    torch.testing.assert_close(transform.displacement(grid), field.float(), rtol=0, atol=1e-5)
    # a voxel's displacement is along the grid's axes, not the world's
    place = (5, 6, 3)[:d]
    here = field.movedim(0, -1)[place]
    expected = grid.to_mm(torch.tensor(place) + here)
    torch.testing.assert_close(
        transform(grid.to_mm(torch.tensor(place))), expected, atol=1e-5, rtol=0
    )


@dims
def test_a_linear_field_is_an_affine_map(
    d: int, slanted: Slanted, some_affine: Callable[[int], Tensor]
) -> None:
    grid, affine = slanted(d), Affine(some_affine(d))
    field = DisplacementField(affine.displacement(grid), grid)
    assert far(field, affine, points_within(grid)) < 1e-5
    finer = Geometry.axis_aligned((9, 8, 6)[:d], (0.3, 0.2, 0.4)[:d], grid.centre_mm.tolist())
    got = field.displacement(finer)
    torch.testing.assert_close(got, affine.displacement(finer), rtol=0, atol=1e-4)


@dims
def test_a_field_fades_outside_its_grid(d: int, slanted: Slanted) -> None:
    grid = slanted(d, flip=(1, 1, -1))
    steps = torch.tensor([2.0, -1.0, 0.5])[:d]
    transform = DisplacementField.faded(steps.reshape(-1, *[1] * d).expand(-1, *grid.shape), grid)
    last = torch.tensor(grid.shape).double() - 1
    for beyond in (0.0, 1.0, 5.5, FADE_VOXELS - 0.5, FADE_VOXELS, 500.0):
        share = max(0.0, 1 - beyond / FADE_VOXELS)
        for axis in range(d):
            for end in (0, 1):
                index = last / 2
                index[axis] = last[axis] + beyond if end else -beyond
                moved = grid.to_index(transform(grid.to_mm(index)))
                torch.testing.assert_close(moved, index + share * steps)
    corner = last + 3 * torch.ones(d)  # in a corner by the distance, not by the largest axis
    share = 1 - 3 * d**0.5 / FADE_VOXELS
    moved = grid.to_index(transform(grid.to_mm(corner)))
    torch.testing.assert_close(moved, corner + share * steps)


def test_a_field_that_is_large_at_the_border_fades_over_a_longer_way() -> None:
    """No point is overtaken by one behind it, and the faded map has an inverse."""
    grid = Geometry.axis_aligned((9, 12), (1.0, 2.0))
    field = torch.zeros(2, 9, 12)
    field[0] = 10.0
    transform = DisplacementField.faded(field, grid)
    assert transform.geometry.shape == (9 + 40, 12 + 40)
    x = torch.zeros(400, 2).double()
    x[:, 0] = torch.linspace(-60, 60, 400)
    assert (transform(x)[:, 0].diff() > 0).all()
    torch.testing.assert_close(transform.inverse()(transform(x)), x, atol=0.02, rtol=0)


@dims
def test_outside_its_grid_a_field_is_zero_at_once(d: int, slanted: Slanted) -> None:
    grid = slanted(d, flip=(1, 1, -1))
    steps = torch.tensor([2.0, -1.0, 0.5])[:d]
    transform = DisplacementField(steps.reshape(-1, *[1] * d).expand(-1, *grid.shape), grid)
    last = torch.tensor(grid.shape).double() - 1
    for axis in range(d):
        for beyond, share in ((0.4, 1), (0.6, 0), (30.0, 0)):
            for end in (0, 1):
                index = last / 2
                index[axis] = last[axis] + beyond if end else -beyond
                moved = grid.to_index(transform(grid.to_mm(index)))
                torch.testing.assert_close(moved, index + share * steps)


@dims
def test_inverse_of_a_field(d: int, slanted: Slanted, waves: Waves) -> None:
    grid = slanted(d)
    transform = DisplacementField(waves(grid.shape, 1.0)[0], grid)
    points = points_within(grid)
    identity = Affine(torch.eye(d + 1))
    assert far(transform, identity, points) > 0.2
    assert far(Composite([transform, transform.inverse()]), identity, points) < 0.03
    assert far(Composite([transform.inverse(), transform]), identity, points) < 0.03


@dims
def test_the_inverse_of_a_field_that_leaves_its_grid(
    d: int, slanted: Slanted, waves: Waves
) -> None:
    """Such as one in a file, which holds the shift between two scans."""
    grid = slanted(d, flip=(-1, 1, 1))
    shift = torch.tensor([40.0, -25.0, 3.5])[:d].reshape(-1, *[1] * d)
    transform = DisplacementField(waves(grid.shape, 1.0)[0] + shift, grid)
    points = points_within(grid)
    there = transform(points)
    assert (there - points).norm(dim=-1).min() > 20
    assert (transform.inverse()(there) - points).norm(dim=-1).mean() < 0.1
    torch.testing.assert_close(
        find_points(transform, transform.inverse(), there), points, atol=1e-3, rtol=0
    )


def test_a_field_that_is_no_number_cannot_fade() -> None:
    grid = Geometry.axis_aligned((9, 12), (1.0, 2.0))
    with pytest.raises(ValueError, match="NaN or infinite"):
        DisplacementField.faded(torch.full((2, 9, 12), torch.nan), grid)
    huge = DisplacementField.faded(torch.full((2, 9, 12), 1e4), grid)
    assert huge.geometry.shape == (9 + 48, 12 + 48)


@dims
def test_a_velocity_flows_back(d: int, waves: Waves) -> None:
    shape = (23, 26, 19)[:d]
    grid = Geometry.axis_aligned(shape, (1.0, 0.7, 1.5)[:d], (5.0, -9.0, 30.0)[:d])
    transform = VelocityField(waves(shape, 3.0)[0], grid)
    points, identity = points_within(grid), Affine(torch.eye(d + 1))
    assert far(transform, identity, points) > 0.2
    assert far(Composite([transform, transform.inverse()]), identity, points) < 0.03
    assert far(transform.inverse().inverse(), transform, points) < 1e-9
    straight = DisplacementField(transform.velocity, grid)
    assert far(transform, straight, points) > 0.02
    everywhere = grid.padded(12).points_mm()  # at and beyond the border too
    assert far(Composite([transform, transform.inverse()]), identity, everywhere) < 0.2


def test_fewer_squarings_are_kept_by_the_inverse(waves: Waves) -> None:
    grid = Geometry.axis_aligned((23, 26), (1.0, 1.0))
    velocity = waves(grid.shape, 4.0)[0]
    coarse, fine = (VelocityField(velocity, grid, squarings=k) for k in (0, 7))
    points = points_within(grid)
    assert far(coarse, DisplacementField.faded(velocity, grid), points) == 0.0
    assert far(coarse.inverse(), DisplacementField.faded(-velocity, grid), points) == 0.0
    assert far(coarse, fine, points) > 0.05


@dims
def test_composites(
    d: int, slanted: Slanted, waves: Waves, some_affine: Callable[[int], Tensor]
) -> None:
    grid = slanted(d)
    parts = [
        Affine.translation([3.0, -1.0, 0.5][:d]),
        DisplacementField(waves(grid.shape, 1.0)[0], grid),
        Affine(some_affine(d)),
    ]
    points = points_within(grid, margin=1.5)
    expected = points
    for part in parts:
        expected = part(expected)
    whole = Composite(parts)
    torch.testing.assert_close(whole(points), expected)
    back = whole.inverse()
    kinds = [type(part) for part in back.transforms]
    assert kinds == [Affine, DisplacementField, Affine]  # the last is undone first
    torch.testing.assert_close(back.transforms[2](parts[0](points)), points)
    assert (back(whole(points)) - points).norm(dim=-1).mean() < 0.05
    assert (whole(points) - points).norm(dim=-1).mean() > 1.0
    torch.testing.assert_close(Composite([])(points), points)


@dims
def test_composing_fields_and_transforms_is_the_same(
    d: int, slanted: Slanted, waves: Waves
) -> None:
    grid = slanted(d)
    fields = [waves(grid.shape, 1.0, seed=seed)[0] for seed in (1, 2)]
    first, second = (DisplacementField(field, grid) for field in fields)
    in_mm = Composite([first, second]).displacement(grid)
    in_voxels = compose(fields[1][None], fields[0][None])[0]
    torch.testing.assert_close(in_mm, in_voxels.float(), rtol=0, atol=1e-5)


def test_many_points_and_none(
    slanted: Slanted, waves: Waves, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = slanted(3)
    transform = DisplacementField(waves(grid.shape, 1.0)[0], grid)
    assert transform(torch.zeros(0, 3)).shape == (0, 3)
    assert transform(grid.centre_mm).shape == (3,)
    whole = transform.displacement(grid)
    slabs = Geometry.slabs
    monkeypatch.setattr(Geometry, "slabs", lambda self: slabs(self, 100))
    torch.testing.assert_close(transform.displacement(grid), whole, rtol=0, atol=1e-6)


def test_a_field_fills_its_grid(slanted: Slanted) -> None:
    for kind in (DisplacementField, VelocityField):
        with pytest.raises(ValueError, match="on a grid of"):
            kind(torch.zeros(3, 14, 11, 7), slanted(3))
        with pytest.raises(ValueError, match="on a grid of"):
            kind(torch.zeros(2, 11, 14, 7), slanted(3))
