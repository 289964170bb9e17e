"""One stage under way: whose turn it is, its optimiser and rate, and one step of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.data.batches import Batch
from deepatlas.data.randomness import seed_of
from deepatlas.training.average import Averages
from deepatlas.training.checkpoint import pack_optimiser, restore_optimiser
from deepatlas.training.recipe import Stage
from deepatlas.training.schedule import Optimiser
from deepatlas.training.tasks.base import Context, Task


class StageRun:
    """The optimisers and counters of a stage; everything else is a function of its step.

    Parameters
    ----------
    restored : tensors of a checkpoint taken in this stage, or nothing.
    step : steps of the stage that are done.

    Attributes
    ----------
    averages : of the weights; `averages.networks` is what the stage has to show.
    """

    def __init__(
        self,
        stage: Stage,
        networks: nn.ModuleDict,
        context: Context,
        device: torch.device,
        precision: str,
        *,
        step: int = 0,
        restored: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.stage = stage
        self.networks = networks
        self.key = context.key
        self.device = device
        self.precision = precision
        decays = {name: settings.average for name, settings in stage.optimisers.items()}
        self.averages = Averages(networks, decays, restored or {})
        constants = replace(context, constants=self.averages.networks)
        self.task: Task = stage.task.build(networks, constants)
        self.names: Sequence[str] = self.task.groups()
        self.turns = [self.task.group(i) for i in range(context.steps)]
        self.done = {name: self.turns[:step].count(name) for name in self.names}
        self.total = {name: self.turns.count(name) for name in self.names}
        self.optimisers = {name: self._optimiser(name) for name in self.names}
        for name, optimiser in self.optimisers.items():
            restore_optimiser(f"optimiser.{name}", restored or {}, optimiser)

    def settings(self, name: str) -> Optimiser:
        """The optimiser settings of a network, defaults where the recipe has none."""
        return self.stage.optimisers.get(name, Optimiser())

    def _optimiser(self, name: str) -> torch.optim.Optimizer:
        settings = self.settings(name)
        return torch.optim.AdamW(
            self.networks[name].parameters(), lr=settings.rate, weight_decay=settings.weight_decay
        )

    def tensors(self) -> dict[str, Tensor]:
        """The optimisers' state and the averages for a checkpoint."""
        packed = self.averages.tensors()
        for name, optimiser in self.optimisers.items():
            packed |= pack_optimiser(f"optimiser.{name}", optimiser)
        return packed

    def step(self, index: int, batch: Batch) -> dict[str, Any]:
        """One optimiser step; returns the log line: group, total, terms, rate, finite, ..."""
        started = time.monotonic()
        name = self.turns[index]
        self._take_turn(name)
        settings, optimiser = self.settings(name), self.optimisers[name]
        rate = settings.rate_at(self.done[name], self.total[name])
        for group in optimiser.param_groups:
            group["lr"] = rate
        half = self.precision == "bfloat16"
        torch.manual_seed(seed_of(*self.key, index, "networks"))  # dropout: no stream to save
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            terms = self.task(batch.to(self.device), index)
        terms.total.backward()
        total = float(terms.total.detach())
        norm = nn.utils.clip_grad_norm_(self.networks[name].parameters(), settings.clip)
        finite = math.isfinite(total) and math.isfinite(float(norm))
        if finite:
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.done[name] += 1
        self.averages.update(name, self.done[name])
        return {
            "group": name,
            "total": total,
            "terms": {term: float(value) for term, value in terms.values.items()},
            "rate": rate,
            "step_seconds": round(time.monotonic() - started, 4),
            "finite": finite,
        }

    def _take_turn(self, name: str) -> None:
        """The network whose turn it is learns; the others are constants, in eval mode."""
        for other, network in self.networks.items():
            network.train(other == name)
            network.requires_grad_(other == name)
