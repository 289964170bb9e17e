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


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.half, torch.float64],
)
def test_labels_of_any_type(dtype: torch.dtype) -> None:
    start, onto = geometry(SHAPES[3][0]), geometry(SHAPES[3][1])
    large = 1 if dtype == torch.bool else 2000 if dtype == torch.half else torch.iinfo(
        dtype).max if not dtype.is_floating_point else 2**40 + 1  # fmt: skip
    data = (torch.rand(start.shape) > 0.5).to(dtype) * torch.tensor(large, dtype=dtype)
    got = resample(Volume(data.movedim(0, 2).contiguous().movedim(2, 0), start), onto, labels=True)
    with plain():
        wanted = resample(Volume(data, start), onto, labels=True).data
    assert got.data.dtype == dtype
    assert torch.equal(got.data, wanted)
    assert bool((got.data == large).any())


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
            raise AssertionError("its parts say all")

    class Own(Transform):
        def __call__(self, points_mm: Tensor) -> Tensor:
            return points_mm + 1

        def inverse(self) -> Transform:
            return self

        def parts(self) -> list[Affine | DisplacementField]:
            raise AssertionError("its parts say nothing")

    grid = Geometry.axis_aligned((4, 5, 6), (1.0, 1.0, 1.0))
    volume = Volume(torch.randn(grid.shape), grid)
    identity = torch.eye(4, dtype=torch.float64)
    assert torch.equal(resample(volume, grid, Bent(identity)).data, volume.data)
    for transform in (Own(), Composite([Affine(identity), Own()])):
        got = resample(volume, grid, transform).data
        assert torch.equal(got[:-1, :-1, :-1], volume.data[1:, 1:, 1:])
        assert float(transform.displacement(grid).min()) == pytest.approx(1)
