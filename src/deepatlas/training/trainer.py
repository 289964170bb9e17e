"""The loop: steps, validation, checkpoints, resuming. It knows no network and no loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.data.batches import Batch, Batches
from deepatlas.errors import DeepAtlasError
from deepatlas.training.checkpoint import CheckpointStore, pack, unpack
from deepatlas.training.feed import ahead
from deepatlas.training.log import Log
from deepatlas.training.recipe import Recipe, Stage
from deepatlas.training.stage_run import StageRun
from deepatlas.training.tasks.base import Context
from deepatlas.training.validation import Validation

MAX_BAD_STEPS = 20  # of one network, in a row, with a non-finite loss before giving up
LOG_LINES = 200  # a stage leaves about so many training lines


class Stopped(DeepAtlasError):  # noqa: N818 - the process was asked to, nothing is wrong
    """The process was asked to stop; a checkpoint has been written.

    Attributes
    ----------
    exit_code : of a process that the signal ended (143 for SIGTERM, 130 for Ctrl-C).
    """

    def __init__(self, message: str, *, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal


@dataclass
class State:
    """Where a run is; with the tensors of the checkpoint, all that resuming needs.

    Attributes
    ----------
    stage, stage_step : the stage being trained, and how many of its steps are done.
    step : steps of the whole run that are done.
    lengths : steps of each stage, of the whole run together.
    best : by network, its best validation score in the last stage that trained it.
    group_steps, group_seconds : optimiser steps and seconds by network.
    """

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    lengths: list[int] = field(default_factory=list)
    finished: bool = False
    seconds: float = 0.0
    best: dict[str, float] = field(default_factory=dict)
    group_steps: dict[str, int] = field(default_factory=dict)
    group_seconds: dict[str, float] = field(default_factory=dict)


class Trainer:
    """Runs the stages of a recipe over networks and batches.

    Parameters
    ----------
    networks : by name; trained in place.
    fresh : gives new weights for the network of that name, for stages that start with such.
    on_state : told the state before the first step and after each checkpoint.
    on_step : told each log line after its step, for a progress bar.
    should_stop : asked after each step; the number of a signal saves a checkpoint and raises
        Stopped, 0 goes on.
    """

    def __init__(
        self,
        recipe: Recipe,
        networks: nn.ModuleDict,
        batches: Batches,
        validation: Validation,
        *,
        spacing_mm: tuple[float, ...],
        device: torch.device,
        store: CheckpointStore,
        log: Log,
        fresh: Callable[[str], Mapping[str, Tensor]],
        on_state: Callable[[State], None] = lambda state: None,
        on_step: Callable[[Mapping[str, Any]], None] = lambda line: None,
        should_stop: Callable[[], int] = lambda: 0,
    ) -> None:
        self.recipe = recipe
        self.networks = networks
        self.batches = batches
        self.validation = validation
        self.spacing_mm = spacing_mm
        self.device = device
        self.store = store
        self.log = log
        self.fresh = fresh
        self.on_state = on_state
        self.on_step = on_step
        self.should_stop = should_stop
        self.state = State()
        self.best: dict[str, dict[str, Tensor]] = {}
        self.restored: dict[str, Tensor] = {}
        self.saved = 0.0

    def restore(self) -> bool:
        """Continue from the newest checkpoint; False where there is none."""
        loaded = self.store.load()
        if loaded is None:
            self.log.clear()
            return False
        self.restored, facts = loaded
        self.state = State(**facts)
        for name, network in self.networks.items():
            network.load_state_dict(unpack(name, self.restored))
            best = unpack(f"best.{name}", self.restored)
            if best:
                self.best[name] = best
        self.log.cut(self.state.step)
        text = f"resumed at step {self.state.step}"
        self.log.write(event="note", step=self.state.step, text=text)
        return True

    def run(self) -> None:
        """Train to the end of the last stage; a finished run with more steps goes on in it."""
        self.state.lengths = self._lengths()
        self.state.finished = False
        self.on_state(self.state)
        self.saved = time.monotonic()
        with torch.random.fork_rng(self._gpus()):  # each step seeds anew: see StageRun
            while True:
                index = self.state.stage
                length = self.state.lengths[index]
                run = self._begin(self.recipe.stages[index], length)
                self._train(run, length)
                run.averages.settle()
                if index + 1 == len(self.recipe.stages):
                    break
                self.state.stage, self.state.stage_step = index + 1, 0
        self.state.finished = True
        self._save(run)

    def _lengths(self) -> list[int]:
        """Steps of each stage; what was added since the run was begun goes to the last one."""
        begun = self.state.lengths
        if not begun:
            return self.recipe.stage_steps()
        return [*begun[:-1], begun[-1] + self.recipe.training.steps - sum(begun)]

    def _gpus(self) -> list[int]:
        if self.device.type != "cuda":
            return []
        return [torch.cuda.current_device() if self.device.index is None else self.device.index]

    def chosen(self) -> dict[str, dict[str, Tensor]]:
        """Chosen weights by network: the best on validation, or the last where there was none."""
        last = {name: dict(network.state_dict()) for name, network in self.networks.items()}
        return {**last, **self.best}

    def _begin(self, stage: Stage, steps: int) -> StageRun:
        """A stage at its start, or where the checkpoint left it."""
        restored, self.restored = self.restored, {}
        if self.state.stage_step == 0:
            restored = {}
            if stage.start == "best":
                for name, weights in self.best.items():
                    self.networks[name].load_state_dict(weights)
            for name in stage.fresh:
                self.networks[name].load_state_dict(self.fresh(name))
            self.log.write(event="stage", stage=stage.name, step=self.state.step)
        pools = self.batches.pools
        context = Context(
            spacing_mm=self.spacing_mm,
            steps=steps,
            key=(self.recipe.seed, stage.name),
            labelled=len(pools["yes"]),
            unlabelled=len(pools["no"]),
        )
        run = StageRun(
            stage,
            self.networks,
            context,
            self.device,
            self.recipe.training.precision,
            step=self.state.stage_step,
            restored=restored,
        )
        if self.state.stage_step == 0:
            for name in run.names:
                self.best.pop(name, None)
                self.state.best.pop(name, None)
        return run

    def _train(self, run: StageRun, steps: int) -> None:
        def draw(step: int) -> Batch:
            key = (self.recipe.seed, run.stage.name, step)
            return self.batches.draw(run.task.request(step), *key).to(self.device)

        marks = _marks(steps, self.recipe.training.validations)
        every = {name: max(1, run.total[name] // LOG_LINES) for name in run.names}
        bad: dict[str, int] = {}
        feed = nullcontext(draw) if self.device.type == "cpu" else ahead(draw, steps)
        with feed as get:
            while self.state.stage_step < steps:
                started = time.monotonic()
                line = run.step(self.state.stage_step, get(self.state.stage_step))
                self._count(line, time.monotonic() - started)
                _check_finite(run, line, bad)
                turn = run.done[line["group"]] - 1  # each by its own turns: none is left out
                if turn % every[line["group"]] == 0 or not line["finite"]:
                    self.log.write(
                        event="train", stage=run.stage.name, step=self.state.step, **line,
                        seconds=round(self.state.seconds, 2),
                    )  # fmt: skip
                if self.state.stage_step in marks:
                    self._validate(run)
                self.on_step({**line, "stage": run.stage.name, "step": self.state.step})
                self._save_if_due(run)

    def _save_if_due(self, run: StageRun) -> None:
        """A checkpoint by the clock, or because the process was told to end: then Stopped."""
        stop = self.should_stop()
        minutes = (time.monotonic() - self.saved) / 60
        if stop or minutes >= self.recipe.training.checkpoint_minutes:
            self._save(run)
        if stop:
            text = f"stopped at step {self.state.step}; the same command resumes there"
            raise Stopped(text, signal=stop)

    def _count(self, line: Mapping[str, Any], seconds: float) -> None:
        state, name = self.state, line["group"]
        state.stage_step += 1
        state.step += 1
        state.seconds += seconds
        state.group_steps[name] = state.group_steps.get(name, 0) + 1
        state.group_seconds[name] = state.group_seconds.get(name, 0.0) + seconds

    def _validate(self, run: StageRun) -> None:
        """Score the trained networks and keep each one's best weights."""
        for network in self.networks.values():
            network.eval()
        half = self.recipe.training.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            scores = self.validation.score(run.averages.networks, run.names)
        if not scores:
            return
        self.log.write(
            event="validation",
            stage=run.stage.name,
            step=self.state.step,
            group_steps=dict(self.state.group_steps),
            scores=scores,
        )
        for name in run.names:
            score = scores.get(f"{name}.dice")
            if score is not None and score > self.state.best.get(name, -1.0):
                self.state.best[name] = score
                weights = run.averages.networks[name].state_dict()
                self.best[name] = {key: value.detach().clone() for key, value in weights.items()}

    def _save(self, run: StageRun) -> None:
        tensors = run.tensors()
        for name, network in self.networks.items():
            tensors |= pack(name, network)
            tensors |= {f"best.{name}/{n}": t for n, t in self.best.get(name, {}).items()}
        self.store.save(tensors, asdict(self.state))
        self.saved = time.monotonic()
        self.on_state(self.state)


def _marks(steps: int, validations: int) -> set[int]:
    """After which steps of a stage the networks are scored; its end is one of them."""
    return {round(steps * (i + 1) / validations) for i in range(validations)}


def _check_finite(run: StageRun, line: Mapping[str, Any], bad: dict[str, int]) -> None:
    """Count bad steps in a row, each network's own in `bad`; too many are an error."""
    name = line["group"]
    bad[name] = 0 if line["finite"] else bad.get(name, 0) + 1
    if bad[name] >= MAX_BAD_STEPS:
        raise DeepAtlasError(
            f"stage {run.stage.name}: the loss of the {name} network was not finite for "
            f"{bad[name]} of its steps in a row; "
            f"lower stages.{run.stage.name}.optimisers.{name}.rate"
        )
