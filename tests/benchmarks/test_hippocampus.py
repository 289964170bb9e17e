"""The hippocampus table may be made a block at a time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

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
