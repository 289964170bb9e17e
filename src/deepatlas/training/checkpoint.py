"""Checkpoints: all that resuming needs, as safetensors and JSON; nothing is unpickled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepatlas.io.atomic import write_json

LATEST, PREVIOUS, UNFINISHED = "latest", "previous", "unfinished"


class CheckpointStore:
    """One generation and its predecessor in a folder, each written aside and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write a generation; whenever the process dies, one whole generation is left."""
        aside = self.folder / UNFINISHED
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        contiguous = {n: t.detach().cpu().contiguous() for n, t in tensors.items()}
        save_file(contiguous, aside / "tensors.safetensors")
        write_json(aside / "facts.json", dict(facts))  # last: its presence says it is whole
        latest, previous = self.folder / LATEST, self.folder / PREVIOUS
        if latest.exists():
            shutil.rmtree(previous, ignore_errors=True)
            latest.rename(previous)
        aside.rename(latest)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole generation, or None where there is none."""
        for name in (LATEST, UNFINISHED, PREVIOUS):
            folder = self.folder / name
            try:
                facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
                return load_file(folder / "tensors.safetensors"), facts
            except (OSError, ValueError, SafetensorError):
                continue
        return None


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
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in unpack(prefix, tensors).items():
        index, _, moment = name.partition("/")
        state.setdefault(int(index), {})[moment] = tensor
    whole = optimiser.state_dict()
    whole["state"] = state
    optimiser.load_state_dict(whole)
