"""`train` on tiny cohorts: what is learned from, resumed, extended, refused."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same_weights, lines, train_tiny, write_cohort, write_split

from deepatlas.data.batches import Batches
from deepatlas.errors import BadInput
from deepatlas.io.images import read_image, read_labels, write_image, write_labels
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import ancestors
from deepatlas.spatial.geometry import Volume
from deepatlas.training.trainer import Trainer

TRAIN = ["s00", "s01", "s02", "s05", "s06"]
SHORT = {"training__steps": 3}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "split.json"
    return write_split(path, train=TRAIN, validation=["s03", "s04"], test=["s07"])


@pytest.fixture(scope="module")
def baseline(cohort: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with both networks."""
    return train_tiny(cohort, tmp_path_factory.mktemp("first") / "run", "baseline", split=split)


@pytest.fixture
def own_cohort(cohort: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(cohort, tmp_path / "cohort"))


def mirror(path: Path) -> None:
    """Other voxels under the same header; twice gives the same bytes again."""
    image = read_image(path) if path.parent.name == "images" else read_labels(path)[0]
    mirrored = Volume(image.data.flip(0), image.geometry)
    if path.parent.name == "images":
        write_image(path, mirrored, like=path)
    else:
        write_labels(path, mirrored, "uint8", like=path)


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.fixture(autouse=True)
def hear(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="deepatlas")


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


# --- starting from another run ------------------------------------------------------------------


