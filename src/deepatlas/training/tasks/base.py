"""What is learned: a task asks for a batch, and turns it into named losses."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.data.batches import Batch, Request
from deepatlas.errors import BadInput
from deepatlas.parts import build


@dataclass(frozen=True)
class Context:
    """What a stage tells its task.

    Attributes
    ----------
    spacing_mm : of the working grid.
    steps : of the stage.
    key : names the stage for counter-based random numbers (seed, stage).
    labelled, unlabelled : number of training scans with and without a manual segmentation.
    constants : the networks as they teach each other, running averages of their weights where the
        stage keeps such; None for the networks as they are.
    """

    spacing_mm: tuple[float, ...]
    steps: int
    key: tuple[object, ...]
    labelled: int
    unlabelled: int
    constants: nn.ModuleDict | None = None


@dataclass
class Terms:
    """Named losses of a step; the total is their weighted sum."""

    values: dict[str, Tensor] = field(default_factory=dict)
    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Add `weight * value` to the total and note the unweighted value."""
        self.values[name] = value.detach()
        self.total = self.total + weight * value


class Task(nn.Module, ABC):
    """Holds the networks and losses of one way of learning; knows no file and no optimiser.

    Attributes
    ----------
    networks : the networks it uses, by name ("segmentation", "registration").
    """

    networks: nn.ModuleDict

    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """Names of the networks that are trained."""

    @abstractmethod
    def group(self, step: int) -> str:
        """Whose turn it is at a step of the stage."""

    @abstractmethod
    def request(self, step: int) -> Request:
        """What to draw for a step."""

    @abstractmethod
    def forward(self, batch: Batch, step: int) -> Terms:
        """The losses of a step."""


def make_part(table: Mapping[str, type], spec: Any, what: str) -> Any:
    """The part that a specification names; one that is made already is passed on.

    Raises
    ------
    BadInput : faults of the specification, or a part from outside whose settings a run could not
        record.
    """
    made = spec if _is_part(spec) else build(table, spec, what)
    if not _is_part(made):
        raise BadInput(
            f"{what}: {spec} gives a {type(made).__name__}, whose settings a run cannot record; "
            "make it a dataclass"
        )
    return made


def check_batch(batch: int) -> None:
    """ValueError unless a step has at least one item."""
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}")


def check_shares(settings: Any, *names: str) -> None:
    """ValueError unless these settings, shares or probabilities, are 0 to 1."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} is a share, 0 to 1, not {getattr(settings, name)}")


def check_weights(settings: Any, *names: str) -> None:
    """ValueError unless these settings, weights of losses, are finite and at least 0."""
    for name in names:
        if not 0 <= getattr(settings, name) < math.inf:
            raise ValueError(f"{name} is a weight, 0 or more, not {getattr(settings, name)}")


def _is_part(made: Any) -> bool:
    return dataclasses.is_dataclass(made) and not isinstance(made, type)
