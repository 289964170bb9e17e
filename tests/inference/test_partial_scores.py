"""Scores of scans that say nothing of some structures or voxels, and of groups of label values."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from ideal_run import GRID, PLAN, Ideal, cohort, ideal, labels_of, make_run, rows
from test_session import PLANS, importable, oblique, write_scan
from test_session import make_run as make_small_run

from deepatlas.data.plan import grouped
from deepatlas.errors import BadInput
from deepatlas.evaluation.scores import score_labels
from deepatlas.evaluation.tables import flatten
from deepatlas.inference import scoring
from deepatlas.inference.scoring import evaluate
from deepatlas.inference.segment import segment
from deepatlas.io.images import read_labels, write_labels
from deepatlas.io.label_groups import LabelGroup
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Volume

__all__ = ["cohort", "ideal", "importable"]  # fixtures

GROUPS = (LabelGroup(2, "both", (3, 700)), LabelGroup(5, "nowhere", (4,)))


def say(folder: Path, **annotated: list[int]) -> None:
    (folder / "annotations.json").write_text(json.dumps(annotated))


def planned(run: RunFolder, **changes: Any) -> RunFolder:
    run.write("plan.json", replace(PLAN, **changes).to_json())
    return run


def relabelled(cohort: Path, scan: str, where: Any, value: int) -> None:
    labels = labels_of(scan)
    labels[where] = value
    write_labels(cohort / "labels" / f"{scan}.nii.gz", Volume(labels, GRID), "int16")


@pytest.mark.usefixtures("ideal")
def test_what_was_not_annotated_is_in_no_mean_and_the_tables_say_so(
    tmp_path: Path, cohort: Path
) -> None:
    run = planned(make_run(tmp_path / "run", cohort), groups={"both": (3, 700), "far": (700,)})
    say(cohort, b=[3], c=[700])
    summary = evaluate(run, cohort, tmp_path / "out")
    scans = rows(tmp_path / "out" / "scans.csv")
    assert [row["dice"] for row in scans] == ["1", "0", "1"]
    assert [row["dice_700"] for row in scans] == ["", "0", "1"]
    assert [row["not_annotated"] for row in scans] == ["700", "3", ""]
    plain = flatten(summary)
    assert plain["groups.segmentation.far.dice.n"] == "2"
    assert plain["groups.segmentation.far.dice.not_annotated"] == "1"
    assert plain["groups.segmentation.both.dice.n"] == "1"
    assert plain["groups.segmentation.both.dice.not_annotated"] == "2"
    structures = summary["per_structure"]["segmentation"]
    assert structures["3"]["dice"]["n"] == 2
    assert structures["3"]["hd95_mm"]["not_annotated"] == 1
    pairs = {(r["moving"], r["fixed"]): r for r in rows(tmp_path / "out" / "pairs.csv")}
    assert pairs["b", "c"]["not_annotated"] == "3 700"
    assert pairs["b", "c"]["dice"] == ""
    assert pairs["d", "b"]["not_annotated"] == "700"
    assert any("segmentation: not annotated everywhere" in n and "700 (in 1 of 3)" in n
               for n in summary["notes"])  # fmt: skip


@pytest.mark.usefixtures("ideal")
def test_what_was_said_in_training_holds_for_the_training_cohort(
    tmp_path: Path, cohort: Path
) -> None:
    run = make_run(tmp_path / "run", cohort, annotated={"b": [3]})
    evaluate(run, cohort, tmp_path / "out")
    assert rows(tmp_path / "out" / "scans.csv")[0]["not_annotated"] == "700"
    say(cohort, b=[700])
    evaluate(run, cohort, tmp_path / "out")
    assert rows(tmp_path / "out" / "scans.csv")[0]["not_annotated"] == "3"
    other = tmp_path / "other.json"
    other.write_text('{"c": [3]}')
    evaluate(run, cohort, tmp_path / "out", annotated=other)
    assert [r["not_annotated"] for r in rows(tmp_path / "out" / "scans.csv")] == ["700", "700", ""]


@pytest.mark.usefixtures("ideal")
def test_ignored_voxels_count_on_neither_side(tmp_path: Path, cohort: Path) -> None:
    run = planned(make_run(tmp_path / "run", cohort), ignored=(9,))
    half = (slice(None), slice(7, None))  # two thirds of 700
    relabelled(cohort, "d", half, 9)
    summary = evaluate(run, cohort, tmp_path / "out")
    scans = rows(tmp_path / "out" / "scans.csv")
    assert [row["dice"] for row in scans] == ["1", "0.5", "1"]
    assert [row["hd95_mm_700"] for row in scans] == ["0", "inf", "0"]
    assert [row["ignored_voxels"] for row in scans] == ["", "", str(14 * 5 * 9)]
    pairs = {(r["moving"], r["fixed"]): r for r in rows(tmp_path / "out" / "pairs.csv")}
    assert {row["dice"] for row in pairs.values()} == {"1"}  # d as moving or as fixed
    assert int(pairs["d", "b"]["ignored_voxels"]) > 0
    assert any("in 1 of 3" in note for note in summary["notes"])
    relabelled(cohort, "d", half, 0)  # the same voxels as background
    evaluate(run, cohort, tmp_path / "out")
    assert float(rows(tmp_path / "out" / "scans.csv")[2]["dice_700"]) == pytest.approx(0.5)


def test_ignored_voxels_are_background_on_both_sides() -> None:
    target, prediction = labels_of("a"), labels_of("b")
    ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    two = {"values": (3, 700), "spacing_mm": (1.0, 2.0, 0.5)}
    found = score_labels(prediction, target, ignored=ignored, **two)
    emptied = [torch.where(ignored, 0, labels) for labels in (prediction, target)]
    expected = score_labels(*emptied, **two)
    assert (found.dice, found.hd95_mm) == (expected.dice, expected.hd95_mm)
    assert found.ignored_voxels == int(ignored.sum())


class Grouped(Ideal):
    """Segments into the groups of its run, if it has learnt any."""

    def segment(self, image: Path) -> Volume:
        volume = super().segment(image)
        return Volume(self.run.plan.label_rule(volume.data)[0], volume.geometry)


@pytest.mark.parametrize("learnt", [True, False])
def test_groups_are_scored_by_name(
    tmp_path: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch, learnt: bool
) -> None:
    """Those of the run by themselves; those of a file for a run that knows single values."""
    monkeypatch.setattr(scoring, "Session", Grouped)
    run = make_run(tmp_path / "run", cohort)
    path = tmp_path / "groups.json"
    path.write_text('[{"id": 2, "name": "both", "values": [3, 700]}, '
                    '{"id": 5, "name": "nowhere", "values": [4]}]')  # fmt: skip
    if learnt:
        run = planned(run, **grouped(GROUPS))
    relabelled(cohort, "d", (slice(0, 2), 0, 0), 55)  # in no group
    say(cohort, b=[3])
    for groups in [None, path] if learnt else [path]:
        summary = evaluate(run, cohort, tmp_path / "out", label_groups=groups)
        plain = flatten(summary)
        scans = rows(tmp_path / "out" / "scans.csv")
        assert [row["not_annotated"] for row in scans] == ["2 5", "", ""]
        assert plain["groups.segmentation.both.dice.n"] == "2"
        assert plain["groups.segmentation.both.dice.not_annotated"] == "1"
        assert plain["groups.segmentation.nowhere.dice"] == "nan"
        assert plain["groups.registration.both.dice"] == "1.0000"
        assert summary["per_structure"]["segmentation"]["2"]["name"] == "both"
        boxes = 3 * 4 * 5, 3 * 3 * 5  # voxels of 3 and of 700, which is missed in c
        both = 2 * boxes[0] / (2 * boxes[0] + boxes[1])
        assert float(scans[1]["dice_2"]) == pytest.approx(both, rel=1e-4)


def test_other_groups_than_were_learnt_are_refused(
    tmp_path: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "Session", Grouped)
    run = planned(make_run(tmp_path / "run", cohort), **grouped(GROUPS))
    (run.path / "segmentation.safetensors").touch()
    path = tmp_path / "groups.json"
    path.write_text('{"near": [3], "far": [700]}')
    with pytest.raises(BadInput, match="has learnt other label groups"):
        evaluate(run, cohort, tmp_path / "out", label_groups=path)
    plain = make_run(tmp_path / "plain", cohort)
    with pytest.raises(BadInput, match=r"run: its segmentation network has learnt other"):
        evaluate(plain, cohort, tmp_path / "out", against=[run])
    assert not (tmp_path / "out").exists()
    summary = evaluate(run, cohort, tmp_path / "out", against=[plain])
    assert {r["difference"] for r in summary["comparisons"] if "dice" in r["measure"]} == {0}
    (run.path / "segmentation.safetensors").unlink()
    monkeypatch.setattr(Grouped, "networks", ("registration",))
    summary = evaluate(run, cohort, tmp_path / "out", label_groups=path)
    assert set(summary["groups"]["registration"]) == {"near", "far"}


def test_segmentations_hold_ids_of_groups_and_a_table_names_them(tmp_path: Path) -> None:
    groups = (LabelGroup(4, "shell", (3, 900)), LabelGroup(300, "core", (700,)))
    write_scan(tmp_path / "a.nii.gz", oblique(3))
    plain = make_small_run(tmp_path / "plain", PLANS[3])
    run = make_small_run(tmp_path / "run", replace(PLANS[3], **grouped(groups), ignored=(9,)))
    (one,) = segment(plain, [tmp_path / "a.nii.gz"], out=tmp_path / "values")
    (two,) = segment(run, [tmp_path / "a.nii.gz"], out=tmp_path / "groups")
    values, ids = read_labels(one)[0].data, read_labels(two)[0].data
    assert values.unique().tolist() == [0, 3, 700]
    assert torch.equal(ids == 4, values == 3)
    assert torch.equal(ids == 300, values == 700)
    table = (tmp_path / "groups" / "dseg.tsv").read_text()
    assert table == "index\tname\n4\tshell\n300\tcore\n"
    assert not (tmp_path / "values" / "dseg.tsv").exists()
