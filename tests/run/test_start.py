"""`train` from the networks of another run (`--init`): what is taken, recorded, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    SHORT,
    logged,
    train_tiny,
    write_cohort,
    write_split,
)

from deepatlas.errors import BadInput
from deepatlas.io.images import read_labels, write_labels
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import ancestors
from deepatlas.spatial.geometry import Volume
from deepatlas.training.trainer import Trainer


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
