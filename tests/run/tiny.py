"""Cohorts, networks and settings so small that a training takes a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepatlas.data.phantom import Phantom
from deepatlas.io.images import write_image, write_labels
from deepatlas.run.folder import RunFolder
from deepatlas.run.train import train

TRAIN = ["s00", "s01", "s02", "s05", "s06"]
SHORT = {"training__steps": 3}
SHAPES = {2: (24, 20), 3: (16, 20, 12)}
SMALL: dict[str, dict[str, Any]] = {
    "segmentation": {"features": [4, 8]},
    "registration": {"encoder": [4, 8], "decoder": [8, 8], "final": [8]},
}
ONE_NETWORK = {
    "segmentation": "segmentation",
    "voxelmorph": "registration",
    "weak": "registration",
}


def write_cohort(
    root: Path,
    *,
    ndim: int = 2,
    subjects: int = 8,
    labelled: int = 5,
    shape: tuple[int, ...] | None = None,
) -> Path:
    """A plain cohort s00, s01, ... of which the first few have labels."""
    phantom = Phantom(seed=3, shape=shape or SHAPES[ndim])
    for index in range(subjects):
        subject = phantom.subject(index)
        write_image(root / "images" / f"s{index:02d}.nii.gz", subject.image)
        if index < labelled:
            write_labels(root / "labels" / f"s{index:02d}.nii.gz", subject.labels, "uint8")
    return root


def write_split(path: Path, **parts: list[str]) -> Path:
    """A split file."""
    path.write_text(json.dumps(parts), encoding="utf-8")
    return path


def overrides(recipe: str, **more: Any) -> dict[str, Any]:
    """Small networks, 12 deterministic steps, a checkpoint at the end; `__` stands for a dot."""
    names = [ONE_NETWORK[recipe]] if recipe in ONE_NETWORK else list(SMALL)
    names = [name for name in names if f"networks__{name}" not in more]
    small = {f"networks.{n}.{key}": value for n in names for key, value in SMALL[n].items()}
    training = {"steps": 12, "validations": 2, "deterministic": True, "checkpoint_minutes": 60.0}
    return {
        **small,
        **{f"training.{key}": value for key, value in training.items()},
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def train_tiny(
    cohort: Path,
    out: Path,
    recipe: str = "da",
    settings: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> RunFolder:
    """`train` on one thread with small networks, its cache beside the run."""
    given: dict[str, Any] = {"cache": out.parent / "cache", "device": "cpu", "threads": 1}
    asked = overrides(recipe, **(settings or {}))
    return train(cohort, out, recipe=recipe, overrides=asked, **{**given, **arguments})


class Dropping(nn.Module):
    """A segmentation network from outside that draws random numbers and keeps statistics."""

    def __init__(self, ndim: int, classes: int) -> None:
        super().__init__()
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[ndim]
        self.layers = nn.Sequential(
            convolution(1, 6, 3, padding=1), norm(6), nn.Dropout(0.3), convolution(6, classes, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def weights(run: RunFolder) -> dict[str, Tensor]:
    """All tensors of the chosen networks and of the last checkpoint."""
    loaded = run.checkpoints.load()
    assert loaded is not None
    networks = {
        f"{name}.{key}": tensor
        for name in run.network_names()
        for key, tensor in run.network(name).state_dict().items()
    }
    return {**networks, **loaded[0]}


def assert_same_weights(one: RunFolder, other: RunFolder) -> None:
    """Bit for bit."""
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different


def lines(run: RunFolder) -> list[dict[str, Any]]:
    """The log without times and notes."""
    return [
        {key: value for key, value in event.items() if "seconds" not in key}
        for event in run.log()
        if event["event"] != "note"
    ]


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that was said."""
    return "\n".join(record.getMessage() for record in caplog.records)
