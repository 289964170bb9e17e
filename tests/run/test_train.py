"""`train` on tiny cohorts: what is learned from, resumed, extended, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    SHORT,
    TRAIN,
    assert_same_weights,
    lines,
    logged,
    train_tiny,
    write_cohort,
    write_split,
)

from deepatlas.data.batches import Batches
from deepatlas.errors import BadInput
from deepatlas.io.images import read_image, read_labels, write_image, write_labels
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Volume
from deepatlas.training.trainer import Trainer


def mirror(path: Path) -> None:
    """Other voxels under the same header; twice gives the same bytes again."""
    image = read_image(path) if path.parent.name == "images" else read_labels(path)[0]
    mirrored = Volume(image.data.flip(0), image.geometry)
    if path.parent.name == "images":
        write_image(path, mirrored, like=path)
    else:
        write_labels(path, mirrored, "uint8", like=path)


# --- what is learned from, and what is chosen ---------------------------------------------------


def test_with_a_split_validation_chooses(baseline: RunFolder) -> None:
    events = [event for event in baseline.log() if event["event"] == "validation"]
    assert {name for event in events for name in event["scores"]} >= {
        "segmentation.dice",
        "registration.dice",
    }
    best = {
        name: max(e["scores"].get(f"{name}.dice", -1.0) for e in events)
        for name in ("segmentation", "registration")
    }
    assert baseline.state["best"] == best
    loaded = baseline.checkpoints.load()
    assert loaded is not None
    for name in best:
        network = baseline.network(name).state_dict()
        assert all(torch.equal(network[k], loaded[0][f"best.{name}/{k}"]) for k in network)


def test_without_a_split_every_scan_trains_and_the_last_networks_are_taken(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = train_tiny(cohort, tmp_path / "run", "segmentation")
    assert run.split["train"] == [f"s{k:02d}" for k in range(8)]
    assert run.split["labelled"] == [f"s{k:02d}" for k in range(5)]
    assert "no validation scans: the networks of the last step are taken" in logged(caplog)
    loaded = run.checkpoints.load()
    assert loaded is not None
    assert not any(name.startswith("best") for name in loaded[0])
    network = run.segmentation_network().state_dict()
    assert all(torch.equal(network[k], loaded[0][f"segmentation/{k}"]) for k in network)


def test_hidden_labels_and_test_scans_do_not_reach_training(
    cohort: Path, own_cohort: Path, split: Path, tmp_path: Path
) -> None:
    """Other labels where they are hidden, other voxels in a test scan: the same weights."""
    whole = train_tiny(cohort, tmp_path / "a" / "run", split=split, labelled=1)
    (known,) = whole.split["labelled"]
    hidden = [name for name in ("s00", "s01", "s02") if name != known]
    assert len(hidden) == 2
    for path in [
        *[own_cohort / "labels" / f"{name}.nii.gz" for name in hidden],
        own_cohort / "images" / "s07.nii.gz",
    ]:
        mirror(path)
    other = train_tiny(own_cohort, tmp_path / "b" / "run", split=split, labelled=1)
    assert whole.split["content"] != other.split["content"]
    assert_same_weights(whole, other)

    mirror(own_cohort / "labels" / f"{known}.nii.gz")  # and the test can fail:
    third = train_tiny(own_cohort, tmp_path / "c" / "run", split=split, labelled=1)
    with pytest.raises(AssertionError):
        assert_same_weights(whole, third)


def test_batches_hold_training_scans_alone(
    cohort: Path, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: set[str] = set()
    labelled: set[str] = set()
    draw = Batches.draw

    def spy(self: Batches, *arguments: Any) -> Any:
        batch = draw(self, *arguments)
        for scans in batch.scans.values():
            drawn.update(scans.ids)
            labelled.update(i for i, has in zip(scans.ids, scans.labelled, strict=True) if has)
        return batch

    monkeypatch.setattr(Batches, "draw", spy)
    run = train_tiny(cohort, tmp_path / "run", split=split, labelled=2)
    assert drawn == set(TRAIN)
    assert labelled == set(run.split["labelled"])


@pytest.mark.parametrize(
    ("subjects", "labelled"), [(4, 1), (3, 3), (2, 1)], ids=["one of four", "all", "one of two"]
)
@pytest.mark.parametrize("recipe", ["da", "one-shot", "baseline"])
def test_few_labels_and_no_unlabelled_scan(
    recipe: str, subjects: int, labelled: int, tmp_path: Path
) -> None:
    cohort = write_cohort(tmp_path / "cohort", subjects=subjects, labelled=labelled)
    run = train_tiny(cohort, tmp_path / "run", recipe)
    assert run.state["finished"]
    assert run.network_names() == ["segmentation", "registration"]
    assert all(line["finite"] for line in run.log() if line["event"] == "train")


def test_unsupervised_registration_sees_no_labels(cohort: Path, tmp_path: Path) -> None:
    run = train_tiny(cohort, tmp_path / "run", "voxelmorph")
    assert run.split["labelled"] == []
    assert not any("anatomy" in line.get("terms", {}) for line in run.log())
    with pytest.raises(BadInput, match="voxelmorph looks at no labels; leave --labelled out"):
        train_tiny(cohort, tmp_path / "run2", "voxelmorph", labelled=2)


# --- resuming -----------------------------------------------------------------------------------


def test_the_same_call_says_that_it_is_finished(
    baseline: RunFolder, cohort: Path, split: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = (baseline.path / "checkpoint" / "latest" / "facts.json").stat().st_mtime_ns
    train_tiny(cohort, baseline.path, "baseline", split=split)
    assert f"{baseline.path}: finished at step 12" in logged(caplog)
    assert (baseline.path / "checkpoint" / "latest" / "facts.json").stat().st_mtime_ns == before


def test_more_steps_go_on_in_the_last_stage(
    cohort: Path, split: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train_tiny(cohort, tmp_path / "run", "baseline", split=split)
    run = train_tiny(cohort, tmp_path / "run", "baseline", {"training__steps": 20}, split=split)
    assert "resumed at step 12" in logged(caplog)
    assert (run.state["step"], run.state["finished"]) == (20, True)
    assert run.state["lengths"] == [5, 15]
    assert run.state["group_steps"] == {"segmentation": 5, "registration": 15}
    assert run.config["training"]["steps"] == 20
    steps = [line["step"] for line in run.log() if line["event"] == "train"]
    assert steps == list(range(1, 21))
    with pytest.raises(BadInput, match=r"training\.steps: 20 in the run, 15 now"):
        train_tiny(cohort, tmp_path / "run", "baseline", {"training__steps": 15}, split=split)


def test_killed_while_it_was_extended_it_is_not_taken_for_finished(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration says more steps already, the state is still that of the shorter run."""
    train_tiny(cohort, tmp_path / "run", "segmentation", SHORT)

    def die(self: Trainer) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "restore", die)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(cohort, tmp_path / "run", "segmentation", {"training__steps": 5})
    run = train_tiny(cohort, tmp_path / "run", "segmentation", {"training__steps": 5})
    assert (run.state["step"], run.state["finished"]) == (5, True)


