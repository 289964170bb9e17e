"""Scoring a run: which scans and pairs, in which space, against what, and what is written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from ideal_run import (
    AFFINE,
    GRID,
    LABELLED,
    SHAPE,
    Ideal,
    cohort,
    ideal,
    labels_of,
    make_run,
    rows,
    write_pairs,
)

from deepatlas.data.survey import survey
from deepatlas.errors import BadInput
from deepatlas.evaluation.tables import flatten
from deepatlas.inference import scoring
from deepatlas.inference.scoring import evaluate
from deepatlas.io.images import read_labels, write_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import record_of
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.training.recipe import load_recipe

__all__ = ["cohort", "ideal"]  # fixtures


@pytest.mark.usefixtures("ideal")
def test_the_test_part_is_scored_on_each_scans_own_grid(tmp_path: Path, cohort: Path) -> None:
    run = make_run(tmp_path / "run", cohort)
    out = tmp_path / "out"
    told = []
    summary = evaluate(run, cohort, out, progress=lambda *what: told.append(what))
    scans = rows(out / "scans.csv")
    assert [row["scan"] for row in scans] == ["b", "c", "d"]
    assert [row["dice"] for row in scans] == ["1", "0.5", "1"]
    assert [row["misses"] for row in scans] == ["0", "1", "0"]
    assert scans[1]["hd95_mm_700"] == "inf"
    dice = summary["segmentation"]["dice"]
    assert (dice["mean"], dice["n"], dice["misses"]) == (pytest.approx(2.5 / 3), 3, 1)
    diagonal = float(torch.tensor([14 * 0.8, 12 * 1.5, 9 * 2.0]).norm())
    with_misses = summary["segmentation"]["hd95_mm_with_misses"]["mean"]
    assert with_misses == pytest.approx(diagonal / 2 / 3, rel=1e-5)
    assert summary["segmentation"]["hd95_mm"]["mean"] == 0
    assert (summary["labels_seen"], summary["align"]) == ("1 + 0", "centre")
    assert summary["threads"] == torch.get_num_threads()
    assert summary["packages"]["torch"] == torch.__version__
    assert ("segmenting", 3, 3) in told
    assert ("registering", 6, 6) in told


@pytest.mark.usefixtures("ideal")
def test_labels_are_carried_through_the_whole_transform(tmp_path: Path, cohort: Path) -> None:
    run = make_run(tmp_path / "run", cohort)
    out = tmp_path / "out"
    summary = evaluate(run, cohort, out, n_pairs=4)
    pairs = rows(out / "pairs.csv")
    assert [(row["moving"], row["fixed"]) for row in pairs] == [
        ("d", "b"), ("b", "d"), ("c", "b"), ("b", "c"),
    ]  # fmt: skip
    assert {row["dice"] for row in pairs} == {"1"}
    # boxes of 3 voxels: two scans apart they do not meet, neighbours share 1 voxel of 3
    before = [float(row["dice_before"]) for row in pairs]
    assert before == pytest.approx([0, 0, 1 / 3, 1 / 3], rel=1e-5)
    registration = summary["registration"]
    assert registration["dice_before"]["mean"] == pytest.approx(1 / 6)
    assert registration["dice"]["mean"] == 1
    assert registration["folds_percent"]["mean"] == 0
    assert registration["sdlogj"]["mean"] == pytest.approx(0, abs=1e-5)
    assert {row["align"] for row in pairs} == {"centre"}


@pytest.mark.usefixtures("ideal")
def test_what_is_written(tmp_path: Path, cohort: Path) -> None:
    run = make_run(tmp_path / "run", cohort)
    out = tmp_path / "out"
    summary = evaluate(run, cohort, out)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    stored = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    assert flatten(stored) == flatten(summary)
    assert stored["segmentation"]["dice"]["mean"] == summary["segmentation"]["dice"]["mean"]
    (entry,) = run.evaluations()
    assert (entry["cohort"], entry["out"]) == (str(cohort.resolve()), str(out.resolve()))
    assert entry["summary"]["registration"]["dice"]["n"] == 6
    assert set(stored["per_structure"]["segmentation"]) == {"3", "700"}
    assert evaluate(run, cohort, out)["segmentation"]["dice"] == summary["segmentation"]["dice"]
    assert len(run.evaluations()) == 1


def test_a_run_with_one_network_has_one_table(
    tmp_path: Path, cohort: Path, ideal: type[Ideal], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", cohort)
    out = tmp_path / "out"
    evaluate(run, cohort, out)
    monkeypatch.setattr(ideal, "networks", ("registration",))
    summary = evaluate(run, cohort, out)
    assert "segmentation" not in summary
    assert not (out / "scans.csv").exists()
    assert (out / "pairs.csv").exists()


@pytest.mark.usefixtures("ideal")
def test_pairs_from_a_file_and_seen_ones_are_kept_out_of_means(
    tmp_path: Path, cohort: Path
) -> None:
    run = make_run(tmp_path / "run", cohort)
    pairs = write_pairs(tmp_path / "p.csv", "note,fixed,moving\nx,d,c\ny,b,a\n")
    summary = evaluate(run, cohort, tmp_path / "out", pairs=pairs)
    found = rows(tmp_path / "out" / "pairs.csv")
    assert [(row["moving"], row["fixed"], row["seen"]) for row in found] == [
        ("c", "d", ""), ("a", "b", "train"),
    ]  # fmt: skip
    assert summary["registration"]["dice"]["n"] == 1
    assert summary["seen"] == {"segmentation": 0, "registration": 1}


@pytest.mark.usefixtures("ideal")
def test_without_a_test_part_scans_with_hidden_labels_are_scored(
    tmp_path: Path, cohort: Path
) -> None:
    everything = {"train": [*LABELLED, "u"], "test": []}
    run = make_run(tmp_path / "run", cohort, **everything, labelled=["a", "c"])
    summary = evaluate(run, cohort, tmp_path / "out")
    assert [row["scan"] for row in rows(tmp_path / "out" / "scans.csv")] == ["b", "d"]
    assert summary["segmentation"]["dice"]["n"] == 2
    assert "no test part" in summary["notes"][0]
    assert "the images of 2 of them were part of training" in summary["notes"][0]


@pytest.mark.usefixtures("ideal")
def test_a_run_that_saw_all_labels_gets_marked_rows_and_no_mean(
    tmp_path: Path, cohort: Path
) -> None:
    everything = {"train": ["a", "b", "c", "u"], "validation": ["d"], "test": []}
    run = make_run(tmp_path / "run", cohort, **everything, labelled=["a", "b", "c"])
    summary = evaluate(run, cohort, tmp_path / "out")
    scans = rows(tmp_path / "out" / "scans.csv")
    assert [row["seen"] for row in scans] == ["train", "train", "train", "validation"]
    assert {row["seen"] for row in rows(tmp_path / "out" / "pairs.csv")} == {"train"}
    assert (summary["segmentation"]["dice"]["mean"], summary["segmentation"]["dice"]["n"]) == (
        None,
        0,
    )
    assert "no mean is given" in summary["notes"][0]
    assert summary["labels_seen"] == "3 + 1"


@pytest.mark.usefixtures("ideal")
def test_another_cohort_is_scored_whole_and_known_files_are_marked(
    tmp_path: Path, cohort: Path
) -> None:
    facts = survey(read_cohort(cohort))
    other = tmp_path / "other"
    shutil.copytree(cohort, other)
    out = tmp_path / "out"
    run = make_run(tmp_path / "run", cohort)
    evaluate(run, other, out)
    scans = rows(out / "scans.csv")
    assert [(row["scan"], row["seen"]) for row in scans] == [(s, "") for s in LABELLED]
    content = {scan: found.image.digest for scan, found in facts.items() if scan != "d"}
    run = make_run(tmp_path / "run", cohort, content=content)
    evaluate(run, other, out)  # a copy of the training cohort: its test part
    assert [row["scan"] for row in rows(out / "scans.csv")] == ["b", "c", "d"]
    shutil.copy(other / "images" / "c.nii.gz", other / "images" / "b.nii.gz")
    summary = evaluate(run, other, out)
    scans = rows(out / "scans.csv")
    assert [row["seen"] for row in scans] == ["train", "", "", ""]
    assert summary["notes"] == ["1 scans were seen in training: marked, and not in the means"]
    for kind in ("images", "labels"):
        shutil.copy(cohort / kind / "b.nii.gz", other / kind / "b.nii.gz")
        (other / kind / "c.nii.gz").unlink()
    evaluate(run, other, out)  # the run's test part is not whole here: another cohort
    assert [row["scan"] for row in rows(out / "scans.csv")] == ["a", "b", "d"]


@pytest.mark.usefixtures("ideal")
def test_what_the_run_started_from_has_been_seen_too(tmp_path: Path, cohort: Path) -> None:
    first = make_run(tmp_path / "first", cohort, train=["a", "b", "u"], labelled=["a", "b"])
    run = make_run(tmp_path / "run", cohort)
    recipe = load_recipe("baseline", overrides={"init": str(first.path)})
    run.write_config(recipe)
    summary = evaluate(run, cohort, tmp_path / "out")
    scans = rows(tmp_path / "out" / "scans.csv")
    assert [row["seen"] for row in scans] == ["train", "", ""]
    assert any("started from" in note and "2 + 0" in note for note in summary["notes"])


@pytest.mark.usefixtures("ideal")
def test_what_a_start_that_is_gone_had_seen(tmp_path: Path, cohort: Path) -> None:
    """Recorded in the run, also of the start's own start; else a note says it is not known."""
    oldest = make_run(tmp_path / "oldest", cohort, train=["a", "c"], labelled=["a", "c"])
    first = make_run(tmp_path / "first", cohort, train=["a", "b", "u"], labelled=["a", "b"])
    first.write_config(load_recipe("baseline", overrides={"init": str(oldest.path)}))
    run = make_run(tmp_path / "run", cohort)
    run.write_config(load_recipe("baseline", overrides={"init": str(first.path)}))
    run.write("started_from.json", record_of(first, ()))
    shutil.rmtree(oldest.path)
    shutil.rmtree(first.path)
    summary = evaluate(run, cohort, tmp_path / "out")
    assert [r["seen"] for r in rows(tmp_path / "out" / "scans.csv")] == ["train", "train", ""]
    assert summary["labels_seen"] == "3 + 0"  # a, b and c, each once
    assert sum("had seen other labels: 2 + 0" in note for note in summary["notes"]) == 2
    (run.path / "started_from.json").unlink()  # a run of before
    summary = evaluate(run, cohort, tmp_path / "out")
    assert any(f"{first.path}, which is gone" in note for note in summary["notes"])


