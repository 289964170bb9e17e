"""What our recipe adds to the paper: masked padding, sharpened maps, enough atlases."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import SPACINGS, make_networks, make_scans, stack

from deepatlas.data.batches import Batch, Batches
from deepatlas.data.prepare import Preparation, inside
from deepatlas.networks.registration.base import Deformation
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine
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
