"""The hippocampus table: its commands work, and it may be made a block at a time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from deepatlas.cli import main
from deepatlas.io.images import write_image, write_labels
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("table", ROOT / "benchmarks" / "hippocampus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "table", module)  # dataclasses look there
        spec.loader.exec_module(module)
    return module


def made(results: Path) -> list[dict[str, Any]]:
    """The rows in docs, copied to this folder."""
    (results / "hippocampus.json").write_bytes((RESULTS / "hippocampus.json").read_bytes())
    return json.loads((results / "hippocampus.json").read_text())["rows"]


def test_blocks_that_were_made_before_stay(table: ModuleType, tmp_path: Path) -> None:
    before = made(tmp_path)
    table.write_results(tmp_path, [table.Setting("10", 0)], tmp_path)
    assert json.loads((tmp_path / "hippocampus.json").read_text())["rows"] == before
    for name in ("hippocampus.json", "hippocampus.md"):  # what stands in docs is what it writes
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()


def test_a_block_that_is_made_takes_the_place_of_its_rows(
    table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made(tmp_path)
    (tmp_path / "evaluation-1-0").mkdir()
    (tmp_path / "evaluation-1-0" / "summary.json").write_text("{}")
    old = [row for row in before if row["labelled"] == "1"]
    by_recipe = {row["recipe"]: {**row, "registration_dice": 0.5} for row in old}
    monkeypatch.setattr(table, "row", lambda out, block, recipe: by_recipe[recipe])
    table.write_results(tmp_path, [table.Setting("1", 0)], tmp_path)
    rows = json.loads((tmp_path / "hippocampus.json").read_text())["rows"]
    assert len(rows) == len(before)
    assert [row["registration_dice"] for row in rows if row["labelled"] == "1"] == [0.5] * len(old)
    assert [r for r in rows if r["labelled"] == "5"] == [r for r in before if r["labelled"] == "5"]
    assert not (tmp_path / "hippocampus.png").exists()


@pytest.mark.parametrize("labelled", ["1", "5", "10", "all"])
def test_labels_are_hidden_from_recipes_that_look_at_them(labelled: str, table: ModuleType) -> None:
    for _, arguments, _ in table.jobs(Path("cohort"), Path("out"), table.Setting(labelled, 0)):
        if arguments[0] == "train":
            recipe = load_recipe(arguments[arguments.index("--recipe") + 1])
            assert ("--labelled" in arguments) == recipe.uses_labels, arguments


@pytest.mark.slow
@pytest.mark.parametrize("labelled", ["5", "1"])
def test_every_command_of_a_block_does_its_part(
    labelled: str, table: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On small scans, two steps of every stage."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "GRID", "data.shape=[16,16,16]")
    for steps in (table.START, table.JOINT, table.BASELINE, *table.STAGES.values()):
        for stage in steps:
            monkeypatch.setitem(steps, stage, 2)
    ids = [f"h{number}" for number in range(11)]
    for number, name in enumerate(ids):
        labels = torch.zeros(20, 18, 16, dtype=torch.int64)
        labels[4 : 10 + number, 4:12, 3:8], labels[4 : 10 + number, 4:12, 8:12] = 1, 2
        image = Volume(labels + torch.rand(labels.shape) / 4, Geometry(labels.shape, torch.eye(4)))
        write_image(tmp_path / "cohort" / "images" / f"{name}.nii.gz", image)
        place = tmp_path / "cohort" / "labels" / f"{name}.nii.gz"
        write_labels(place, Volume(labels, image.geometry), "uint8")
    parts = {"train": ids[:6], "validation": ids[6:7], "test": ids[7:]}
    (tmp_path / "split.json").write_text(json.dumps(parts))
    block = table.Setting(labelled, 0)
    for _, arguments, _ in table.jobs(tmp_path / "cohort", tmp_path, block):
        assert main([*arguments, "--threads", "2"]) == 0, arguments
    table.write_results(tmp_path, [block], tmp_path / "results")
    rows = json.loads((tmp_path / "results" / "hippocampus.json").read_text())["rows"]
    assert sorted(row["recipe"] for row in rows) == sorted(block.recipes)
    assert all(row["registration_dice"] > 0 for row in rows)