def test_against_other_runs_on_the_same_scans(
    tmp_path: Path, cohort: Path, ideal: type[Ideal], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", cohort)
    others = [make_run(tmp_path / part / "old", cohort) for part in ("x", "y")]
    seen = make_run(tmp_path / "seen", cohort, train=["a", "b", "u"], test=["c", "d"])

    class Mixed(ideal):
        def segment(self, image: Path) -> Volume:
            good = super().segment(image)
            if self.run is run:
                return good
            return Volume(good.data.roll(1, dims=0), GRID)

    monkeypatch.setattr(scoring, "Session", Mixed)
    out = tmp_path / "out"
    summary = evaluate(run, cohort, out, against=[*others, seen])
    found = {(r["against"], r["measure"]): r for r in summary["comparisons"]}
    assert {name for name, _ in found} == {"old", "old-2", "seen"}
    dice = found["old", "segmentation.dice"]
    assert dice["difference"] == pytest.approx((1 - 2 / 3 + 0.5 - 1 / 3 + 1 - 2 / 3) / 3)
    assert dice["n"] == 3
    assert found["seen", "segmentation.dice"]["n"] == 2
    assert found["old", "registration.dice"]["difference"] == 0
    assert dice["mann_whitney_p_adjusted"] >= dice["mann_whitney_p"]
    assert len(rows(out / "comparisons.csv")) == len(found)
    assert rows(out / "against" / "old-2" / "scans.csv")[0]["dice"] == "0.666667"
    theirs = json.loads((out / "against" / "seen" / "summary.json").read_text())
    assert theirs["segmentation"]["dice"]["n"] == 2
    assert not others[0].evaluations()


@pytest.mark.usefixtures("ideal")
def test_faults_of_the_cohort(tmp_path: Path, cohort: Path) -> None:
    run = make_run(tmp_path / "run", cohort, test=["u"])
    with pytest.raises(BadInput, match="none of the run's 1 test scans has a label map"):
        evaluate(run, cohort, tmp_path / "out")
    write_labels(cohort / "labels" / "b.nii.gz", Volume(labels_of("b")[1:], _shorter()), "int16")
    with pytest.raises(BadInput, match=r"b\.nii\.gz: has 13 x 12 x 9 voxels"):
        evaluate(run, cohort, tmp_path / "out")
    shutil.rmtree(cohort / "labels")
    with pytest.raises(BadInput, match="none of 5 scans has a label map"):
        evaluate(run, cohort, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _shorter() -> Geometry:
    return Geometry((SHAPE[0] - 1, *SHAPE[1:]), AFFINE)


def add_networks(run: RunFolder) -> None:
    """Untrained ones; the registration is the identity."""
    from deepatlas.networks.registration import build_registration
    from deepatlas.networks.segmentation import build_segmentation

    recipe = run.recipe
    torch.manual_seed(0)
    built = {
        "segmentation": build_segmentation(recipe.networks["segmentation"], ndim=3, classes=3),
        "registration": build_registration(recipe.networks["registration"], ndim=3),
    }
    with torch.no_grad():
        for parameter in list(built["registration"].parameters())[-2:]:
            parameter.zero_()
    for name, network in built.items():
        run.write_network(name, network.state_dict(), recipe)


def test_what_cannot_work_is_said_before_any_file_is_read(tmp_path: Path, cohort: Path) -> None:
    run, rival = (make_run(tmp_path / name, cohort) for name in ("run", "rival"))
    pairs = write_pairs(tmp_path / "p.csv", "moving,fixed\na,z\n")
    told: list[Any] = []

    def refused(said: str, **given: Any) -> None:
        with pytest.raises(BadInput, match=said):
            evaluate(
                run, cohort, tmp_path / "out", progress=lambda *what: told.append(what), **given
            )

    refused("run: has no trained network")
    add_networks(run)
    refused("rival: has no trained network", against=[rival])
    refused("lots", max_memory="lots")
    refused("no scan 'z'", pairs=pairs)
    assert not told
    assert not (tmp_path / "out").exists()


def test_scores_stay_where_another_run_fails(
    tmp_path: Path, cohort: Path, ideal: type[Ideal], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, good, bad = (make_run(tmp_path / name, cohort) for name in ("run", "good", "bad"))

    class Failing(ideal):  # type: ignore[misc]
        def segment(self, image: Path) -> Volume:
            if self.run is bad:
                raise BadInput("too little memory")
            return super().segment(image)

    monkeypatch.setattr(scoring, "Session", Failing)
    out = tmp_path / "out"
    with pytest.raises(BadInput, match="too little memory"):
        evaluate(run, cohort, out, against=[good, bad])
    assert len(rows(out / "scans.csv")) == 3
    assert json.loads((out / "summary.json").read_text())["segmentation"]["dice"]["n"] == 3
    assert (out / "against" / "good" / "pairs.csv").exists()


def test_real_networks_on_the_real_path(tmp_path: Path, cohort: Path) -> None:
    """Untrained networks: the registration is the identity, so nothing but alignment is left."""
    run = make_run(tmp_path / "run", cohort)
    add_networks(run)
    summary = evaluate(run, cohort, tmp_path / "out", n_pairs=3)
    registration = summary["registration"]
    assert registration["dice"]["mean"] == registration["dice_before"]["mean"]
    assert registration["folds_percent"]["mean"] == 0
    assert summary["segmentation"]["dice"]["n"] == 3
    assert summary["segmentation"]["seconds"]["mean"] > 0
    labels = read_labels(cohort / "labels" / "b.nii.gz")[0]
    assert labels.geometry.same_as(GRID)
