"""Both kinds of step in all four label cases, and who gets gradient (paper, 2.1 and 2.2)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SPACINGS, batch, make_networks, same, stack, touched, values
from torch import Tensor, nn

from deepatlas.data.augment import Augmentation
from deepatlas.data.batches import Batch, Batches
from deepatlas.data.prepare import PreparedScan
from deepatlas.losses.overlap import SoftDice
from deepatlas.spatial.warp import warp
from deepatlas.training.recipe import Stage
from deepatlas.training.schedule import Optimiser
from deepatlas.training.stage_run import StageRun
from deepatlas.training.tasks.base import Context, Task
from deepatlas.training.tasks.joint import Joint

CASES = [(True, True), (True, False), (False, True), (False, False)]  # moving, fixed labelled
REGISTRATION_STEP, SEGMENTATION_STEP = 0, 1  # one of each in turn
PLAIN: dict[str, Any] = {
    "registration_steps": 1, "segmentation_steps": 1, "augment": None, "batch": 1,
}  # fmt: skip


def context(scans: list[PreparedScan], steps: int = 10) -> Context:
    labelled = sum(scan.labels is not None for scan in scans)
    spacing = SPACINGS[scans[0].image.ndim - 1]
    return Context(spacing, steps, (0, "joint"), labelled, len(scans) - labelled)


def make_task(scans: list[PreparedScan], networks: nn.ModuleDict, **settings: Any) -> Task:
    return Joint(**{**PLAIN, **settings}).build(networks, context(scans))


def choose(scans: list[PreparedScan], labelled: bool, skip: int = 0) -> PreparedScan:
    return [scan for scan in scans if (scan.labels is not None) == labelled][skip]


def pair(scans: list[PreparedScan], case: tuple[bool, bool]) -> Batch:
    moving = choose(scans, case[0])
    fixed = choose(scans, case[1], skip=int(case[0] == case[1]))
    return batch(scan=[choose(scans, True, 2)], moving=[moving], fixed=[fixed])


def map_of(scan: PreparedScan, network: nn.Module) -> Tensor:
    """The manual segmentation, or the network's."""
    if scan.labels is not None:
        return stack([scan]).one_hot()
    return network(scan.image[None]).softmax(dim=1)


@pytest.mark.parametrize("case", CASES)
def test_registration_step(case: tuple[bool, bool], ndim: int, scans: list[PreparedScan]) -> None:
    networks = make_networks(ndim)
    task = make_task(scans, networks)
    here = pair(scans, case)
    terms = task(here, REGISTRATION_STEP)
    assert set(terms.values) == {"similarity", "regularity", "anatomy"}

    moving, fixed = (choose(scans, labelled) for labelled in case)
    fixed = choose(scans, case[1], skip=int(case[0] == case[1]))
    displacement = networks["registration"](moving.image[None], fixed.image[None]).displacement
    assert displacement.abs().max() > 0.2
    first, second = (map_of(scan, networks["segmentation"]) for scan in (moving, fixed))
    expected = SoftDice()(warp(first, displacement, outside="border"), second)
    assert float(terms.values["anatomy"]) == pytest.approx(float(expected.detach()), rel=1e-5)

    terms.total.backward()  # the segmentation network could learn, and must not
    assert touched(networks["registration"])
    assert all(p.grad is None for p in networks["segmentation"].parameters())