def test_a_finished_run_whose_network_is_missing_is_mended(
    baseline: RunFolder, cohort: Path, split: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(baseline.path, tmp_path / "run"))
    (out / "registration.safetensors").unlink()
    run = train_tiny(cohort, out, "baseline", split=split)
    assert_same_weights(run, baseline)
    assert lines(run) == lines(baseline)


def test_only_in_the_end_the_state_says_finished(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two networks' files: the same call writes both."""
    write = RunFolder.write_network

    def die_at_the_second(self: RunFolder, name: str, *rest: Any) -> None:
        if name == "registration":
            raise KeyboardInterrupt
        write(self, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_network", die_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(cohort, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert (run.state["finished"], run.network_names()) == (False, ["segmentation"])
    train_tiny(cohort, run.path)
    assert (run.state["finished"], len(run.network_names())) == (True, 2)


@pytest.mark.parametrize(
    "leftover", [["lock"], ["lock", "plan.json", "split.json", ".partial-1-2-config.yaml"]]
)
def test_what_a_killed_beginning_left_is_no_obstacle(
    leftover: list[str], cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in leftover:
        (out / name).write_text('{"from": "another cohort"')
    run = train_tiny(cohort, out, "segmentation", SHORT)
    assert run.state["finished"]
    assert not list(out.glob(".partial*"))


def test_a_folder_of_something_else_is_left_alone(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    for out in (tmp_path / "out", tmp_path / "out" / "letter.txt"):
        with pytest.raises(BadInput, match="neither empty nor a run folder"):
            train_tiny(cohort, out)
    assert (tmp_path / "out" / "letter.txt").read_text() == "dear"


# --- refusing -----------------------------------------------------------------------------------


def test_other_words_about_a_recipe_are_no_change(
    baseline: RunFolder, cohort: Path, split: Path
) -> None:
    train_tiny(cohort, baseline.path, "baseline", {"about": "the same, better said"}, split=split)


def test_levels_computed_again_change_no_weight(
    baseline: RunFolder, cohort: Path, split: Path, tmp_path: Path
) -> None:
    again = {"training__recompute": True}
    train_tiny(cohort, baseline.path, "baseline", again, split=split)  # no other run
    spared = train_tiny(cohort, tmp_path / "run", "baseline", again, split=split)
    assert spared.recipe.training.recompute
    assert_same_weights(baseline, spared)


@pytest.mark.parametrize(
    ("settings", "arguments", "says"),
    [
        ({}, {"seed": 1}, "seed: 0 in the run, 1 now"),
        ({"training__checkpoint_minutes": 1.0}, {}, r"training\.checkpoint_minutes: 60\.0 .* 1\.0"),
        ({"networks__segmentation__features": [4, 6]}, {}, r"features: \[4, 8\].*\[4, 6\] now"),
        ({"stages__registration__task__anatomy_weight": 1.0}, {}, r"stages\.1\.task\.anatomy"),
        ({"data__align": "world"}, {}, r"data\.align: centre in the run, world now"),
        ({}, {"labelled": 1}, r"split\.labelled: \[s00, s01, s02\] in the run, \[s0.\] now"),
        ({}, {"split": None}, r"split\.validation: \[s03, s04\] in the run, \[\] now"),
        ({}, {"recipe": "da"}, r"name: baseline in the run, da now"),
    ],
)
def test_any_other_change_is_refused(
    settings: dict[str, Any], arguments: dict[str, Any], says: str, baseline: RunFolder,
    cohort: Path, split: Path,
) -> None:  # fmt: skip
    given: dict[str, Any] = {"recipe": "baseline", "split": split, **arguments}
    with pytest.raises(BadInput, match=says) as caught:
        train_tiny(cohort, baseline.path, settings=settings, **given)
    assert "give another --out" in str(caught.value)


def test_a_scan_that_has_come_or_gone_is_named(own_cohort: Path, tmp_path: Path) -> None:
    train_tiny(own_cohort, tmp_path / "run", "segmentation", SHORT)
    (own_cohort / "images" / "s07.nii.gz").rename(own_cohort / "images" / "s99.nii.gz")
    with pytest.raises(BadInput, match=r"split\.train: s07 only in the run, s99 only now"):
        train_tiny(own_cohort, tmp_path / "run", "segmentation", SHORT)


@pytest.mark.parametrize("kind", ["images", "labels"])
def test_a_file_that_has_changed_is_named(kind: str, own_cohort: Path, tmp_path: Path) -> None:
    train_tiny(own_cohort, tmp_path / "run", "segmentation", SHORT)
    path = own_cohort / kind / "s01.nii.gz"
    mirror(path)
    with pytest.raises(BadInput, match=f"{kind}/s01.nii.gz: has changed since") as caught:
        train_tiny(own_cohort, tmp_path / "run", "segmentation", {"training__steps": 5})
    assert len(caught.value.faults) == 1
    mirror(path)
    train_tiny(own_cohort, tmp_path / "run", "segmentation", {"training__steps": 5})


def test_a_hidden_label_may_change(own_cohort: Path, split: Path, tmp_path: Path) -> None:
    run = train_tiny(own_cohort, tmp_path / "run", "segmentation", SHORT, split=split, labelled=1)
    (known,) = run.split["labelled"]
    hidden = next(name for name in ("s00", "s01") if name != known)
    mirror(own_cohort / "labels" / f"{hidden}.nii.gz")
    more = {"training__steps": 5}
    run = train_tiny(own_cohort, run.path, "segmentation", more, split=split, labelled=1)
    assert run.state["step"] == 5


def test_too_few_scans_are_refused_before_anything_is_written(cohort: Path, tmp_path: Path) -> None:
    parts = {"train": ["s06"], "validation": ["s03"]}
    split = write_split(tmp_path / "split.json", **parts)
    with pytest.raises(BadInput) as caught:
        train_tiny(cohort, tmp_path / "run", split=split)
    assert len(caught.value.faults) == 2
    assert "no training scan has a label file" in str(caught.value)
    assert "one scan is left for training (s06)" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_cohort_without_labels(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", subjects=3, labelled=0)
    with pytest.raises(BadInput, match="voxelmorph"):
        train_tiny(cohort, tmp_path / "run", "da")
    assert train_tiny(cohort, tmp_path / "run", "voxelmorph", SHORT).state["finished"]


def test_a_single_scan(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", subjects=1, labelled=1)
    with pytest.raises(BadInput, match="recipe `segmentation`"):
        train_tiny(cohort, tmp_path / "run", "da")
    assert train_tiny(cohort, tmp_path / "run", "segmentation", SHORT).state["finished"]


def test_deterministic_training_is_for_the_cpu(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepatlas.run.train.choose_device", torch.device)
    with pytest.raises(BadInput, match="use --device cpu"):
        train_tiny(cohort, tmp_path / "run", device="cuda")


def test_the_split_of_a_run_is_a_split_for_the_next(
    baseline: RunFolder, cohort: Path, tmp_path: Path
) -> None:
    own = baseline.path / "split.json"
    run = train_tiny(cohort, tmp_path / "run", "segmentation", SHORT, split=own)
    assert run.split == baseline.split


# --- what is refused, written and told --------------------------------------------------------


def test_mirrored_classes_must_exist(cohort: Path, split: Path, tmp_path: Path) -> None:
    settings = {
        "stages__segmentation__task__augment__flip_axis": 0,
        "stages__segmentation__task__augment__flip_pairs": [[17, 53]],
    }
    with pytest.raises(BadInput, match="not classes of this cohort; classes are numbered 1: "):
        train_tiny(cohort, tmp_path / "run", "segmentation", settings=settings, split=split)


# --- what it leaves -----------------------------------------------------------------------------


def test_no_name_depends_on_the_clock_and_the_files_read_back(
    baseline: RunFolder, cohort: Path
) -> None:
    assert sorted(path.name for path in baseline.path.iterdir()) == [
        "checkpoint", "config.yaml", "environment.json", "lock", "log.jsonl", "plan.json",
        "registration.safetensors", "segmentation.safetensors", "split.json", "state.json",
    ]  # fmt: skip
    assert baseline.recipe.name == "baseline"
    assert baseline.split["cohort"] == str(cohort.resolve())
    assert set(baseline.split["content"]) == {f"s{k:02d}" for k in range(8)}
    assert set(baseline.split["label_content"]) == {f"s{k:02d}" for k in range(5)}
    assert baseline.state["stage"] == "registration"
    for name in ("plan", "split", "environment", "state"):
        json.loads((baseline.path / f"{name}.json").read_text())


def test_nothing_is_written_into_the_cohort(cohort: Path) -> None:
    assert sorted(path.name for path in cohort.iterdir()) == ["images", "labels"]


def test_progress_is_told(cohort: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    train_tiny(
        cohort, tmp_path / "run", "segmentation", SHORT,
        progress=lambda what, done, total, line: told.append((what, done, total)),
    )  # fmt: skip
    assert told == [
        *[("prepare", k, 8) for k in range(1, 9)],
        *[("train", k, 3) for k in (1, 2, 3)],
    ]
