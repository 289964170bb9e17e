"""Running averages of weights: what they are, where they are used, and that they resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import REGISTRATION, SEGMENTATION, make_networks, make_scans, same, values
from test_trainer import ALIGNED, SUPERVISED, Scripted, make_trainer, stage
from torch import nn

from deepatlas.data.batches import Batches
from deepatlas.errors import BadInput
from deepatlas.training.average import Averages
from deepatlas.training.recipe import Recipe, parse_recipe
from deepatlas.training.tasks.base import Context
from deepatlas.training.tasks.joint import Joint
from deepatlas.training.trainer import Stopped

AVERAGED = {"segmentation": {"average": 0.9, "rate": 0.01}}
BOTH = {**AVERAGED, "registration": {"average": 0.9, "rate": 0.01}}


def make_recipe(*stages: dict[str, Any], **training: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "test",
            "networks": {"segmentation": SEGMENTATION, "registration": REGISTRATION},
            "training": {"steps": 8, "checkpoint_minutes": 60, **training},
            "stages": list(stages),
        }
    )


def scalar(value: float) -> nn.Module:
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, value)
    network.register_buffer("seen", torch.tensor(int(value)))
    return network


def test_an_average_follows_the_weights() -> None:
    """The first steps share alike; later ones keep what the decay says."""
    networks = nn.ModuleDict({"a": scalar(0.0), "b": scalar(0.0)})
    averages = Averages(networks, {"a": 0.5, "b": 0.0}, {})
    expected = 0.0
    for step in range(1, 30):
        nn.init.constant_(networks["a"].weight, float(step))
        networks["a"].seen.fill_(step)
        averages.update("a", step)
        averages.update("b", step)
        keep = min(0.5, step / (step + 9))
        expected = keep * expected + (1 - keep) * step
        assert float(averages.networks["a"].weight) == pytest.approx(expected, rel=1e-5)
        assert int(averages.networks["a"].seen) == step  # counters are not averaged
    assert averages.networks["b"] is networks["b"]
    assert not averages.networks["a"].weight.requires_grad
    averages.settle()
    assert networks["a"].weight.item() == pytest.approx(expected, rel=1e-5)
    assert networks["a"].weight.requires_grad


def test_the_average_is_validated_and_chosen(tmp_path: Path) -> None:
    validation = Scripted(segmentation=[0.3, 0.8, 0.5, 0.7])
    recipe = make_recipe(stage("first", SUPERVISED, optimisers=AVERAGED), validations=4)
    weights = []
    trainer = make_trainer(
        recipe,
        tmp_path,
        validation=validation,
        on_step=lambda line: weights.append(values(trainer.networks["segmentation"])),
    )
    trainer.run()
    assert same(trainer.chosen()["segmentation"], validation.seen[1]["segmentation"])
    for seen, step in zip(validation.seen, (2, 4, 6, 8), strict=True):
        assert not same(seen["segmentation"], weights[step - 1])


def test_without_validation_the_last_average_is_taken(tmp_path: Path) -> None:
    """It also starts the next stage."""
    recipe = make_recipe(
        stage("first", SUPERVISED, optimisers=AVERAGED), stage("second", ALIGNED), validations=2
    )
    weights = []
    trainer = make_trainer(
        recipe, tmp_path, on_step=lambda line: weights.append(values(trainer.networks))
    )
    trainer.run()
    raw, later, last = weights[3], weights[4], values(trainer.networks)
    segmentation = [name for name in raw if name.startswith("segmentation")]
    assert not all(torch.equal(raw[name], later[name]) for name in segmentation)
    assert all(torch.equal(later[name], last[name]) for name in segmentation)
    assert same(trainer.chosen()["segmentation"], values(trainer.networks["segmentation"]))


def test_stopped_and_resumed_it_is_the_same_average(tmp_path: Path) -> None:
    recipe = make_recipe(
        stage("joint", {"kind": "joint", "registration_steps": 1}, optimisers=BOTH),
        deterministic=True,
    )
    for folder in ("whole", "stop-1", "stop-4", "stop-7"):
        (tmp_path / folder).mkdir()
    whole = make_trainer(recipe, tmp_path / "whole", networks=make_networks(2))
    whole.run()
    for stop in (1, 4, 7):
        folder = tmp_path / f"stop-{stop}"
        asked = iter([0] * (stop - 1) + [15] + [0] * 20)
        with pytest.raises(Stopped):
            make_trainer(recipe, folder, should_stop=lambda asked=asked: next(asked)).run()
        resumed = make_trainer(recipe, folder, networks=make_networks(2, seed=3))
        assert resumed.restore()
        resumed.run()
        for name, chosen in whole.chosen().items():
            assert same(resumed.chosen()[name], chosen)


@pytest.mark.parametrize("teacher", ["segmentation", "registration"])
def test_averages_teach(teacher: str, ndim: int) -> None:
    """What the other network's step is taught with is the average, not the network."""
    scans = make_scans(ndim, 6, labelled=3)
    networks, constants = make_networks(ndim), make_networks(ndim)
    context = Context((1.0,) * ndim, 10, (0, "joint"), 3, 3, constants)
    settings = {"registration_steps": 1, "segmentation_steps": 1, "augment": None}
    task = Joint(**settings, moving_labelled=1.0, labelled_pairs=0.0).build(networks, context)
    step = 0 if teacher == "segmentation" else 1
    drawn = Batches(scans).draw(task.request(step), 0, "a", step)

    def anatomy() -> float:
        return float(task(drawn, step).values["anatomy"])

    before = anatomy()
    _disturb(networks[teacher])
    assert anatomy() == before
    _disturb(constants[teacher])
    assert anatomy() != before


def _disturb(network: nn.Module) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_that_cannot_be_copied_is_said() -> None:
    network = nn.utils.weight_norm(nn.Linear(2, 2))  # not a parametrisation: the copy fails
    network(torch.ones(1, 2))
    networks = nn.ModuleDict({"segmentation": network})
    assert Averages(networks, {"segmentation": 0.0}, {}).networks["segmentation"] is network
    with pytest.raises(BadInput, match=r"optimisers\.segmentation\.average: .*set it to 0"):
        Averages(networks, {"segmentation": 0.9}, {})