@pytest.mark.parametrize("case", CASES)
def test_the_registration_network_learns_from_anatomy_alone(
    case: tuple[bool, bool], ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    task = make_task(scans, networks, regularity_weight=0.0)
    with_anatomy = gradient(task, networks, pair(scans, case))
    without = make_task(scans, networks, regularity_weight=0.0, anatomy_weight=0.0)
    assert not torch.allclose(with_anatomy, gradient(without, networks, pair(scans, case)))


def gradient(task: Task, networks: nn.ModuleDict, here: Batch) -> Tensor:
    networks.zero_grad()
    task(here, REGISTRATION_STEP).total.backward()
    return networks["registration"].flow.weight.grad.clone()


@pytest.mark.parametrize("case", [(True, False), (False, True)])
def test_segmentation_step_on_one_labelled_scan(
    case: tuple[bool, bool], ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    task = make_task(scans, networks, supervised_weight=0.0)
    terms = task(pair(scans, case), SEGMENTATION_STEP)
    assert set(terms.values) == {"supervised", "anatomy"}

    moving, fixed = (choose(scans, labelled) for labelled in case)
    displacement = networks["registration"](moving.image[None], fixed.image[None]).displacement
    first, second = (map_of(scan, networks["segmentation"]) for scan in (moving, fixed))
    expected = SoftDice()(warp(first, displacement.detach(), outside="border"), second)
    assert float(terms.values["anatomy"]) == pytest.approx(float(expected.detach()), rel=1e-5)

    terms.total.backward()  # the registration network could learn, and must not
    got = {n: p.grad.clone() for n, p in networks["segmentation"].named_parameters()}
    assert touched(networks["segmentation"])
    assert all(p.grad is None for p in networks["registration"].parameters())
    networks.zero_grad()
    (3.0 * expected).backward()  # only the predicted side of `expected` has a gradient
    for name, parameter in networks["segmentation"].named_parameters():
        torch.testing.assert_close(got[name], parameter.grad)


def test_two_labelled_scans_give_the_supervised_loss_alone(
    ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    task = make_task(scans, networks, labelled_pairs=1.0)
    assert set(task.request(SEGMENTATION_STEP)) == {"scan"}
    scan = choose(scans, True)
    terms = task(batch(scan=[scan]), SEGMENTATION_STEP)
    probabilities = networks["segmentation"](scan.image[None]).softmax(dim=1)
    expected = 3.0 * SoftDice()(probabilities, stack([scan]).one_hot())
    assert set(terms.values) == {"supervised"}
    torch.testing.assert_close(terms.total, expected)


def test_segmentation_steps_draw_the_cases_of_the_paper(
    ndim: int, scans: list[PreparedScan]
) -> None:
    """Two labelled with probability 0.1, else one, in either direction; never none."""
    task = make_task(scans, make_networks(ndim), batch=2)
    batches, cases = Batches(scans), Counter()
    for step in range(1, 4001, 2):
        drawn = batches.draw(task.request(step), 0, "joint", step).scans
        assert bool(drawn["scan"].labelled.all())
        if "fixed" in drawn:
            sides = [set(drawn[role].labelled.tolist()) for role in ("moving", "fixed")]
            assert sides in ([{True}, {False}], [{False}, {True}])
            cases["moving" if sides[0] == {True} else "fixed"] += 1
        else:
            cases["both"] += 1
    assert cases["both"] / 2000 == pytest.approx(0.1, abs=0.025)
    assert cases["moving"] / 2000 == pytest.approx(0.45, abs=0.04)
    assert cases["fixed"] / 2000 == pytest.approx(0.45, abs=0.04)


def test_registration_steps_draw_any_two_different_scans(
    ndim: int, scans: list[PreparedScan]
) -> None:
    task = make_task(scans, make_networks(ndim), batch=2)
    batches, cases = Batches(scans), Counter()
    for step in range(0, 400, 2):
        drawn = batches.draw(task.request(step), 0, "joint", step).scans
        moving, fixed = drawn["moving"], drawn["fixed"]
        assert all(a != b for a, b in zip(moving.ids, fixed.ids, strict=True))
        labelled = zip(moving.labelled.tolist(), fixed.labelled.tolist(), strict=True)
        cases.update(labelled)
    assert set(cases) == set(CASES)


def test_the_alternation() -> None:
    networks = make_networks(2)
    some = Context((1.0, 1.0), 100, (0, "joint"), 3, 3)
    twenty = Joint().build(networks, some)
    turns = [twenty.group(step) for step in range(42)]
    assert turns == (["registration"] * 20 + ["segmentation"]) * 2
    assert twenty.groups() == ("registration", "segmentation")
    frozen = Joint(registration_steps=0).build(networks, some)
    assert {frozen.group(step) for step in range(9)} == {"segmentation"} == set(frozen.groups())
    with pytest.raises(ValueError, match="at least one step"):
        Joint(registration_steps=0, segmentation_steps=0)


@pytest.mark.parametrize("step", [REGISTRATION_STEP, SEGMENTATION_STEP])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_optimiser_step_changes_the_network_whose_turn_it_is(
    precision: str, step: int, ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    stage = Stage("joint", {"kind": "joint", **PLAIN}, optimisers={"registration": Optimiser()})
    run = StageRun(stage, networks, context(scans), torch.device("cpu"), precision)
    learns, rests = ("registration", "segmentation") if step == 0 else (
        "segmentation", "registration")  # fmt: skip
    before = {name: values(networks[name]) for name in networks}
    line = run.step(step, pair(scans, (True, False)))
    assert (line["group"], line["finite"]) == (learns, True)
    assert not same(before[learns], values(networks[learns]))
    assert same(before[rests], values(networks[rests]))
    assert all(p.grad is None for p in networks[rests].parameters())
    assert not any(p.requires_grad for p in networks[rests].parameters())
    assert (networks[learns].training, networks[rests].training) == (True, False)
    assert run.done == {learns: 1, rests: 0}
    assert not run.optimisers[rests].state


def test_the_anatomy_weight_of_segmentation_steps_grows(
    ndim: int, scans: list[PreparedScan]
) -> None:
    networks = make_networks(ndim)
    settings = {**PLAIN, "registration_steps": 0, "supervised_weight": 0.0, "ramp": 0.4}
    task = Joint(**settings).build(networks, context(scans, steps=10))
    totals = []
    for step in range(10):
        terms = task(pair(scans, (True, False)), step)
        totals.append(float(terms.total.detach()) / float(terms.values["anatomy"]) / 3.0)
    assert totals == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])


def test_structures_that_were_not_annotated_do_not_count(
    ndim: int, scans: list[PreparedScan]
) -> None:
    """The same losses, whatever the label map says about a structure that was not annotated."""

    def without_second(scan: PreparedScan, labels: Tensor | None) -> PreparedScan:
        return replace(scan, labels=labels, present=torch.tensor([True, False]))

    networks = make_networks(ndim)
    task = make_task(scans, networks, supervised_weight=0.0)
    partial = choose(scans, True)
    assert partial.labels is not None
    emptied = torch.where(partial.labels == 2, 0, partial.labels)
    for step, other in ((REGISTRATION_STEP, 0), (REGISTRATION_STEP, 3), (SEGMENTATION_STEP, 3)):
        for side in ("moving", "fixed"):
            totals = []
            for labels in (partial.labels, emptied):
                known = without_second(partial, labels)
                roles = {"moving": [scans[other + 1]], "fixed": [scans[other + 1]], side: [known]}
                terms = task(batch(scan=[scans[2]], **roles), step)
                totals.append(float(terms.total.detach()))
            assert totals[0] == pytest.approx(totals[1], rel=1e-6)


def test_several_atlases_vote(ndim: int, scans: list[PreparedScan]) -> None:
    networks = make_networks(ndim)
    task = make_task(scans, networks, atlases=2, batch=2, moving_labelled=1.0, labelled_pairs=0.0)
    request = task.request(SEGMENTATION_STEP)
    drawn = Batches(scans).draw(request, 0, "joint", 1)
    assert (len(drawn.scans["moving"].ids), len(drawn.scans["fixed"].ids)) == (4, 2)
    fixed, atlases = scans[3:5], [scans[0], scans[1], scans[1], scans[2]]
    terms = task(batch(scan=scans[:2], moving=atlases, fixed=fixed), SEGMENTATION_STEP)
    expected = 0.0
    for index, scan in enumerate(fixed):
        carried = [
            warp(
                stack([atlas]).one_hot(),
                networks["registration"](atlas.image[None], scan.image[None]).displacement,
                outside="border",
            )
            for atlas in atlases[index::2]
        ]
        predicted = networks["segmentation"](scan.image[None]).softmax(dim=1)
        expected += float(SoftDice()(predicted, (carried[0] + carried[1]) / 2).detach()) / 2
    assert float(terms.values["anatomy"]) == pytest.approx(expected, rel=1e-5)


def test_an_augmented_target_moves_with_its_image(ndim: int, scans: list[PreparedScan]) -> None:
    networks = make_networks(ndim)
    task = make_task(
        scans, networks, moving_labelled=1.0, labelled_pairs=0.0, augment_target=Augmentation()
    )
    drawn = Batches(scans).draw(task.request(SEGMENTATION_STEP), 0, "joint", 1)
    moving, fixed, view = drawn.scans["moving"], drawn.scans["fixed"], drawn.views["fixed"]
    displacement = networks["registration"](moving.image, fixed.image).displacement
    carried = warp(moving.one_hot(), displacement, outside="border")
    predicted = networks["segmentation"](view.image(fixed.image)).softmax(dim=1)
    expected = SoftDice()(predicted, view.probabilities(carried))
    got = task(drawn, SEGMENTATION_STEP).values["anatomy"]
    torch.testing.assert_close(got, expected.detach())
    assert abs(float(got) - float(SoftDice()(predicted, carried).detach())) > 1e-3
