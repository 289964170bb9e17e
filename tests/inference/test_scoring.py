"""Scoring a run: which scans and pairs, in which space, against what, and what is written."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from deepatlas.data.plan import Plan
from deepatlas.data.survey import survey
from deepatlas.errors import BadInput
from deepatlas.evaluation.tables import flatten
from deepatlas.inference import scoring
from deepatlas.inference.scoring import evaluate
from deepatlas.inference.selection import choose_pairs, default_pairs, read_pairs
from deepatlas.io.images import read_labels, write_image, write_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort, Subject
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import record_of
from deepatlas.run.seen import scans_seen
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


def test_default_pairs() -> None:
    assert default_pairs(["2", "1", "3", "4"], 4) == [
        ("4", "1"),
        ("3", "2"),
        ("2", "3"),
        ("1", "4"),
    ]
    assert default_pairs(["1", "2", "3"], 40) == [
        ("3", "1"), ("1", "3"), ("2", "1"), ("1", "2"), ("3", "2"), ("2", "3"),
    ]  # fmt: skip
    assert default_pairs(["1"], 40) == []
    many = [f"{i:06d}" for i in range(100_000)]  # of which there are too many pairs to list
    assert default_pairs(many, 2) == [("099999", "000000"), ("099998", "000001")]
    many = default_pairs([f"{i:03d}" for i in range(40)], 100)
    assert len(set(many)) == len(many) == 100
    assert many[:40] == [(f"{39 - i:03d}", f"{i:03d}") for i in range(40)]


def test_default_pairs_are_of_two_persons() -> None:
    persons = {"1": "x", "2": "x", "3": "y", "4": "y"}
    pairs = default_pairs(list(persons), 40, persons)
    assert sorted(pairs) == [
        ("1", "3"), ("1", "4"), ("2", "3"), ("2", "4"), ("3", "1"), ("3", "2"), ("4", "1"),
        ("4", "2"),
    ]  # fmt: skip
    assert len(default_pairs(["1", "2"], 40, persons)) == 2  # of one person: all there is


def test_the_cohorts_own_pairs_come_first() -> None:
    scans = tuple(Subject(name, Path(name), Path(name)) for name in "abcd")
    own = (("a", "b"), ("c", "d"), ("b", "a"))
    cohort = Cohort(Path(), scans, pairs=own)
    assert choose_pairs(cohort, scans, 40) == list(own)
    assert choose_pairs(cohort, scans, 2) == list(own[:2])
    assert choose_pairs(cohort, scans[:2], 40) == [("a", "b"), ("b", "a")]
    assert choose_pairs(cohort, scans[1:3], 40) == [("c", "b"), ("b", "c")]


def test_a_scan_of_a_person_that_was_seen_is_seen(cohort: Path) -> None:
    scans = read_cohort(cohort)
    twins = tuple(replace(s, person="x") if s.id in "ad" else s for s in scans.subjects)
    found = survey(scans)
    split = {**SPLIT, "test": [], "cohort": str(cohort)}
    seen = scans_seen(split, replace(scans, subjects=twins), found)
    assert seen == {"a": "train", "b": "", "c": "", "d": "train"}
    assert scans_seen(split, scans, found)["d"] == ""


def test_a_copy_of_a_scan_that_was_seen_is_seen(cohort: Path) -> None:
    copied = (cohort / "images" / "a.nii.gz").read_bytes()
    (cohort / "images" / "d.nii.gz").write_bytes(copied)
    scans = read_cohort(cohort)
    found = survey(scans)
    content = {name: facts.image.digest for name, facts in found.items()}
    split = {**SPLIT, "test": [], "cohort": str(cohort), "content": content}
    assert scans_seen(split, scans, found) == {"a": "train", "b": "", "c": "", "d": "train"}


def test_faults_of_a_pairs_file_are_listed_together(tmp_path: Path, cohort: Path) -> None:
    scans = read_cohort(cohort)
    path = write_pairs(tmp_path / "p.csv", "moving,fixed\na,b\nz,b\na,u\nc,c\na,b\nd\n")
    with pytest.raises(BadInput) as caught:
        read_pairs(path, scans)
    lines = [fault.split(": ", 1)[0] for fault in caught.value.faults]
    assert lines == [f"{path}, line {n}" for n in (3, 4, 5, 6, 7)]
    expected = ["no scan 'z'", "'u' has no label map", "itself", "line 2 already", "no scan ''"]
    for fault, part in zip(caught.value.faults, expected, strict=True):
        assert part in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nc,d\n", "no column moving and no column fixed"),
        ("", "an empty file"),
        ("moving,fixed\n", "has no pairs"),
    ],
)
def test_a_file_that_holds_no_pairs(tmp_path: Path, cohort: Path, text: str, message: str) -> None:
    path = write_pairs(tmp_path / "p.csv", text)
    with pytest.raises(BadInput, match=message):
        read_pairs(path, read_cohort(cohort))


def test_a_pairs_file_that_is_not_there(tmp_path: Path, cohort: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.csv: cannot be read"):
        read_pairs(tmp_path / "none.csv", read_cohort(cohort))


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
