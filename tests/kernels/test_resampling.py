"""Whole grids through chains of maps by kernels, against the plain way, point by point."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deepatlas.kernels import plain
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
    resample,
)

SHAPES = {2: ((9, 12), (14, 11), (7, 8)), 3: ((9, 12, 8), (6, 14, 11), (7, 1, 10))}
dims = pytest.mark.parametrize("d", [2, 3])


@pytest.fixture(autouse=True, params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.manual_seed(7)
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def geometry(shape: tuple[int, ...]) -> Geometry:
    """Oblique and anisotropic, about the origin."""
    d = len(shape)
    affine = torch.eye(d + 1, dtype=torch.float64)
    affine[:d, :d] += 0.2 * torch.randn(d, d).double()
    affine[:d, :d] *= torch.tensor([0.7, 1.3, 0.9][:d]).double()
    affine[:d, d] = -affine[:d, :d] @ (torch.tensor(shape).double() / 2)
    return Geometry(shape, affine)


def matrix(d: int) -> Affine:
    change = torch.eye(d + 1, dtype=torch.float64)
    change[:d] += 0.1 * torch.randn(d, d + 1).double()
    return Affine(change)


def field(shape: tuple[int, ...]) -> DisplacementField:
    return DisplacementField(2 * torch.randn(len(shape), *shape), geometry(shape))


def chains(d: int) -> list[Transform | None]:
    own = SHAPES[d]
    velocity = VelocityField(torch.randn(d, *own[0]), geometry(own[0]))
    return [
        None,
        matrix(d),
        field(own[1]),
        velocity,
        Composite([matrix(d), field(own[1]), matrix(d)]),
        Composite([field(own[0]), Composite([matrix(d), field(own[2])]), matrix(d)]),
    ]


@dims
def test_images_and_labels(d: int) -> None:
    start, onto = geometry(SHAPES[d][0]), geometry(SHAPES[d][1])
    image = torch.randn(start.shape)
    for transform in chains(d):
        for labels in (False, True):
            got = resample(Volume(image, start), onto, transform, labels=labels, outside=-9).data
            with plain():
                wanted = resample(Volume(image, start), onto, transform, labels=labels, outside=-9)
            torch.testing.assert_close(got, wanted.data, rtol=0, atol=0 if labels else 1e-6)
            assert 0.02 < float((got == -9).float().mean()) < 0.98


@dims
def test_what_nearly_coincides_is_interpolated(d: int) -> None:
    """A field between two grids that are one, and a step that differs a little."""
    grid = Geometry.axis_aligned(SHAPES[d][0], [1.0] * d)
    image = torch.randn(grid.shape)
    bent = DisplacementField(0.4 * torch.randn(d, *grid.shape), grid)
    wider = torch.eye(d + 1, dtype=torch.float64) * 1.02
    wider[-1, -1] = 1
    wider[:-1, -1] = -0.02 * grid.affine[:-1, -1]  # the first voxel stays where it is
    for transform in (bent, Affine(wider)):
        got = resample(Volume(image, grid), grid, transform).data
        with plain():
            wanted = resample(Volume(image, grid), grid, transform).data
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
        assert float((got - image).abs().mean()) > 0.01


@pytest.mark.parametrize("less", [0.0, 1e-9, 2e-7])
def test_a_half_goes_up_though_rounding_took_a_little(less: float) -> None:
    grid = Geometry.axis_aligned((5, 1, 1), [1.0] * 3)
    shift = Affine.translation([0.5 - less, 0, 0])
    got = resample(Volume(torch.arange(5.0).reshape(5, 1, 1), grid), grid, shift, labels=True)
    assert got.data.flatten().tolist() == [1, 2, 3, 4, 0]


@dims
def test_displacements_of_grids(d: int) -> None:
    grid = geometry(SHAPES[d][1])
    for transform in chains(d)[1:]:
        assert transform is not None
        got = transform.displacement(grid)
        with plain():
            torch.testing.assert_close(got, transform.displacement(grid), rtol=0, atol=1e-5)
        assert got.shape == (d, *grid.shape)
        assert float(got.abs().mean()) > 0.1


LARGE = {
    torch.bool: 1, torch.uint8: 255, torch.int16: -(2**15), torch.int32: 2**31 - 1,
    torch.int64: -(2**63), torch.half: 2000, torch.float64: 2**40 + 1,
}  # fmt: skip


@pytest.mark.parametrize("dtype", LARGE)
def test_labels_of_any_type(dtype: torch.dtype) -> None:
    start, onto = geometry(SHAPES[3][0]), geometry(SHAPES[3][1])
    values = torch.tensor([0, LARGE[dtype]], dtype=dtype)
    data = values[torch.randint(2, start.shape)]
    elsewhere = data.movedim(0, 2).contiguous().movedim(2, 0)  # in memory
    got = resample(Volume(elsewhere, start), onto, labels=True).data
    with plain():
        wanted = resample(Volume(data, start), onto, labels=True).data
    assert got.dtype == dtype
    assert torch.equal(got, wanted)
    assert bool((got == values[1]).any())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float64, torch.half])
def test_images_of_any_type_become_float32(dtype: torch.dtype) -> None:
    start, onto = geometry(SHAPES[3][0]), geometry(SHAPES[3][1])
    volume = Volume((100 * torch.rand(start.shape)).to(dtype), start)
    got = resample(volume, onto).data
    with plain():
        torch.testing.assert_close(got, resample(volume, onto).data, rtol=0, atol=1e-4)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("noise", [0.0, 3e-6])
def test_on_its_own_voxels_every_value_is_kept(noise: float) -> None:
    """Whatever lies beside it; up to the noise of headers in float32."""
    start = geometry((4, 6, 5))
    data = torch.randn(start.shape)
    data[2, 2, 2] = float("nan")
    affine = start.affine[:, [1, 0, 2, 3]].clone()
    affine[:3, 3] += start.affine[:3, 0] * 3  # the second axis goes backwards
    affine[:3, 1] *= -1
    turned = Geometry((6, 4, 5), affine + noise * torch.eye(4, dtype=torch.float64))
    got = resample(Volume(data, start), turned).data
    assert torch.equal(got.nan_to_num(), data.transpose(0, 1).flip(1).nan_to_num())


def test_a_map_of_unknown_kind_is_asked_point_by_point() -> None:
    class Bent(Affine):
        def __call__(self, points_mm: Tensor) -> Tensor:
            return points_mm + 1

    class Own(Transform):
        def __call__(self, points_mm: Tensor) -> Tensor:
            return points_mm + 1

        def inverse(self) -> Transform:
            return self

        def parts(self) -> list[Affine | DisplacementField]:
            raise AssertionError("its parts say nothing")

    grid = Geometry.axis_aligned((4, 5, 6), (1.0, 1.0, 1.0))
    volume = Volume(torch.randn(grid.shape), grid)
    identity = Affine.identity(3)
    for transform in (Bent(identity.matrix), Own(), Composite([identity, Own()])):
        got = resample(volume, grid, transform).data
        assert torch.equal(got[:-1, :-1, :-1], volume.data[1:, 1:, 1:])
        assert float(transform.displacement(grid).min()) == pytest.approx(1)


def test_great_contrast_is_kept_at_the_border() -> None:
    """Differences of float32 would lose the small value, or be too large for it."""
    grid = Geometry.axis_aligned((4, 1, 1), (1.0, 1.0, 1.0))
    shift = Affine.translation([0.25, 0, 0])
    for values, last in (([1e8, 1, 1e8, 3], 3.0), ([0, 0, 3e38, -3e38], -3e38)):
        data = torch.tensor(values).reshape(4, 1, 1)
        got = resample(Volume(data, grid), grid, shift).data.flatten()
        with plain():
            wanted = resample(Volume(data, grid), grid, shift).data.flatten()
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=0)
        assert float(got[-1]) == pytest.approx(last)


def test_what_is_no_number_reaches_no_farther_than_a_voxel() -> None:
    grid = Geometry.axis_aligned((5, 4, 3), (1.0, 1.0, 1.0))
    data = torch.randn(grid.shape)
    data[3] = float("nan")
    shift = Affine.translation([0.25, 0, 0])
    step = torch.zeros(3, *grid.shape)
    step[0] = 0.25
    bent = DisplacementField(step, grid)
    for transform in (shift, bent):
        got = resample(Volume(data, grid), grid, transform).data
        with plain():
            wanted = resample(Volume(data, grid), grid, transform).data
        torch.testing.assert_close(got, wanted, equal_nan=True)
        assert got.isnan().any(-1).any(-1).tolist() == [False, False, True, True, False]


def test_a_field_that_is_no_number_shows_what_is_outside() -> None:
    grid = Geometry.axis_aligned((6, 5, 4), (1.0, 1.0, 1.0))
    wide = grid.padded(2)
    field = torch.zeros(3, *grid.shape)
    field[:, :2] = float("nan")
    transform = DisplacementField(field, grid)
    image = Volume(torch.rand(wide.shape) + 1, wide)
    for labels in (False, True):
        got = resample(image, wide, transform, labels=labels).data
        with plain():
            wanted = resample(image, wide, transform, labels=labels).data
        torch.testing.assert_close(got, wanted)
        assert not got[2:4, 2:-2, 2:-2].any()
        unknown = torch.zeros(wide.shape, dtype=torch.bool)
        unknown[2:4, 2:-2, 2:-2] = True
        assert torch.equal(got == 0, unknown)  # beyond its grid a field moves nothing


def test_on_a_voxel_behind_a_field_its_value_is_kept() -> None:
    grid = geometry((5, 6, 4))
    data = torch.randn(grid.shape)
    data[2, 2, 2] = float("inf")
    still = DisplacementField(torch.zeros(3, 7, 1, 6), geometry((7, 1, 6)))
    turn = matrix(3)
    for transform in (still, Composite([turn, still, turn.inverse()])):
        assert torch.equal(resample(Volume(data, grid), grid, transform).data, data)


@pytest.mark.parametrize("shape", [(1, 6, 5), (6, 1, 5), (6, 5, 1), (1, 1, 1), (1, 7)])
def test_axes_of_length_one(shape: tuple[int, ...]) -> None:
    d = len(shape)
    thin, full = geometry(shape), geometry(SHAPES[d][0])
    for start, onto in ((thin, full), (full, thin), (thin, thin)):
        volume = Volume(torch.randn(start.shape), start)
        transform = Composite([matrix(d), field(shape), matrix(d)])
        got = resample(volume, onto, transform, outside=2).data
        with plain():
            wanted = resample(volume, onto, transform, outside=2).data
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
