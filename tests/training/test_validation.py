"""Scores on validation scans, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import make_networks, make_scans
from torch import Tensor, nn

from deepatlas.networks.registration.base import Deformation
from deepatlas.training.validation import Validation

CPU = torch.device("cpu")


class Known(nn.Module):
    """A segmentation network that gives known labels, image by image."""

    def __init__(self, labels: list[Tensor]) -> None:
        super().__init__()
        self.labels = iter(labels)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.one_hot(next(self.labels).long(), 3).movedim(-1, 0)[None].float()


class Shift(nn.Module):
    """A registration network that notes its pairs and moves by one voxel along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[float, float]] = []

    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        self.pairs.append((float(moving.mean()), float(fixed.mean())))
        displacement = torch.zeros(1, moving.ndim - 2, *moving.shape[2:])
        displacement[:, 0] = 1.0
        return Deformation(displacement)


def dice(a: Tensor, b: Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_segmentation_dice_is_the_mean_over_structures_and_scans(ndim: int) -> None:
    scans = make_scans(ndim, 3, labelled=3)
    truth = [scan.labels for scan in scans]
    guessed = [torch.roll(labels, 1, dims=0) for labels in truth]
    networks = nn.ModuleDict({"segmentation": Known(guessed)})
    score = Validation(scans, CPU).score(networks, ["segmentation"])
    expected = [
        (dice(g == 1, t == 1) + dice(g == 2, t == 2)) / 2
        for g, t in zip(guessed, truth, strict=True)
    ]
    assert 0.5 < sum(expected) / 3 < 0.99
    assert score == {"segmentation.dice": pytest.approx(sum(expected) / 3, rel=1e-5)}


def test_absent_and_unannotated_structures_are_left_out() -> None:
    first, second = make_scans(2, 2, labelled=2)
    only_box = replace(first, labels=torch.where(first.labels == 1, 1, 0).byte())
    partial = replace(second, present=torch.tensor([True, False]))
    networks = nn.ModuleDict({"segmentation": Known([only_box.labels, second.labels * 0 + 2])})
    score = Validation([only_box, partial], CPU).score(networks, ["segmentation"])
    assert score == {"segmentation.dice": pytest.approx(0.5)}  # 1 and 0, of the box alone


def test_a_structure_must_be_annotated_on_both_sides_of_a_pair() -> None:
    first, second = make_scans(2, 2, labelled=2)
    partial = replace(first, present=torch.tensor([True, False]))
    networks = make_networks(2)
    score = Validation([partial, second], CPU).score(networks, ["registration"])
    without = [
        replace(scan, labels=torch.where(scan.labels == 1, 1, 0).byte()) for scan in (first, second)
    ]
    expected = Validation(without, CPU).score(networks, ["registration"])
    assert score["registration.dice"] == pytest.approx(expected["registration.dice"])
    assert score != Validation([first, second], CPU).score(networks, ["registration"])


def test_registration_pairs_ascend_against_descend(ndim: int) -> None:
    scans = make_scans(ndim, 5, labelled=5)
    networks = nn.ModuleDict({"registration": Shift()})
    score = Validation(list(reversed(scans)), CPU).score(networks, ["registration"])
    means = [float(scan.image.mean()) for scan in scans]
    order = [(4, 0), (3, 1), (1, 3), (0, 4)]
    assert networks["registration"].pairs == [(means[m], means[f]) for m, f in order]
    expected = []
    for m, f in order:
        moved = torch.zeros_like(scans[m].labels)
        moved[:-1] = scans[m].labels[1:]
        expected += [dice(moved == k, scans[f].labels == k) for k in (1, 2)]
    assert score["registration.dice"] == pytest.approx(sum(expected) / 8, rel=1e-5)
    assert score["registration.folds_percent"] == 0.0


def test_without_scans_there_is_no_score() -> None:
    networks = make_networks(2)
    names = ["segmentation", "registration"]
    assert Validation([], CPU).score(networks, names) == {}
    one = Validation(make_scans(2, 1, labelled=1), CPU).score(networks, names)
    assert set(one) == {"segmentation.dice"}  # there is no pair


def test_a_frozen_network_is_not_scored() -> None:
    scans = make_scans(2, 3, labelled=3)
    score = Validation(scans, CPU).score(make_networks(2), ["registration"])
    assert set(score) == {"registration.dice", "registration.folds_percent"}
