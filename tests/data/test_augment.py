"""Augmentation: drawn in one place, applied the same way to images, labels and probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from deepatlas.data.augment import Augmentation, View
from deepatlas.data.batches import one_hot
from deepatlas.errors import BadInput
from deepatlas.spatial.grid import identity_grid, sample

SHAPES = [(26, 33), (17, 22, 19)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)

STILL: dict[str, Any] = {f.name: 0.0 for f in fields(Augmentation) if f.type == "float"}
OFF = Augmentation(**STILL)
MOVING = Augmentation(gamma=0, contrast=0, brightness=0, noise=0, blur=0)
STRONG = Augmentation(
    rotation_degrees=40, scale=0.4, shift_voxels=6, deformation_voxels=3, gamma=2, contrast=2,
    brightness=0.8, noise=0.5, blur=0.5, flip_axis=0, flip_pairs=((1, 3),),
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """Smooth images in [0, 1], other ones in each item."""
    axes = torch.meshgrid(*[torch.linspace(0, 3, n) for n in shape], indexing="ij")
    waves = [
        sum(torch.sin((1 + 0.3 * b) * x * (n + 1) + b) for n, x in enumerate(axes))
        for b in range(batch)
    ]
    stacked = torch.stack([torch.as_tensor(w) for w in waves]).unsqueeze(1)
    return (stacked - stacked.min()) / (stacked.max() - stacked.min())


def classes(shape: tuple[int, ...], batch: int = 2) -> Tensor:
    """Class indices: 1 low along the first axis, 3 high, 2 between, background around."""
    labels = torch.zeros(batch, *shape, dtype=torch.int16)
    inside = (slice(None), *[slice(3, -3) for _ in shape])
    labels[inside] = 2
    low, high = labels[:, : shape[0] // 3], labels[:, 2 * shape[0] // 3 :]
    low[low == 2], high[high == 2] = 1, 3
    return labels


@shapes
def test_all_off_changes_nothing(shape: tuple[int, ...]) -> None:
    view = OFF.draw(2, shape, seeded())
    image, labels = picture(shape), classes(shape)
    torch.testing.assert_close(view.image(image), image, rtol=0, atol=1e-5)
    assert torch.equal(view.labels(labels), labels)
    maps = one_hot(labels, 4)
    torch.testing.assert_close(view.probabilities(maps), maps, rtol=0, atol=1e-5)


@shapes
def test_one_seed_one_view(shape: tuple[int, ...]) -> None:
    first, again = (STRONG.draw(3, shape, seeded(5)) for _ in range(2))
    other = STRONG.draw(3, shape, seeded(6))
    image = picture(shape, batch=3)
    assert torch.equal(first.image(image), again.image(image))
    assert torch.equal(first.image(image), first.image(image))  # applying draws nothing
    assert torch.equal(first.positions, again.positions)
    assert not torch.equal(first.positions, other.positions)
    assert first.noise_seed == again.noise_seed != other.noise_seed
    assert not torch.equal(first.positions[0], first.positions[1])
    assert not torch.equal(first.intensity[0], first.intensity[1])


@shapes
def test_arguments_are_left_alone(shape: tuple[int, ...]) -> None:
    image, labels = picture(shape), classes(shape)
    maps = one_hot(labels, 4)
    before = [x.clone() for x in (image, labels, maps)]
    view = STRONG.draw(2, shape, seeded())
    view.image(image), view.labels(labels), view.probabilities(maps)
    assert all(torch.equal(x, y) for x, y in zip((image, labels, maps), before, strict=True))
    assert torch.equal(identity_grid(shape)[0, 0, -1].float().mean(), torch.tensor(shape[0] - 1.0))


@shapes
def test_image_labels_and_maps_move_together(shape: tuple[int, ...]) -> None:
    labels = classes(shape)
    blob = (labels == 2).float().unsqueeze(1)  # an image whose edges are those of a label
    view = MOVING.draw(2, shape, seeded(1))
    moved, image = view.labels(labels), view.image(blob)[:, 0]
    maps = view.probabilities(one_hot(labels, 4))
    assert (moved != labels).float().mean() > 0.02
    # the nearest voxel has half of the weight along each axis, or more
    least = 0.5 ** len(shape)
    assert (image[moved == 2] > least - 1e-3).all()
    assert (image[moved != 2] < 1 - least + 1e-3).all()
    torch.testing.assert_close(maps[:, 2], image, rtol=0, atol=1e-4)


@shapes
def test_maps_are_the_one_hot_of_labels_up_to_interpolation(shape: tuple[int, ...]) -> None:
    labels = classes(shape)
    for seed in range(4):
        view = replace(MOVING, flip_axis=1, flip_pairs=((3, 1),)).draw(2, shape, seeded(seed))
        maps = view.probabilities(one_hot(labels, 4))
        torch.testing.assert_close(maps.sum(dim=1), torch.ones(2, *shape))
        assert maps.min() >= 0
        assert maps.max() <= 1 + 1e-5
        hard = one_hot(view.labels(labels), 4)
        inside = maps.amax(dim=1) > 0.999  # no edge within a voxel
        assert inside.float().mean() > 0.3
        assert torch.equal(maps.argmax(dim=1)[inside], hard.argmax(dim=1)[inside])
        assert (maps - hard).abs().mean() < 0.1


@shapes
@pytest.mark.parametrize("flip_axis", [0, 1])
def test_mirrored_scans_exchange_their_pairs(shape: tuple[int, ...], flip_axis: int) -> None:
    labels, count = classes(shape, batch=8), 8
    view = replace(OFF, flip_axis=flip_axis, flip_pairs=((1, 3),)).draw(count, shape, seeded(2))
    assert 0 < int(view.flipped.sum()) < count
    image = picture(shape, batch=count)
    maps = torch.rand(count, 4, *shape, generator=seeded(4)).softmax(dim=1)
    mirrored, soft = view.labels(labels), view.probabilities(maps)
    for item in range(count):
        flipped = bool(view.flipped[item])
        flips = [flip_axis] if flipped else []
        expected = labels[item].flip(flips)
        if flipped:
            expected = torch.tensor([0, 3, 2, 1], dtype=torch.int16)[expected.long()]
        assert torch.equal(mirrored[item], expected)
        assert set(mirrored[item].unique().tolist()) == {0, 1, 2, 3}
        wanted = maps[item].flip([n + 1 for n in flips])[[0, 3, 2, 1] if flipped else [0, 1, 2, 3]]
        torch.testing.assert_close(soft[item], wanted, rtol=0, atol=1e-4)
        moved = view.image(image)[item, 0]
        torch.testing.assert_close(moved, image[item, 0].flip(flips), rtol=0, atol=1e-4)
    assert mirrored.dtype == labels.dtype


def test_several_pairs() -> None:
    pairs = ((1, 2), (4, 3))
    labels = torch.arange(6, dtype=torch.uint8).reshape(1, 6, 1).expand(20, 6, 2).contiguous()
    view = replace(OFF, flip_axis=1, flip_pairs=pairs).draw(20, (6, 2), seeded())
    moved = view.labels(labels)
    assert moved.dtype == torch.uint8
    assert (moved[view.flipped][:, :, 0] == torch.tensor([0, 2, 1, 4, 3, 5])).all()
    assert (moved[~view.flipped] == labels[~view.flipped]).all()
    maps = view.probabilities(one_hot(labels, 6))
    torch.testing.assert_close(maps, one_hot(moved, 6), rtol=0, atol=1e-5)


@shapes
def test_beyond_the_grid_is_background(shape: tuple[int, ...]) -> None:
    far = identity_grid(shape).expand(2, -1, *[-1] * len(shape)) + 100.0
    view = replace_positions(OFF.draw(2, shape, seeded()), far)
    labels = classes(shape)
    assert not view.labels(labels).any()
    assert view.image(picture(shape)).max() < 1e-5
    torch.testing.assert_close(
        view.probabilities(one_hot(labels, 4)), one_hot(torch.zeros_like(labels), 4)
    )


def replace_positions(view: View, positions: Tensor) -> View:
    return replace(view, positions=positions)


@shapes
def test_intensities_stay_in_range(shape: tuple[int, ...]) -> None:
    image = picture(shape, batch=6)
    for seed in range(3):
        looked = STRONG.draw(6, shape, seeded(seed)).image(image)
        assert looked.shape == image.shape
        assert looked.min() >= 0
        assert looked.max() <= 1
        assert torch.isfinite(looked).all()


@shapes
def test_each_change_of_intensity(shape: tuple[int, ...]) -> None:
    image = 0.3 + 0.3 * picture(shape, batch=4)  # room on both sides

    def look(**settings: Any) -> Tensor:
        return replace(OFF, **settings).draw(4, shape, seeded(3)).look(image)

    def mean(x: Tensor) -> Tensor:
        return x.mean(dim=tuple(range(1, x.ndim)))

    gamma = torch.log(look(gamma=0.4)) / torch.log(image)
    assert (gamma.flatten(1).amax(1) - gamma.flatten(1).amin(1)).max() < 1e-3  # one exponent
    assert (torch.log(mean(gamma)).abs() <= 0.4 + 1e-4).all()
    torch.testing.assert_close(mean(look(contrast=0.5)), mean(image))
    spread = look(contrast=0.5).flatten(1).std(dim=1) / image.flatten(1).std(dim=1)
    assert ((spread - 1).abs() < 0.501).all()
    assert ((spread - 1).abs() > 0.01).any()
    offset = look(brightness=0.2) - image
    assert (offset.flatten(1).std(dim=1) < 1e-6).all()
    assert (mean(offset).abs() <= 0.2).all()
    noise = look(noise=0.05) - image
    assert noise.abs().mean() > 0.001
    assert (noise.flatten(1).std(dim=1) <= 0.051).all()
    assert (noise[0] / noise[0].std() - noise[1] / noise[1].std()).abs().mean() > 0.5
    blurred = look(blur=1.0)
    rough = [(x.diff(dim=2) ** 2).mean() for x in (blurred, image)]
    assert 0 < rough[0] < rough[1]
    parts = {"gamma", "contrast", "brightness", "noise", "blur"}
    for name in parts:  # and none of them moves anything
        change: dict[str, Any] = {name: 0.5}
        there = replace(OFF, **change).draw(1, shape, seeded()).positions
        assert torch.equal(there, OFF.draw(1, shape, seeded()).positions)


@shapes
def test_rotations_are_rigid_in_mm(shape: tuple[int, ...]) -> None:
    d = len(shape)
    spacing = (0.7, 1.1, 3.0)[:d]
    turning = replace(OFF, rotation_degrees=30.0)
    positions = turning.draw(4, shape, seeded(7), spacing).positions
    middle = (torch.tensor(shape) - 1) / 2
    mm = torch.tensor(spacing)
    start = ((identity_grid(shape)[0].reshape(d, -1) - middle[:, None]) * mm[:, None]).norm(dim=0)
    for item in positions:
        moved = (item.reshape(d, -1) - middle[:, None]) * mm[:, None]
        torch.testing.assert_close(moved.norm(dim=0), start, rtol=1e-4, atol=1e-3)
        assert (
            moved - (identity_grid(shape)[0].reshape(d, -1) - middle[:, None]) * mm[:, None]
        ).norm() > 1
    cubes = turning.draw(4, shape, seeded(7)).positions
    assert torch.equal(cubes, turning.draw(4, shape, seeded(7), (2.0,) * d).positions)
    assert not torch.allclose(cubes, positions, atol=0.1)


@shapes
def test_bounds_of_the_affine_part(shape: tuple[int, ...]) -> None:
    d = len(shape)
    grid = identity_grid(shape)
    shifts = replace(OFF, shift_voxels=3.0).draw(30, shape, seeded()).positions - grid
    assert (shifts.flatten(2).std(dim=2) < 1e-4).all()
    by_item = shifts.flatten(2).mean(dim=2)
    assert (by_item.abs() <= 3.0).all()
    assert by_item.abs().max() > 2.0
    assert by_item.min() < -1 < 1 < by_item.max()
    scaled = replace(OFF, scale=0.2).draw(30, shape, seeded()).positions
    for axis in range(d):
        first = scaled[:, axis].select(axis + 1, 0).flatten(1).mean(dim=1)
        last = scaled[:, axis].select(axis + 1, shape[axis] - 1).flatten(1).mean(dim=1)
        factor = (last - first) / (shape[axis] - 1)
        assert ((factor - 1).abs() <= 0.2001).all()
        assert (factor - 1).abs().max() > 0.1
        torch.testing.assert_close((first + last) / 2, torch.full((30,), (shape[axis] - 1) / 2))


@pytest.mark.parametrize("shape", [(64, 80), (40, 56, 40)], ids=str)
def test_the_deformation_has_its_deviation_and_is_smooth(shape: tuple[int, ...]) -> None:
    steps = replace(OFF, deformation_voxels=2.0).draw(6, shape, seeded()).positions
    steps = steps - identity_grid(shape)
    assert float(steps.std()) == pytest.approx(2.0, rel=0.15)
    rough = [float(steps.diff(dim=n + 2).abs().mean()) for n in range(len(shape))]
    assert max(rough) < 0.25  # voxels a voxel
    channels = steps.flatten(2)
    assert abs(float(torch.corrcoef(channels[0])[0, 1])) < 0.5  # the components go their own ways


def test_half_of_the_scans_are_mirrored() -> None:
    view = replace(OFF, flip_axis=0).draw(200, (3, 2), seeded())
    assert 70 < int(view.flipped.sum()) < 130
    assert not OFF.draw(50, (3, 2), seeded()).flipped.any()


def test_single_slices_and_small_grids() -> None:
    for shape in ((9, 1), (8, 9, 1), (2, 2)):
        view = replace(STRONG, shift_voxels=0.1).draw(2, shape, seeded())
        image = torch.rand(2, 1, *shape)
        assert torch.isfinite(view.image(image)).all()
        assert view.labels(torch.ones(2, *shape, dtype=torch.int16)).shape == (2, *shape)


@shapes
def test_gradient_reaches_the_maps(shape: tuple[int, ...]) -> None:
    maps = one_hot(classes(shape), 4).requires_grad_()
    STRONG.draw(2, shape, seeded()).probabilities(maps)[:, 2].sum().backward()
    assert maps.grad is not None
    assert (maps.grad != 0).any()


def test_moving_to_a_device_keeps_all() -> None:
    view = STRONG.draw(2, (5, 6), seeded())
    there = view.to(torch.device("cpu"))
    image = picture((5, 6))
    assert torch.equal(there.image(image), view.image(image))
    assert there.flip_pairs == view.flip_pairs
    meta = view.to(torch.device("meta"))
    assert {t.device.type for t in (meta.positions, meta.flipped, meta.intensity)} == {"meta"}


def test_the_first_grid_is_where_values_come_from() -> None:
    """The documented meaning of `positions`: each voxel is taken from there."""
    view = STRONG.draw(2, (11, 9), seeded())
    image = picture((11, 9))
    torch.testing.assert_close(
        replace(view, intensity=torch.tensor([[1.0, 1, 0, 0, 0]] * 2)).image(image),
        sample(image, view.positions), rtol=0, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [{"rotation_degrees": -1.0}, {"noise": -0.1}, {"deformation_voxels": math.nan},
     {"shift_voxels": math.inf}, {"scale": 1.0}, {"blur": 1.5}, {"deformation_spacing": 0},
     {"flip_axis": -2}, {"flip_pairs": ((1, 2),)}, {"flip_axis": 0, "flip_pairs": ((1, 2), (2, 3))},
     {"flip_axis": 0, "flip_pairs": ((0, 1),)}],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    name = list(wrong)[-1]
    with pytest.raises(ValueError, match=name):
        Augmentation(**wrong)
    with pytest.raises(ValidationError, match=name):  # as a recipe reads them
        TypeAdapter(Augmentation).validate_python(wrong)


def test_no_axis_to_flip() -> None:
    with pytest.raises(BadInput, match="flip_axis is 2; scans have 2 axes"):
        replace(OFF, flip_axis=2).draw(1, (4, 5), seeded())
