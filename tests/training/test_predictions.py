"""A frozen network is asked once about a scan, and what it said is kept without loss."""

from __future__ import annotations

import pytest
import torch
from small import make_networks, make_scans
from torch import Tensor, nn

from deepatlas.data.batches import Batches
from deepatlas.data.prepare import PreparedScan
from deepatlas.training.tasks import predictions
from deepatlas.training.tasks.base import Context
from deepatlas.training.tasks.joint import Joint, JointTask
from deepatlas.training.tasks.predictions import Predictions

SPACING = (1.0, 1.0, 1.0)


class Asked(nn.Module):
    """Counts the scans that a network is asked about."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.count = 0

    def forward(self, image: Tensor) -> Tensor:
        self.count += len(image)
        logits: Tensor = self.network(image)
        return logits


def asked(ndim: int) -> Asked:
    return Asked(make_networks(ndim)["segmentation"].eval())


@pytest.mark.parametrize("half", [False, True])
def test_once_and_the_same(scans: list[PreparedScan], ndim: int, half: bool) -> None:
    network = asked(ndim)
    predicted = Predictions(network, frozen=True)
    images, ids = torch.stack([s.image for s in scans]), [s.id for s in scans]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        first = predicted(images, ids)
        others = predicted(images[[3, 1, 3]], [ids[3], ids[1], ids[3]])
        assert network.count == len(scans)
        with torch.no_grad():
            alone = torch.cat([network(image[None]) for image in images])
    assert torch.equal(first, alone)
    assert torch.equal(others, alone[[3, 1, 3]])
    assert first.dtype == torch.float32
    assert not first.requires_grad


def test_a_network_that_learns_is_asked_every_time(scans: list[PreparedScan], ndim: int) -> None:
    network = asked(ndim)
    predicted = Predictions(network, frozen=False)
    images, ids = torch.stack([s.image for s in scans]), [s.id for s in scans]
    before = predicted(images, ids)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    assert not torch.equal(predicted(images, ids), before)
    assert network.count == 2 * len(scans)


def test_no_more_is_kept_than_there_is_room(
    scans: list[PreparedScan], ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = asked(ndim)
    images, ids = torch.stack([s.image for s in scans]), [s.id for s in scans]
    with torch.no_grad():
        size = network(images[:1]).numel() * 4
    monkeypatch.setattr(predictions, "KEPT_BYTES", 2 * size + 1)
    predicted, network.count = Predictions(network, frozen=True), 0
    first = predicted(images, ids)
    assert torch.equal(predicted(images, ids), first)
    assert network.count == 2 * len(scans) - 2


@pytest.mark.parametrize(("steps", "frozen"), [(0, True), (1, False)])
def test_frozen_is_what_has_no_steps(steps: int, frozen: bool) -> None:
    networks, scans = make_networks(3), make_scans(3, 4, labelled=1)
    networks["segmentation"] = Asked(networks["segmentation"])
    config = Joint(registration_steps=3, segmentation_steps=steps, similarity="mse")
    task = config.build(networks, Context(SPACING, 10, (0, "a"), 1, 3))
    assert isinstance(task, JointTask)
    missing = 0
    for step in range(3):
        drawn = Batches(scans).draw(task.request(step), 0, step)
        missing += sum(int((~group.labelled).sum()) for group in drawn.scans.values())
        terms = task(drawn, step)
        assert terms.total.requires_grad
    count = networks["segmentation"].count
    assert count <= 3 < missing if frozen else count == missing
