"""A cohort whose scores are known, and a run that segments and registers it ideally."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from deepatlas.data.plan import Plan
from deepatlas.inference import scoring
from deepatlas.io.images import write_image, write_labels
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Transform
from deepatlas.training.recipe import load_recipe

SHAPE = (14, 12, 9)
STEP = 2  # voxels along the first axis between neighbouring scans
AFFINE = torch.tensor(
    [[0.0, -1.5, 0.0, 40.0], [0.8, 0.0, 0.0, -7.0], [0.0, 0.0, 2.0, 3.0], [0.0, 0.0, 0.0, 1.0]]
)
GRID = Geometry(SHAPE, AFFINE)
PLAN = Plan(
    (16, 16, 16), (1.5, 0.8, 2.0), (0.0, 0.0, 0.0), label_values=(3, 700), label_dtype="int16"
)
LABELLED = ["a", "b", "c", "d"]
SPLIT: dict[str, Any] = {
    "train": ["a", "u"], "validation": [], "test": ["b", "c", "d"], "labelled": ["a"],
}  # fmt: skip


def place_of(scan: str) -> int:
    return 1 + STEP * LABELLED.index(scan)


def labels_of(scan: str) -> torch.Tensor:
    """Two boxes, further along the first axis for every scan."""
    labels = torch.zeros(SHAPE, dtype=torch.int64)
    first = place_of(scan)
    labels[first : first + 3, 2:6, 2:7] = 3
    labels[first : first + 3, 6:9, 2:7] = 700
    return labels


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Four labelled scans on an oblique anisotropic grid, and one without labels."""
    root = tmp_path / "cohort"
    rng = torch.Generator().manual_seed(0)
    for scan in [*LABELLED, "u"]:
        image = Volume(torch.rand(SHAPE, generator=rng), GRID)
        write_image(root / "images" / f"{scan}.nii.gz", image)
    for scan in LABELLED:
        path = root / "labels" / f"{scan}.nii.gz"
        write_labels(path, Volume(labels_of(scan), GRID), "int16")
    return root


def make_run(path: Path, cohort: Path, **split: Any) -> RunFolder:
    run = RunFolder(path)
    run.write_config(load_recipe("baseline"))
    run.write("plan.json", PLAN.to_json())
    run.write("split.json", {**SPLIT, "cohort": str(cohort.resolve()), **split})
    run.write("state.json", {"finished": True})
    return run


class Ideal:
    """A session whose segmentations miss 700 in scan c, and whose registrations are exact."""

    networks: tuple[str, ...] = ("segmentation", "registration")
    missed = "c"

    def __init__(self, run: RunFolder, device: Any, max_memory: Any = None) -> None:
        self.run = run
        self.plan = run.plan

    def segment(self, image: Path) -> Volume:
        scan = image.name.split(".")[0]
        labels = labels_of(scan)
        return Volume(
            torch.where(labels == 700, 0, labels) if scan == self.missed else labels, GRID
        )

    def register(self, *, moving: Path, fixed: Path) -> Transform:
        steps = place_of(moving.name[0]) - place_of(fixed.name[0])
        return Affine.translation(AFFINE[:3, 0].double() * steps)

    def alignment(self, *, moving: Path, fixed: Path) -> Transform:
        return Affine.translation([0.0, 0.0, 0.0])


@pytest.fixture
def ideal(monkeypatch: pytest.MonkeyPatch) -> type[Ideal]:
    monkeypatch.setattr(scoring, "Session", Ideal)
    return Ideal


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_pairs(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
