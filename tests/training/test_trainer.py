"""The loop, over networks and scans in memory: stages, choice of weights, stopping, resuming."""

from __future__ import annotations

import copy
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small import (
    REGISTRATION,
    SEGMENTATION,
    SPACINGS,
    make_networks,
    make_scans,
    same,
    values,
)
from torch import Tensor, nn

from deepatlas.data.batches import Batches
from deepatlas.errors import DeepAtlasError
from deepatlas.training.checkpoint import CheckpointStore
from deepatlas.training.feed import ahead
from deepatlas.training.log import Log
from deepatlas.training.recipe import Recipe, parse_recipe
from deepatlas.training.trainer import MAX_BAD_STEPS, State, Stopped, Trainer
from deepatlas.training.validation import Validation

CPU = torch.device("cpu")
SUPERVISED = {"kind": "segmentation", "augment": None}
ALIGNED = {"kind": "registration", "similarity": "mse", "batch": 1}


def stage(name: str, task: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    return {"name": name, "task": task, **settings}


def make_recipe(*stages: dict[str, Any], steps: int = 8, **training: Any) -> Recipe:
    return parse_recipe(
        {
            "name": "test",
            "networks": {"segmentation": SEGMENTATION, "registration": REGISTRATION},
            "training": {"steps": steps, "checkpoint_minutes": 60, **training},
            "stages": list(stages) or [stage("first", SUPERVISED), stage("second", ALIGNED)],
        }
    )


class Scripted(Validation):
    """Gives scores from a list, one after another."""

    def __init__(self, **scores: list[float]) -> None:
        super().__init__([], CPU)
        self.scripts = {name: iter(list_) for name, list_ in scores.items()}
        self.seen: list[dict[str, dict[str, Tensor]]] = []

    def score(self, networks: nn.ModuleDict, names: Any) -> dict[str, float]:
        assert not any(network.training for network in networks.values())
        self.seen.append({name: values(networks[name]) for name in networks})
        return {f"{name}.dice": next(self.scripts[name]) for name in names}


def make_trainer(recipe: Recipe, folder: Path, **parts: Any) -> Trainer:
    parts.setdefault("validation", Validation([], CPU))
    parts.setdefault("fresh", lambda name: make_networks(2, seed=9)[name].state_dict())
    return Trainer(
        recipe,
        parts.pop("networks", None) or make_networks(2),
        Batches(make_scans(2, 5, labelled=3)),
        spacing_mm=SPACINGS[2],
        device=CPU,
        store=CheckpointStore(folder / "checkpoint"),
        log=Log(folder / "log.jsonl"),
        **parts,
    )


def events(trainer: Trainer, kind: str) -> list[dict[str, Any]]:
    return [event for event in trainer.log.read() if event["event"] == kind]


def test_stages_follow_one_another_by_their_shares(tmp_path: Path) -> None:
    states: list[State] = []
    steps: list[tuple[str, int]] = []
    trainer = make_trainer(
        make_recipe(stage("first", SUPERVISED, share=3), stage("second", ALIGNED)),
        tmp_path,
        on_state=lambda state: states.append(copy.deepcopy(state)),
        on_step=lambda line: steps.append((line["stage"], line["step"])),
    )
    trainer.run()
    assert steps == [("first", k) for k in range(1, 7)] + [("second", 7), ("second", 8)]
    assert [(e["stage"], e["step"]) for e in events(trainer, "stage")] == [
        ("first", 0),
        ("second", 6),
    ]
    lines = events(trainer, "train")
    assert [(line["stage"], line["step"]) for line in lines] == steps
    assert all({"group", "total", "terms", "rate", "seconds"} <= set(line) for line in lines)
    assert [line["group"] for line in lines] == ["segmentation"] * 6 + ["registration"] * 2
    first, *_, last = states
    assert (first.step, first.finished, first.lengths) == (0, False, [6, 2])
    assert (last.step, last.stage, last.stage_step, last.finished) == (8, 1, 2, True)
    assert last.group_steps == {"segmentation": 6, "registration": 2}
    assert last.group_seconds["segmentation"] > 0


def test_the_loss_falls(tmp_path: Path) -> None:
    fast = {"segmentation": {"rate": 0.01}}
    recipe = make_recipe(stage("first", SUPERVISED, optimisers=fast), steps=40)
    trainer = make_trainer(recipe, tmp_path)
    trainer.run()
    totals = [line["total"] for line in events(trainer, "train")]
    assert sum(totals[-5:]) < 0.7 * sum(totals[:5])


def test_the_best_on_validation_is_chosen(tmp_path: Path) -> None:
    validation = Scripted(segmentation=[0.3, 0.8, 0.5, 0.8])
    recipe = make_recipe(stage("first", SUPERVISED), validations=4)
    trainer = make_trainer(recipe, tmp_path, validation=validation)
    trainer.run()
    assert [event["step"] for event in events(trainer, "validation")] == [2, 4, 6, 8]
    assert trainer.state.best == {"segmentation": 0.8}
    chosen = trainer.chosen()
    assert same(chosen["segmentation"], validation.seen[1]["segmentation"])  # the first of equals
    assert not same(chosen["segmentation"], values(trainer.networks["segmentation"]))
    assert same(chosen["registration"], values(trainer.networks["registration"]))


def test_without_validation_scans_the_last_is_chosen(tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe(), tmp_path)
    trainer.run()
    assert trainer.state.best == {}
    assert not events(trainer, "validation")
    for name, weights in trainer.chosen().items():
        assert same(weights, values(trainer.networks[name]))


@pytest.mark.parametrize("start", ["best", "last"])
def test_a_stage_starts_from_the_best_or_the_last(start: str, tmp_path: Path) -> None:
    """Seen by a second stage that trains the other network, so this one stays as it starts."""
    validation = Scripted(segmentation=[0.8, 0.5], registration=[0.1, 0.2])
    recipe = make_recipe(
        stage("first", SUPERVISED), stage("second", ALIGNED, start=start), validations=2
    )
    trainer = make_trainer(recipe, tmp_path, validation=validation)
    trainer.run()
    best, last, later, _ = (seen["segmentation"] for seen in validation.seen)
    assert not same(best, last)
    assert same(later, best if start == "best" else last)
    assert same(trainer.chosen()["segmentation"], best)
    assert trainer.state.best == {"segmentation": 0.8, "registration": 0.2}


def test_a_network_trained_again_is_chosen_anew(tmp_path: Path) -> None:
    validation = Scripted(segmentation=[0.9, 0.9, 0.4, 0.3])
    recipe = make_recipe(stage("first", SUPERVISED), stage("second", SUPERVISED), validations=2)
    trainer = make_trainer(recipe, tmp_path, validation=validation)
    trainer.run()
    assert trainer.state.best == {"segmentation": 0.4}
    assert same(trainer.chosen()["segmentation"], validation.seen[2]["segmentation"])


def test_a_stage_may_start_with_fresh_networks(tmp_path: Path) -> None:
    validation = Scripted(segmentation=[0.8, 0.5], registration=[0.1, 0.2])
    recipe = make_recipe(
        stage("first", SUPERVISED), stage("second", ALIGNED, fresh=["segmentation"]), validations=2
    )
    trainer = make_trainer(recipe, tmp_path, validation=validation)
    trainer.run()
    fresh = make_networks(2, seed=9)["segmentation"]
    assert same(validation.seen[2]["segmentation"], values(fresh))


class Odd(nn.Module):
    """A segmentation network whose output is NaN at some of its calls."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 1)
        self.bad, self.calls = bad, 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(image) * (float("nan") if self.calls in self.bad else 1.0)


def odd_networks(bad: set[int]) -> nn.ModuleDict:
    networks = make_networks(2)
    networks["segmentation"] = Odd(bad)
    return networks


def test_a_step_without_a_finite_loss_changes_nothing(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    networks = odd_networks({3})
    trainer = make_trainer(
        make_recipe(stage("first", SUPERVISED)),
        tmp_path,
        networks=networks,
        on_step=lambda line: seen.append(values(networks["segmentation"])),
    )
    trainer.run()
    assert same(seen[1], seen[2])
    assert not same(seen[0], seen[1])
    assert not same(seen[2], seen[3])
    assert [line["finite"] for line in events(trainer, "train")] == [True] * 2 + [False] + [
        True
    ] * 5
    assert events(trainer, "train")[2]["total"] is None


def test_many_steps_without_a_finite_loss_are_an_error(tmp_path: Path) -> None:
    recipe = make_recipe(stage("first", SUPERVISED), steps=100)
    trainer = make_trainer(recipe, tmp_path, networks=odd_networks(set(range(5, 1000))))
    with pytest.raises(DeepAtlasError, match=r"lower stages\.first\.optimisers\.segmentation"):
        trainer.run()
    assert trainer.state.step == 4 + MAX_BAD_STEPS


def test_the_bad_steps_of_one_network_are_not_made_good_by_those_of_the_other(
    tmp_path: Path,
) -> None:
    task = {"kind": "joint", "registration_steps": 2, "augment": None, "batch": 1}
    networks = odd_networks(set())
    networks["segmentation"].register_forward_hook(
        lambda network, _, output: output * float("nan") if network.training else output
    )
    trainer = make_trainer(
        make_recipe(stage("joint", task), steps=100), tmp_path, networks=networks
    )
    with pytest.raises(DeepAtlasError, match="of the segmentation network was not finite for 20"):
        trainer.run()
    assert trainer.state.group_steps == {"registration": 40, "segmentation": MAX_BAD_STEPS}


def test_asked_to_stop_it_saves_and_says_with_which_code(tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe(), tmp_path)
    trainer.should_stop = lambda: signal.SIGTERM if trainer.state.step == 3 else 0
    with pytest.raises(Stopped, match="stopped at step 3; the same command resumes") as caught:
        trainer.run()
    assert caught.value.exit_code == 143
    found = trainer.store.load()
    assert found is not None
    assert found[1]["step"] == 3


def run_in_pieces(recipe: Recipe, folder: Path, stops: list[int], **parts: Any) -> Trainer:
    """Stopped after some steps, and resumed by another trainer each time."""
    for stop in stops:
        trainer = make_trainer(recipe, folder, **parts)
        trainer.restore()
        trainer.should_stop = lambda t=trainer, stop=stop: 15 if t.state.step == stop else 0
        with pytest.raises(Stopped):
            trainer.run()
    trainer = make_trainer(recipe, folder, **parts)
    assert trainer.restore()
    trainer.run()
    return trainer


@pytest.mark.parametrize("fed_ahead", [False, True])
def test_in_pieces_it_ends_as_in_one(
    fed_ahead: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joint = {"kind": "joint", "registration_steps": 2, "segmentation_steps": 1, "batch": 1}
    frozen = {**joint, "segmentation_steps": 0}
    recipe = make_recipe(
        stage("first", SUPERVISED),
        stage("second", ALIGNED),
        stage("third", joint, share=2, fresh=["segmentation"]),
        stage("fourth", frozen),
        steps=15,
        validations=3,
    )
    validation = Validation(make_scans(2, 3, labelled=3), CPU)
    whole = make_trainer(recipe, tmp_path / "whole", validation=validation)
    (tmp_path / "whole").mkdir()
    whole.run()
    (tmp_path / "pieces").mkdir()
    if fed_ahead:  # as on a GPU
        feed = "deepatlas.training.trainer.nullcontext"
        monkeypatch.setattr(feed, lambda draw: ahead(draw, 100))
    stops = [1, 3, 4, 6, 7, 11, 13]  # the ends of stages among them
    pieces = run_in_pieces(recipe, tmp_path / "pieces", stops, validation=validation)
    for name in whole.networks:
        assert same(values(whole.networks[name]), values(pieces.networks[name]))
        assert same(whole.chosen()[name], pieces.chosen()[name])
    assert whole.state.best == pieces.state.best
    assert whole.state.group_steps == pieces.state.group_steps

    def timeless(trainer: Trainer) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in event.items() if "seconds" not in key}
            for event in trainer.log.read()
            if event["event"] != "note"
        ]

    assert timeless(whole) == timeless(pieces)
    notes = [event["text"] for event in events(pieces, "note")]
    assert notes == [f"resumed at step {stop}" for stop in stops]


def test_what_was_logged_before_a_first_checkpoint_is_forgotten(tmp_path: Path) -> None:
    trainer = make_trainer(make_recipe(), tmp_path)
    trainer.log.write(event="train", step=1)
    assert not trainer.restore()
    assert trainer.log.read() == []


def test_more_steps_go_to_the_last_stage(tmp_path: Path) -> None:
    make = [stage("first", SUPERVISED), stage("second", ALIGNED)]
    make_trainer(make_recipe(*make, steps=4), tmp_path).run()
    longer = make_trainer(make_recipe(*make, steps=10), tmp_path)
    assert longer.restore()
    longer.run()
    assert longer.state.lengths == [2, 8]
    assert longer.state.group_steps == {"segmentation": 2, "registration": 8}
    assert (longer.state.step, longer.state.finished) == (10, True)


def test_a_run_stopped_in_an_early_stage_goes_on_with_more_steps(tmp_path: Path) -> None:
    make = [stage("first", SUPERVISED), stage("second", ALIGNED)]
    early = make_trainer(make_recipe(*make, steps=6), tmp_path)
    early.should_stop = lambda: 15 if early.state.step == 2 else 0
    with pytest.raises(Stopped):
        early.run()
    longer = make_trainer(make_recipe(*make, steps=9), tmp_path)
    longer.restore()
    longer.run()
    assert longer.state.lengths == [3, 6]
    assert longer.state.group_steps == {"segmentation": 3, "registration": 6}


def test_stages_without_a_step_are_passed_over(tmp_path: Path) -> None:
    trainer = make_trainer(
        make_recipe(stage("first", SUPERVISED, share=0.1), stage("second", ALIGNED), steps=2),
        tmp_path,
    )
    trainer.run()
    assert trainer.state.lengths == [0, 2]
    assert trainer.state.group_steps == {"registration": 2}


def test_checkpoints_come_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across stages: the clock is not set back where one begins."""
    now = 0.0

    def tick() -> float:
        return now

    saved: list[int] = []
    trainer = make_trainer(
        make_recipe(steps=12, checkpoint_minutes=5.0),
        tmp_path,
        on_state=lambda state: saved.append(state.step),
    )
    monkeypatch.setattr("deepatlas.training.trainer.time.monotonic", tick)

    def minute(line: Mapping[str, Any]) -> None:
        nonlocal now
        now += 60.0

    trainer.on_step = minute
    trainer.run()
    assert saved == [0, 5, 10, 12]


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    networks = make_networks(2)
    torch.manual_seed(1)
    make_trainer(make_recipe(), tmp_path, networks=networks).run()
    assert torch.equal(torch.rand(3), expected)


def test_no_network_is_left_out_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every fourth step alone would always be a registration step.
    monkeypatch.setattr("deepatlas.training.trainer.LOG_LINES", 2)
    joint = {"kind": "joint", "registration_steps": 3, "segmentation_steps": 1, "batch": 1}
    trainer = make_trainer(make_recipe(stage("joint", joint), steps=16), tmp_path)
    trainer.run()
    groups = [line["group"] for line in events(trainer, "train")]
    assert groups.count("segmentation") == 2
    assert groups.count("registration") == 2
