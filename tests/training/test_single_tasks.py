"""Supervised segmentation, and registration without labels or with some."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import CLASSES, SPACINGS, batch, make_networks, make_scans, stack, touched
from torch import nn

from deepatlas.data.augment import Augmentation
from deepatlas.data.batches import Batches, one_hot
from deepatlas.data.prepare import PreparedScan
from deepatlas.losses.overlap import SoftDice
from deepatlas.losses.regularity import Bending
from deepatlas.losses.similarity import MSE
from deepatlas.spatial.warp import warp
from deepatlas.training.tasks import TASKS
from deepatlas.training.tasks.base import Context
from deepatlas.training.tasks.registration import Registration, RegistrationTask
from deepatlas.training.tasks.segmentation import Segmentation


def context(scans: list[PreparedScan]) -> Context:
    labelled = sum(scan.labels is not None for scan in scans)
    return Context(
        SPACINGS[scans[0].image.ndim - 1], 100, (0, "alone"), labelled, len(scans) - labelled
    )


def registration(
    scans: list[PreparedScan], networks: nn.ModuleDict, **settings: Any
) -> RegistrationTask:
    return Registration(**settings).build(networks, context(scans))


def test_segmentation_is_the_overlap_of_softmax_and_labels(
    ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    task = Segmentation(overlap="dice", augment=None).build(networks, context(scans))
    terms = task(batch(scan=scans[:2]), 0)
    images = torch.stack([scan.image for scan in scans[:2]])
    target = stack(scans[:2]).one_hot()
    expected = SoftDice()(networks["segmentation"](images).softmax(dim=1), target)
    torch.testing.assert_close(terms.total, expected)
    terms.total.backward()
    assert touched(networks["segmentation"])


def test_segmentation_draws_labelled_scans_and_varies_them(
    ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    task = Segmentation(batch=3).build(networks, context(scans))
    for step in range(20):
        drawn = Batches(scans).draw(task.request(step), 0, "alone", step)
        assert bool(drawn.scans["scan"].labelled.all())
    view = drawn.views["scan"]
    images, labels = drawn.scans["scan"].image, drawn.scans["scan"].labels
    probabilities = networks["segmentation"](view.image(images)).softmax(dim=1)
    expected = task.config.overlap(probabilities, one_hot(view.labels(labels), CLASSES))
    torch.testing.assert_close(task(drawn, 0).total, expected)
    assert not torch.equal(view.image(images), images)


def test_registration_without_labels(ndim: int, scans: list[PreparedScan]) -> None:
    """Even where both scans of a pair happen to be labelled."""
    networks = make_networks(ndim)
    task = registration(scans, networks, similarity="mse", regularity_weight=0.7)
    moving, fixed = scans[:2], scans[1:3]
    terms = task(batch(moving=moving, fixed=fixed), 0)
    images = [torch.stack([scan.image for scan in side]) for side in (moving, fixed)]
    displacement = networks["registration"](*images).displacement
    similarity = MSE()(warp(images[0], displacement, outside="border"), images[1])
    regularity = Bending()(displacement, SPACINGS[ndim])
    assert set(terms.values) == {"similarity", "regularity"}
    torch.testing.assert_close(terms.total, similarity + 0.7 * regularity)
    terms.total.backward()
    assert touched(networks["registration"])
    assert not touched(networks["segmentation"])


def test_two_manual_segmentations_add_the_anatomy_loss(
    ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    task = registration(scans, networks, labelled_pairs=1.0, anatomy_weight=2.0)
    drawn = Batches(scans).draw(task.request(0), 0, "alone", 0)
    moving, fixed = drawn.scans["moving"], drawn.scans["fixed"]
    assert bool(moving.labelled.all())
    assert bool(fixed.labelled.all())
    terms = task(drawn, 0)
    displacement = networks["registration"](moving.image, fixed.image).displacement
    anatomy = SoftDice()(warp(moving.one_hot(), displacement, outside="border"), fixed.one_hot())
    torch.testing.assert_close(terms.values["anatomy"], anatomy.detach())
    alone = terms.values["similarity"] + terms.values["regularity"]
    torch.testing.assert_close(terms.total.detach(), alone + 2.0 * anatomy.detach())


def test_labelled_pairs_come_with_their_probability() -> None:
    scans = make_scans(2, 4, labelled=4)
    task = registration(scans, make_networks(2), labelled_pairs=0.2, batch=1)
    asked = [task.request(step)["moving"].labelled == "yes" for step in range(3000)]
    assert sum(asked) / 3000 == pytest.approx(0.2, abs=0.025)
    batches = Batches(scans)
    for step in range(30):
        terms = task(batches.draw(task.request(step), 0, "alone", step), step)
        assert ("anatomy" in terms.values) == asked[step]


def test_one_labelled_scan_makes_no_labelled_pair() -> None:
    scans = make_scans(2, 4, labelled=1)
    task = registration(scans, make_networks(2), labelled_pairs=1.0)
    terms = task(Batches(scans).draw(task.request(0), 0, "alone", 0), 0)
    assert "anatomy" not in terms.values


@pytest.mark.parametrize("kind", sorted(TASKS))
def test_a_step_needs_an_item(kind: str) -> None:
    with pytest.raises(ValueError, match="batch must be at least 1"):
        TASKS[kind](batch=0)


def test_parts_that_are_made_are_taken_as_they_are() -> None:
    task = Registration(similarity=MSE(), regularity=Bending())
    assert (task.similarity, task.regularity) == (MSE(), Bending())
    assert Segmentation(augment=Augmentation(noise=0.0)).augment == Augmentation(noise=0.0)
