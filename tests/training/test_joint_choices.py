"""What our recipe adds to the paper: masked padding, sharpened maps, atlases, carried scans."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import SPACINGS, make_networks, make_scans, stack, touched

from deepatlas.data.augment import Augmentation
from deepatlas.data.batches import Batch, Batches, one_hot
from deepatlas.data.prepare import Preparation, inside
from deepatlas.data.randomness import uniform
from deepatlas.networks.registration.base import Deformation
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.grid import sample
from deepatlas.spatial.transform import Affine
from deepatlas.spatial.warp import warp
from deepatlas.training.tasks.base import Context, Terms
from deepatlas.training.tasks.joint import Joint
from deepatlas.training.tasks.registration import Registration, add_alignment


def test_inside_is_the_field_of_view() -> None:
    grid = Geometry.axis_aligned((8, 7, 6), (1.0, 2.0, 1.5))
    native = Geometry.axis_aligned((4, 5, 6), (1.0, 2.0, 1.5), (0.0, 0.0, 0.0))
    covered = inside(Preparation(native, Affine(torch.eye(4))), grid)
    assert covered.shape == (1, 8, 7, 6)
    expected = torch.zeros(8, 7, 6)
    expected[2:6, 1:6, :] = 1
    assert torch.equal(covered[0], expected)


@pytest.mark.parametrize("ndim", [2, 3])
def test_padding_is_not_compared(ndim: int) -> None:
    scans = make_scans(ndim, 2, labelled=0)
    moving, fixed = (stack([scan]) for scan in scans)
    covered = torch.ones_like(fixed.image)
    covered[..., :3] = 0
    moving, fixed = replace(moving, inside=torch.ones_like(covered)), replace(fixed, inside=covered)
    spoilt = fixed.image.clone()
    spoilt[..., :3] = 0.9
    still = Deformation(torch.zeros(1, ndim, *fixed.image.shape[2:]))
    values = []
    for image in (fixed.image, spoilt):
        terms = Terms()
        batch = Batch({"moving": moving, "fixed": replace(fixed, image=image)}, {})
        add_alignment(terms, still, Registration(similarity="mse"), SPACINGS[ndim], batch)
        values.append(terms.values["similarity"])
    assert torch.equal(values[0], values[1])


def test_a_batch_knows_its_padding_when_it_knows_the_grid() -> None:
    scans = make_scans(3, 4, labelled=1)
    grid = Geometry.axis_aligned(tuple(scans[0].image.shape[1:]), SPACINGS[3])
    task = Joint().build(make_networks(3), Context(SPACINGS[3], 10, (0, "a"), 1, 3))
    drawn = Batches(scans, grid).draw(task.request(0), 0)
    assert drawn.scans["fixed"].inside is not None
    assert Batches(scans).draw(task.request(0), 0).scans["fixed"].inside is None


def test_sharpening_takes_the_thin_background_away() -> None:
    scans = make_scans(3, 2, labelled=0)
    networks, moving, fixed = make_networks(3), stack(scans[:1]), stack(scans[1:])
    context = Context(SPACINGS[3], 10, (0, "a"), 0, 2)
    maps = {
        power: Joint(sharpen=power).build(networks, context)._maps(moving, fixed)[0]
        for power in (1.0, 4.0)
    }
    raised = maps[1.0] ** 4
    torch.testing.assert_close(maps[4.0], raised / raised.sum(dim=1, keepdim=True))
    softmax = networks["segmentation"](moving.image).softmax(dim=1)
    torch.testing.assert_close(maps[1.0], softmax)
    assert torch.equal(maps[4.0].argmax(dim=1), maps[1.0].argmax(dim=1))


def test_no_more_atlases_than_labelled_scans() -> None:
    scans = make_scans(3, 5, labelled=2)
    context = Context(SPACINGS[3], 10, (0, "a"), 2, 3)
    settings = {"registration_steps": 0, "labelled_pairs": 0.0, "moving_labelled": 1.0}
    task = Joint(atlases=4, batch=3, **settings).build(make_networks(3), context)
    assert task.request(0)["moving"].count == 6
    terms = task(Batches(scans).draw(task.request(0), 0), 0)
    assert torch.isfinite(terms.total)


@pytest.mark.parametrize("carried", [0.0, 0.5, 1.0])
def test_labelled_scans_are_carried_into_the_anatomy_of_unlabelled_ones(
    carried: float, ndim: int
) -> None:
    """Image and labels by the same displacement, as often as asked, the others as they are."""
    scans = make_scans(ndim, 6, labelled=3)
    context = Context(SPACINGS[ndim], 10, (0, "a"), 3, 3)
    networks = make_networks(ndim)
    task = Joint(
        registration_steps=0, segmentation_anatomy_weight=0.0, carried=carried, augment=None
    ).build(networks, context)
    moved = 0
    for step in range(40):
        drawn = Batches(scans).draw(task.request(step), 0, step)
        assert set(drawn.scans) == ({"scan", "anatomy"} if carried else {"scan"})
        loss = task(drawn, step).values["supervised"]
        scan = drawn.scans["scan"]
        image, labels = scan.image.clone(), scan.labels.clone()
        for i, other in enumerate(drawn.scans["anatomy"].image if carried else ()):
            if uniform(*context.key, step, "carried", i) < carried:
                field = networks["registration"](image[i : i + 1], other[None]).displacement
                near = warp(labels[None, i : i + 1].float(), field, mode="nearest")
                image[i : i + 1], labels[i] = warp(image[i : i + 1], field), near[0, 0].short()
                moved += 1
        probabilities = networks["segmentation"](image).softmax(dim=1)
        maps = one_hot(labels, scan.classes)
        expected = task.config.overlap(probabilities, maps, present=scan.present)
        torch.testing.assert_close(loss, expected.detach(), atol=1e-4, rtol=1e-3)
    assert moved == pytest.approx(80 * carried, abs=15 if carried == 0.5 else 0)


def test_a_carried_scan_is_augmented_by_the_same_sampling(ndim: int) -> None:
    """Augmentation after carrying, at composed positions: image once, labels by nearest voxel."""
    scans = make_scans(ndim, 6, labelled=3)
    context = Context(SPACINGS[ndim], 10, (0, "a"), 3, 3)
    networks = make_networks(ndim)
    augment = Augmentation(deformation_voxels=0.5, flip_axis=0, flip_pairs=((1, 2),))
    task = Joint(
        registration_steps=0, segmentation_anatomy_weight=0.0, carried=1.0, augment=augment
    ).build(networks, context)
    for step in range(6):
        drawn = Batches(scans).draw(task.request(step), 0, step)
        scan, view = drawn.scans["scan"], drawn.views["scan"]
        field = networks["registration"](scan.image, drawn.scans["anatomy"].image).displacement
        there = view.positions + sample(field, view.positions, outside="border")
        image = view.look(sample(scan.image, there))
        labels = sample(scan.labels[:, None].float(), there, mode="nearest")[:, 0].long()
        exchanged = torch.tensor([0, 2, 1])[labels]
        mirrored = view.flipped.reshape(-1, *[1] * ndim)
        maps = one_hot(torch.where(mirrored, exchanged, labels), 3)
        probabilities = networks["segmentation"](image).softmax(dim=1)
        expected = task.config.overlap(probabilities, maps, present=scan.present)
        found = task(drawn, step).values["supervised"]
        torch.testing.assert_close(found, expected.detach())


def test_carried_scans_teach_the_segmentation_network_only() -> None:
    scans = make_scans(3, 6, labelled=3)
    networks = make_networks(3)
    context = Context(SPACINGS[3], 10, (0, "a"), 3, 3)
    task = Joint(registration_steps=0, segmentation_anatomy_weight=0.0, carried=1.0).build(
        networks, context
    )
    task(Batches(scans).draw(task.request(0), 0), 0).total.backward()
    assert touched(networks["segmentation"])
    assert not touched(networks["registration"])


def test_without_unlabelled_scans_nothing_is_carried() -> None:
    context = Context(SPACINGS[3], 10, (0, "a"), 3, 0)
    task = Joint(registration_steps=0, carried=1.0).build(make_networks(3), context)
    assert set(task.request(0)) == {"scan"}