def test_from_a_finished_run(
    baseline: RunFolder, cohort: Path, split: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    starts: list[dict[str, torch.Tensor]] = []
    begin = Trainer.run

    def spy(self: Trainer) -> None:
        state = self.networks.state_dict()
        starts.append({name: tensor.clone() for name, tensor in state.items()})
        begin(self)

    monkeypatch.setattr(Trainer, "run", spy)
    run = train_tiny(cohort, tmp_path / "run", "da", split=split, init=baseline.path)
    for name in ("segmentation", "registration"):
        for key, tensor in baseline.network(name).state_dict().items():
            assert torch.equal(starts[0][f"{name}.{key}"], tensor)
    assert [stage["name"] for stage in run.config["stages"]] == ["joint"]
    assert run.config["init"] == str(baseline.path.resolve())
    assert run.state["step"] == 12
    assert run.plan == baseline.plan
    again = train_tiny(cohort, tmp_path / "run", "da", split=split, init=baseline.path)
    assert again.state["finished"]
    with pytest.raises(BadInput, match=r"init: .* in the run, nothing now"):
        train_tiny(cohort, tmp_path / "run", "da", split=split)


@pytest.mark.parametrize(("recipe", "labelled", "said"), [
    ("weak", 1, True), ("baseline", 1, True), ("weak", 2, False), ("one-shot", 1, False),
])  # fmt: skip
def test_registration_that_cannot_learn_from_labels_says_so(
    cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    recipe: str, labelled: int, said: bool,
) -> None:  # fmt: skip
    train_tiny(cohort, tmp_path / "run", recipe, SHORT, labelled=labelled)
    assert ("learns from images alone" in logged(caplog)) is said


def test_from_a_run_with_one_network_the_other_is_still_pretrained(
    cohort: Path, split: Path, tmp_path: Path
) -> None:
    wide = {"data__shape": [40, 40]}
    first = train_tiny(cohort, tmp_path / "first", "voxelmorph", wide, split=split)
    run = train_tiny(cohort, tmp_path / "run", "da", split=split, init=first.path)
    assert [stage["name"] for stage in run.config["stages"]] == ["segmentation", "joint"]
    assert run.plan.shape == (40, 40)  # prepared as the run that it starts from
    assert run.recipe.data == first.recipe.data


def test_scans_are_prepared_as_in_the_run_that_is_started_from(
    baseline: RunFolder, tmp_path: Path
) -> None:
    """Also those of another cohort, for which the grid would be another one."""
    cohort = write_cohort(tmp_path / "cohort", subjects=3, labelled=2, shape=(36, 30))
    run = train_tiny(cohort, tmp_path / "run", "da", SHORT, init=baseline.path)
    assert run.plan == baseline.plan
    alone = train_tiny(cohort, tmp_path / "alone", "voxelmorph", SHORT)
    assert alone.plan != baseline.plan


def test_structures_are_those_of_the_cohort_where_the_start_knows_none(
    cohort: Path, tmp_path: Path
) -> None:
    """Registration learnt without a label; groups may be given as in any run, and resumed with."""
    unlabelled = write_cohort(tmp_path / "unlabelled", labelled=0, shape=(36, 30))
    first = train_tiny(unlabelled, tmp_path / "first", "voxelmorph", {"data__align": "world"})
    assert first.plan.label_values == ()
    run = train_tiny(cohort, tmp_path / "run", "da", SHORT, init=first.path)
    alone = train_tiny(cohort, tmp_path / "alone", "segmentation", SHORT)
    assert run.plan.label_values == alone.plan.label_values != ()
    assert run.plan.class_names == alone.plan.class_names
    assert (run.plan.shape, run.plan.align) == (first.plan.shape, "world")
    groups = tmp_path / "groups.json"
    values = list(run.plan.label_values)
    groups.write_text(json.dumps([{"id": 1, "name": "all", "values": values}]))
    for steps in (3, 4):
        grouped = train_tiny(
            cohort, tmp_path / "grouped", "da", {"training__steps": steps}, init=first.path,
            label_groups=groups,
        )  # fmt: skip
    assert (grouped.plan.class_names, grouped.plan.align) == (("all",), "world")


def test_notes_on_labels_are_of_the_cohort_that_is_trained_on(
    own_cohort: Path, cohort: Path, tmp_path: Path
) -> None:
    path = own_cohort / "labels" / "s00.nii.gz"
    labels = read_labels(path)[0]
    half = Volume(labels.data * (labels.data == labels.data.max()), labels.geometry)
    write_labels(path, half, "uint8", like=path)
    first = train_tiny(own_cohort, tmp_path / "first", "segmentation", SHORT)
    (note,) = first.plan.label_notes
    assert "does not occur in every label map" in note
    run = train_tiny(cohort, tmp_path / "run", "da", SHORT, init=first.path)
    assert run.plan == replace(first.plan, label_notes=())


def test_a_start_that_does_not_fit_is_refused(
    baseline: RunFolder, cohort: Path, split: Path, tmp_path: Path
) -> None:
    def start(**settings: Any) -> RunFolder:
        return train_tiny(
            cohort, tmp_path / "run", settings=settings, split=split, init=baseline.path
        )

    with pytest.raises(BadInput, match=r"its segmentation network is .*\[4, 8\].*\[4, 6\]"):
        start(networks__segmentation__features=[4, 6])
    with pytest.raises(BadInput, match="prepared as in the run that is started from"):
        start(data__align="world")
    with pytest.raises(BadInput, match="not a run folder"):
        train_tiny(cohort, tmp_path / "run", init=cohort)
    unfinished = RunFolder(tmp_path / "unfinished")
    unfinished.write_config(baseline.recipe)
    with pytest.raises(BadInput, match="finish its training first"):
        train_tiny(cohort, tmp_path / "run", init=unfinished.path)
    assert not (tmp_path / "run").exists()


def test_a_start_that_is_being_extended_is_refused(
    cohort: Path, split: Path, tmp_path: Path
) -> None:
    start = train_tiny(cohort, tmp_path / "start", "baseline", split=split)
    start.write("state.json", {**start.state, "finished": False})
    with pytest.raises(BadInput, match="its training is not finished"):
        train_tiny(cohort, tmp_path / "run", split=split, init=start.path)


def test_resuming_needs_no_start(
    cohort: Path, split: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Moved or gone: the checkpoint holds all weights, and what the start had seen is kept."""
    start = train_tiny(cohort, tmp_path / "start", "baseline", split=split)

    def go(init: Path, **settings: Any) -> RunFolder:
        return train_tiny(cohort, tmp_path / "run", settings=settings, split=split, init=init)

    run = go(start.path)
    assert [(one.path, one.split) for one in ancestors(run)] == [(start.path, start.split)]
    moved = start.path.rename(tmp_path / "moved")
    assert go(start.path).state["step"] == 12  # finished
    assert go(start.path, training__steps=14).state["step"] == 14
    assert go(moved, training__steps=16).state["step"] == 16
    assert "resumed at step 14" in logged(caplog)
    assert [one.path for one in ancestors(run)] == [start.path]
    other = train_tiny(cohort, tmp_path / "other", "baseline", {"seed": 5}, split=split)
    with pytest.raises(BadInput, match=r"init: .*start in the run, .*other now"):
        go(other.path, training__steps=18)
    shutil.rmtree(run.path / "checkpoint")
    with pytest.raises(BadInput, match="not a run folder"):
        go(start.path, training__steps=18)


def test_scans_set_aside_that_the_start_was_trained_on_are_named(
    baseline: RunFolder, cohort: Path, split: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    train_tiny(cohort, tmp_path / "same", "da", SHORT, split=split, init=baseline.path)
    assert "the run which is started from" not in logged(caplog)
    parts = {"train": ["s05", "s06", "s02"], "validation": ["s00"], "test": ["s01", "s03"]}
    other = write_split(tmp_path / "other.json", **parts)
    train_tiny(cohort, tmp_path / "run", "da", SHORT, split=other, init=baseline.path)
    said = logged(caplog)
    assert "validation scans that the run which is started from was trained on: s00;" in said
    assert "test scans that the run which is started from has seen: s01, s03;" in said


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
