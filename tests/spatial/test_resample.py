"""One interpolation onto any grid; SimpleITK is the referee, to which all goes in LPS."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
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

sitk: Any = pytest.importorskip("SimpleITK")

Slanted = Callable[..., Geometry]
Waves = Callable[..., Tensor]
dims = pytest.mark.parametrize("d", [2, 3])


@pytest.fixture(autouse=True, params=["kernels", "plain"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """By kernels and without them."""
    with plain() if request.param == "plain" else nullcontext():
        yield


def lps(d: int) -> np.ndarray:
    """RAS to LPS, and back."""
    return np.diag([-1.0, -1.0, 1.0][:d])


def to_itk(data: Tensor, geometry: Geometry, *, vector: bool = False) -> Any:
    """An image of SimpleITK; of a vector image the last axis is the component."""
    d = geometry.ndim
    axes = lps(d) @ geometry.affine[:d, :d].numpy()
    spacing = np.linalg.norm(axes, axis=0)
    array = data.permute(*reversed(range(d)), *([d] if vector else [])).contiguous().numpy()
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin((lps(d) @ geometry.affine[:d, d].numpy()).tolist())
    return image


def affine_of_itk(transform: Affine) -> Any:
    d = len(transform.matrix) - 1
    matrix = transform.matrix.numpy()
    itk = sitk.AffineTransform(d)
    itk.SetMatrix((lps(d) @ matrix[:d, :d] @ lps(d)).ravel().tolist())
    itk.SetTranslation((lps(d) @ matrix[:d, d]).tolist())
    return itk


def field_of_itk(field: DisplacementField) -> Any:
    d = field.geometry.ndim
    mm = field.voxels.double().movedim(0, -1) @ field.geometry.affine[:d, :d].T
    return sitk.DisplacementFieldTransform(
        to_itk(mm @ torch.from_numpy(lps(d)), field.geometry, vector=True)
    )


def by_itk(
    volume: Volume, onto: Geometry, transform: Any, *, labels: bool, outside: float = 0.0
) -> np.ndarray:
    empty = to_itk(torch.zeros(onto.shape), onto)
    how = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
    moving = to_itk(volume.data, volume.geometry)
    moved = sitk.Resample(moving, empty, transform, how, outside)
    return sitk.GetArrayFromImage(moved).T


def noise(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def some_labels(shape: Sequence[int]) -> Tensor:
    return torch.randint(0, 9, tuple(shape), generator=torch.Generator().manual_seed(1))


def reoriented(volume: Volume, order: Sequence[int], flips: Sequence[bool]) -> Volume:
    """The same image in the world, with its axes in another order and direction."""
    d = volume.geometry.ndim
    affine = volume.geometry.affine.clone()
    affine[:, :d] = affine[:, list(order)]
    data = volume.data.permute(*order)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:, d] += affine[:, axis] * (data.shape[axis] - 1)
            affine[:, axis] *= -1
            data = data.flip(axis)
    return Volume(data, Geometry(tuple(data.shape), affine))


def orientations(d: int) -> list[tuple[Any, Any]]:
    orders = itertools.permutations(range(d))
    return list(itertools.product(orders, itertools.product((False, True), repeat=d)))


@dims
def test_itk_agrees_in_every_orientation(
    d: int, slanted: Slanted, some_affine: Callable[[int], Tensor]
) -> None:
    transform = Affine(some_affine(d))
    shape, spacing = (9, 12, 8)[:d], (1.3, 0.9, 1.1)[:d]
    onto = Geometry.axis_aligned(shape, spacing, (-19.3, 34.4, 8.6)[:d])
    start = slanted(d)
    image, labels = Volume(noise(start.shape), start), Volume(some_labels(start.shape), start)
    itk, found = affine_of_itk(transform), set()
    for order, flips in orientations(d):
        turned = reoriented(image, order, flips)
        got = resample(turned, onto, transform, outside=-3.0)
        expected = by_itk(turned, onto, itk, labels=False, outside=-3.0)
        np.testing.assert_allclose(got.data.numpy(), expected, atol=1e-5)
        turned = reoriented(labels, order, flips)
        moved = resample(turned, onto, transform, labels=True).data
        np.testing.assert_array_equal(moved.numpy(), by_itk(turned, onto, itk, labels=True))
        found.add(turned.geometry.shape)
        assert 0.2 < (got.data != -3.0).float().mean() < 1.0  # both the scan and what is beyond
    assert len(found) == len(list(itertools.permutations(range(d))))


@dims
@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, -1)], ids=str)
def test_itk_agrees_on_slanted_grids(
    d: int, flip: tuple[int, ...], slanted: Slanted, some_affine: Callable[[int], Tensor]
) -> None:
    moving, onto = slanted(d, flip), slanted(d, flip[::-1], turn=-0.25)
    transform = Affine(some_affine(d)).inverse()
    image = Volume(noise(moving.shape), moving)
    got = resample(image, onto, transform)
    expected = by_itk(image, onto, affine_of_itk(transform), labels=False)
    np.testing.assert_allclose(got.data.numpy(), expected, atol=1e-5)
    assert got.geometry is onto
    assert got.data.dtype == torch.float32
    assert (got.data != 0).float().mean() > 0.3


@dims
def test_itk_agrees_on_displacements(d: int, slanted: Slanted, waves: Waves) -> None:
    moving = slanted(d, flip=(-1, 1, 1))
    middle = moving.centre_mm.tolist()
    onto = Geometry.axis_aligned((8, 9, 7)[:d], (0.9, 0.7, 1.2)[:d], middle)
    shape = (17, 21, 13)[:d]
    straight = Geometry.axis_aligned(shape, (0.8, 0.7, 1.1)[:d], middle)
    on = reoriented(
        Volume(torch.zeros(shape), straight), [1, 0, 2][:d], [True, False, True][:d]
    ).geometry
    field = DisplacementField(waves(on.shape, 2.0)[0] + 0.4, on)
    inside = on.to_index(onto.corners_mm())
    assert (inside > 0).all()
    assert (inside < torch.tensor(on.shape) - 1).all()  # where nothing fades
    image, itk = Volume(noise(moving.shape), moving), field_of_itk(field)
    got = resample(image, onto, field)
    np.testing.assert_allclose(got.data.numpy(), by_itk(image, onto, itk, labels=False), atol=2e-5)
    still = resample(image, onto)
    assert (got.data - still.data).abs().mean() > 0.1
    labels = Volume(some_labels(moving.shape), moving)
    moved = resample(labels, onto, field, labels=True)
    np.testing.assert_array_equal(moved.data.numpy(), by_itk(labels, onto, itk, labels=True))


@dims
@pytest.mark.parametrize("faded", [True, False])
def test_itk_agrees_on_points_within_and_beyond_a_field(
    faded: bool, d: int, slanted: Slanted, waves: Waves
) -> None:
    grid = slanted(d, flip=(-1, 1, 1))
    make = DisplacementField.faded if faded else DisplacementField
    field = make(waves(grid.shape, 2.0)[0] + 3.0, grid)
    itk, lps = field_of_itk(field), torch.tensor([-1.0, -1.0, 1.0])[:d]
    random = torch.Generator().manual_seed(0)
    size = torch.tensor(grid.shape)
    index = (torch.rand(800, d, generator=random).double() * 7 - 3) * size
    points = grid.to_mm(index)
    got = field(points) * lps
    expected = [itk.TransformPoint(point) for point in (points * lps).tolist()]
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)
    beyond = ((index < -0.5) | (index > size - 0.5)).any(dim=-1)
    moved = (field(points) - points).norm(dim=-1) > 1e-6
    assert (~moved).sum() > 20
    assert (int((moved & beyond).sum()) > 20) == faded  # without fading none at all


def test_itk_agrees_on_a_chain(
    slanted: Slanted, waves: Waves, some_affine: Callable[[int], Tensor]
) -> None:
    moving = slanted(3, flip=(1, -1, 1))
    onto = Geometry.axis_aligned((8, 9, 7), (0.9, 0.7, 1.2), moving.centre_mm.tolist())
    wide = Geometry.axis_aligned((25, 23, 21), (1.0, 1.0, 1.0), moving.centre_mm.tolist())
    flow = VelocityField(waves(wide.shape, 2.0)[0], wide)
    last = Affine(some_affine(3))
    itk = sitk.CompositeTransform(3)
    itk.AddTransform(affine_of_itk(last))  # ITK applies the one that was added last first
    itk.AddTransform(field_of_itk(flow.field))
    image = Volume(noise(moving.shape), moving)
    got = resample(image, onto, Composite([flow, last])).data
    np.testing.assert_allclose(got.numpy(), by_itk(image, onto, itk, labels=False), atol=2e-5)
    other = resample(image, onto, Composite([last, flow])).data
    assert (got - other).abs().mean() > 0.01


def test_itk_agrees_on_halves() -> None:
    """At half a voxel the next one counts, each one once; rounding to even doubles every other."""
    moving = Geometry.axis_aligned((6, 5, 4), (1.0, 2.0, 1.0))
    shifted = moving.affine.clone()
    shifted[:3, 3] += torch.tensor([0.5, 1.0, 0.5])
    onto = Geometry(moving.shape, shifted)
    labels = Volume(torch.arange(120).reshape(6, 5, 4) + 1, moving)
    got = resample(labels, onto, labels=True).data
    assert torch.equal(got[:-1, :-1, :-1], labels.data[1:, 1:, 1:])
    assert not got[-1].any()
    expected = by_itk(labels, onto, sitk.Transform(), labels=True)
    np.testing.assert_array_equal(got.numpy(), expected)


@dims
def test_coinciding_grids_are_exact(d: int, slanted: Slanted) -> None:
    start = slanted(d)
    data = noise(start.shape) * 10.0 ** (12 * noise(start.shape, seed=2))
    volume = Volume(data, start)
    for order, flips in orientations(d):
        turned = reoriented(volume, order, flips)
        assert torch.equal(resample(volume, turned.geometry).data, turned.data)
        assert torch.equal(resample(turned, start).data, data)
    offset = start.affine[:d, :d] @ torch.tensor([2.0, -3.0, 1.0])[:d].double()
    moved = resample(volume, start, Affine.translation(offset), outside=7.0).data
    expected = torch.full_like(data, 7.0)
    there = (slice(0, -2), slice(3, None), slice(0, -1))[:d]
    source = (slice(2, None), slice(0, -3), slice(1, None))[:d]
    expected[there] = data[source]
    assert torch.equal(moved, expected)


@dims
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_keep_type_and_value(
    d: int, dtype: torch.dtype, slanted: Slanted, some_affine: Callable[[int], Tensor]
) -> None:
    start, onto = slanted(d), slanted(d, turn=0.1)
    ids = [0, torch.iinfo(dtype).max, torch.iinfo(dtype).max - 1, 5]
    if dtype in (torch.int32, torch.int64):
        ids += [2**24 + 1, -(2**24) - 3]
    data = torch.tensor(ids, dtype=dtype)[some_labels(start.shape) % len(ids)]
    moved = resample(Volume(data, start), onto, Affine(some_affine(d)), labels=True).data
    assert moved.dtype == dtype
    assert set(moved.unique().tolist()) == set(ids)


def test_images_of_integers_are_interpolated() -> None:
    grid = Geometry.axis_aligned((4, 3), (1.0, 1.0))
    counts = Volume(torch.arange(12, dtype=torch.int16).reshape(4, 3), grid)
    between = resample(counts, grid, Affine.translation([0.5, 0.0]), outside=-0.5)
    assert between.data[:3].tolist() == [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5], [7.5, 8.5, 9.5]]
    moved = resample(counts, grid, Affine.translation([2.0, 0.0]), outside=-0.5).data
    assert moved[-1].tolist() == [-0.5, -0.5, -0.5]  # not cut to a whole number


def test_the_border_voxel_reaches_to_its_face() -> None:
    grid = Geometry.axis_aligned((5, 3, 2), (2.0, 1.0, 3.0), (7.0, 0.0, -4.0))
    fine = Geometry.axis_aligned((20, 12, 8), (0.5, 0.25, 0.75), (7.0, 0.0, -4.0))  # the same box
    ones = Volume(torch.ones(5, 3, 2), grid)
    for labels in (False, True):
        assert (resample(ones, fine, labels=labels).data == 1).all()
        beyond = resample(ones, fine, Affine.translation([0.5, 0.0, 0.0]), labels=labels).data
        assert (beyond[:-1] == 1).all()
        assert (beyond[-1] == 0).all()


def test_one_slice_is_no_endless_column() -> None:
    thin = Geometry.axis_aligned((4, 5, 1), (1.0, 1.0, 1.0))
    thick = Geometry.axis_aligned((4, 5, 5), (1.0, 1.0, 0.4))
    got = resample(Volume(torch.ones(4, 5, 1), thin), thick).data
    assert got[0, 0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_points_that_are_no_numbers_are_outside(slanted: Slanted) -> None:
    class Broken(Transform):
        def __call__(self, points_mm: Tensor) -> Tensor:
            return torch.where(torch.arange(3) == 1, float("nan"), points_mm)

        def inverse(self) -> Transform:
            return self

        def parts(self) -> list[Affine | DisplacementField]:
            return []

    grid = slanted(3)
    field = DisplacementField(torch.ones(3, *grid.shape) * 0.3, grid)
    for transform in (Broken(), Composite([Broken(), field])):
        for labels in (False, True):
            got = resample(Volume(torch.ones(grid.shape), grid), grid, transform, labels=labels)
            assert not got.data.any()


def test_slabs_make_no_difference(
    slanted: Slanted, some_affine: Callable[[int], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    start, onto = slanted(3), slanted(3, turn=0.1)
    transform = Affine(some_affine(3))
    cases = [
        (Volume(noise(start.shape), start), False),
        (Volume(some_labels(start.shape), start), True),
    ]
    whole = [resample(v, onto, transform, labels=labels).data for v, labels in cases]
    slabs = Geometry.slabs
    monkeypatch.setattr(Geometry, "slabs", lambda self: slabs(self, 100))
    for (volume, labels), expected in zip(cases, whole, strict=True):
        got = resample(volume, onto, transform, labels=labels).data
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_the_volume_is_left_alone(slanted: Slanted) -> None:
    grid = slanted(2)
    data = noise(grid.shape)
    before = data.clone()
    moved = resample(Volume(data, grid), grid)
    moved.data.zero_()
    assert torch.equal(data, before)
