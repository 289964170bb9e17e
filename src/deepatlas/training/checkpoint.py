"""Checkpoints: all that resuming needs, as safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from deepatlas.io.atomic import write_bytes, write_json

LATEST, PREVIOUS, UNFINISHED = "latest", "previous", "unfinished"
TENSORS, FACTS = "tensors.safetensors", "facts.json"
_log = logging.getLogger(__name__)


class CheckpointStore:
    """One generation and its predecessor in a folder, each written aside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a generation; whenever the process dies, the one before or this one is whole.

        Raises
        ------
        DeepAtlasError : no room or no right to write; the generations before stay.
        """
        aside = self.folder / UNFINISHED
        shutil.rmtree(aside, ignore_errors=True)
        write_bytes(aside / TENSORS, save(plain_tensors(tensors)))
        write_json(aside / FACTS, dict(facts))  # last: its presence says it is whole
        self._move_up()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole generation, or None where there is none."""
        if self._read(UNFINISHED) is not None:  # whole, and killed before it got its name
            self._move_up()
        for name in (LATEST, PREVIOUS):
            found = self._read(name)
            if found is not None:
                return found
            if (self.folder / name).exists():
                _log.warning("%s: damaged, going back further", self.folder / name)
        return None

    def is_whole(self) -> bool:
        """Whether `load` finds a generation; nothing is moved, as another process may write."""
        return any(self._read(name) is not None for name in (LATEST, PREVIOUS, UNFINISHED))

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        folder = self.folder / name
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            return load_file(folder / TENSORS), facts
        except (OSError, ValueError, SafetensorError):
            return None

    def _move_up(self) -> None:
        """The unfinished generation is whole: it becomes the latest, the latest the previous."""
        latest, previous = self.folder / LATEST, self.folder / PREVIOUS
        if latest.exists():
            shutil.rmtree(previous, ignore_errors=True)
            latest.rename(previous)
        (self.folder / UNFINISHED).rename(latest)


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors wants them: contiguous, on the CPU, no two sharing memory."""
    layout = torch.contiguous_format
    return {name: t.detach().cpu().clone(memory_format=layout) for name, t in tensors.items()}


def pack(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors under a prefix."""
    return {f"{prefix}/{name}": t for name, t in module.state_dict().items()}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    start = f"{prefix}/"
    return {n[len(start) :]: t.clone() for n, t in tensors.items() if n.startswith(start)}


def pack_optimiser(prefix: str, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments and counters under a prefix, by number of the parameter."""
    return {
        f"{prefix}/{index}/{name}": torch.as_tensor(value)
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(
    prefix: str, tensors: Mapping[str, Tensor], optimiser: torch.optim.Optimizer
) -> None:
    """Put packed moments back into a fresh optimiser over the same parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in unpack(prefix, tensors).items():
        index, _, moment = name.partition("/")
        like = parameters[int(index)]
        if tensor.shape == like.shape:  # laid out in memory as before, so rounding is the same
            tensor = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[moment] = tensor
    whole = optimiser.state_dict()
    whole["state"] = state
    optimiser.load_state_dict(whole)
