"""Trainings on scans that say nothing of some structures or voxels, and on groups of values."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SHAPES, assert_same_weights, lines, train_tiny, write_cohort
from torch import Tensor

from deepatlas.data.phantom import Phantom
from deepatlas.errors import BadInput
from deepatlas.evaluation.dice import dice
from deepatlas.inference.scoring import evaluate
from deepatlas.inference.segment import segment
from deepatlas.inference.session import Session
from deepatlas.io.images import read_labels, write_labels
from deepatlas.spatial.geometry import Volume
from deepatlas.training.trainer import Stopped

KEPT, PARTLY = 2, 3  # of the phantom's structures, the two large ones
IGNORED = -250
FAST = {
    "training__steps": 60,
    "training__validations": 0,
    "stages__segmentation__optimisers__segmentation": {"rate": 0.02, "average": 0.9},
}


def truth(ndim: int, number: int) -> Volume:
    """What `write_cohort` drew, of two structures."""
    labels = Phantom(seed=3, shape=SHAPES[ndim]).subject(number).labels
    return Volume(torch.where((labels.data == KEPT) | (labels.data == PARTLY), labels.data, 0),
                  labels.geometry)  # fmt: skip


def relabel(root: Path, ndim: int, number: int, change: dict[int, int]) -> None:
    """Write a scan's true labels with some values in place of others."""
    volume = truth(ndim, number)
    labels: Tensor = volume.data.clone()
    for value, other in change.items():
        labels[volume.data == value] = other
    path = root / "labels" / f"s{number:02d}.nii.gz"
    write_labels(path, Volume(labels, volume.geometry), "int16")


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_structure_annotated_in_one_scan_is_learnt_and_elsewhere_not_unlearnt(
    ndim: int, tmp_path: Path
) -> None:
    """Three of four label maps have 0 where the structure is: told so, the network finds it."""
    root = write_cohort(tmp_path / "cohort", ndim=ndim, subjects=6, labelled=4)
    relabel(root, ndim, 0, {})
    for number in (1, 2, 3):
        relabel(root, ndim, number, {PARTLY: 0})
    partial = tmp_path / "partial.json"
    partial.write_text(json.dumps({f"s{number:02d}": [KEPT] for number in (1, 2, 3)}))
    found = {}
    for name, annotated in (("told", partial), ("not told", None)):
        run = train_tiny(root, tmp_path / name, "segmentation", FAST, annotated=annotated)
        session = Session(run)
        scores = [
            dice(session.segment(root / "images" / f"s{number:02d}.nii.gz").data,
                 truth(ndim, number).data, [KEPT, PARTLY])
            for number in range(1, 6)
        ]  # fmt: skip
        found[name] = {v: sum(s[v] for s in scores) / len(scores) for v in (KEPT, PARTLY)}
    assert found["told"][PARTLY] > 0.4
    assert found["told"][PARTLY] > found["not told"][PARTLY] + 0.2
    assert found["told"][KEPT] > found["not told"][KEPT] - 0.2


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    """Slices of which some structures were not annotated, and some voxels are ignored."""
    root = write_cohort(tmp_path / "cohort", subjects=6, labelled=4)
    relabel(root, 2, 0, {})
    relabel(root, 2, 1, {KEPT: IGNORED})
    relabel(root, 2, 2, {PARTLY: 0})
    relabel(root, 2, 3, {PARTLY: IGNORED, KEPT: 0})
    (root / "annotations.json").write_text(json.dumps({"s02": [KEPT], "s03": [PARTLY]}))
    return root


PIECES: dict[str, Any] = {
    "training__steps": 24,
    "data__ignore_value": IGNORED,
    "stages__joint__task__registration_steps": 2,
    "stages__joint__task__overlap": "dice_ce",
    "stages__joint__task__anatomy": "dice_ce",
    "stages__joint__task__atlases": 3,
    "stages__joint__task__labelled_pairs": 0.0,
}


def test_interrupted_and_resumed_it_is_the_same_run(partial: Path, tmp_path: Path) -> None:
    """All cases of joint training on partial labels; deterministic, whatever stops it."""
    whole = train_tiny(partial, tmp_path / "whole" / "run", "da", PIECES)

    def stop(what: str, step: int, of: int, line: Any) -> None:
        if what == "train" and step in (5, 17):
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):
        with pytest.raises(Stopped):
            train_tiny(partial, tmp_path / "run", "da", PIECES, progress=stop)
    run = train_tiny(partial, tmp_path / "run", "da", PIECES)
    assert all(line["finite"] for line in run.log() if line["event"] == "train")
    assert_same_weights(run, whole)
    assert lines(run) == lines(whole)
    assert run.plan.ignored == (IGNORED,)
    assert run.plan.label_values == (KEPT, PARTLY)
    assert run.split["annotated"] == {"s02": [KEPT], "s03": [PARTLY]}


def test_structures_that_no_label_map_teaches_are_told(
    partial: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({"kept": [KEPT], "lost": [77]}))
    few = {"training__steps": 1, "data__ignore_value": IGNORED}
    train_tiny(partial, tmp_path / "one", "segmentation", few, label_groups=groups)
    assert "of the 4 label maps that training uses none has lost, annotated there" in caplog.text
    groups.write_text(json.dumps({"lost": [77]}))
    said = tmp_path / "said.json"
    said.write_text(json.dumps({f"s{n:02d}": [77] for n in range(4)}))
    for name, options in (("groups", {"label_groups": groups}), ("said", {"annotated": said})):
        with pytest.raises(BadInput, match="label maps that training uses none has"):
            train_tiny(partial, tmp_path / name, "segmentation", few, **options)
        assert not (tmp_path / name / "config.yaml").exists()


def test_other_annotations_are_another_run(partial: Path, tmp_path: Path) -> None:
    short = {**PIECES, "training__steps": 2}
    train_tiny(partial, tmp_path / "run", "da", short)
    (partial / "annotations.json").unlink()
    with pytest.raises(BadInput, match=r"split\.annotated\.s02: \[2\] in the run, nothing now"):
        train_tiny(partial, tmp_path / "run", "da", short)


def test_a_group_is_a_structure_from_training_to_scores(
    partial: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="deepatlas")
    path = tmp_path / "groups.json"
    sets = {
        "mine": [{"id": 40, "name": "part", "values": [PARTLY, 77]}],
        "whole": {"both": [KEPT, PARTLY], "ignore": [IGNORED]},
    }
    path.write_text(json.dumps(sets))
    settings = {**FAST, "data__ignore_value": IGNORED}
    (partial / "annotations.json").write_text(json.dumps({"s02": [KEPT], "s03": [PARTLY, 77]}))
    run = train_tiny(partial, tmp_path / "run", "segmentation", settings, label_groups=path)
    assert "label values in no group, which are background: 2" in caplog.text
    assert "left out of losses and scores of the others: part (3 of 4)" in caplog.text
    assert run.plan.members == {40: (PARTLY, 77)}
    assert run.plan.class_names == ("part",)
    assert run.config["data"]["label_groups"] == [
        {"id": 40, "name": "part", "values": [PARTLY, 77]}
    ]
    with pytest.raises(BadInput, match=r"data\.label_groups"):
        train_tiny(
            partial, tmp_path / "run", "segmentation", settings, label_groups=f"{path}:whole"
        )
    (written,) = segment(run, [partial / "images" / "s04.nii.gz"], out=tmp_path / "out")
    assert read_labels(written)[0].data.unique().tolist() == [0, 40]
    relabel(partial, 2, 4, {PARTLY: 77})
    summary = evaluate(run, partial, tmp_path / "scores")
    part = summary["groups"]["segmentation"]["part"]["dice"]
    assert (part["n"], part["mean"] > 0.4) == (1, True)
    again = train_tiny(
        partial, tmp_path / "next", "segmentation", {"training__steps": 2}, init=run.path
    )
    assert "scores of the others: part (4 of 5)" in again.plan.label_notes[0]  # of the maps now
    assert replace(again.plan, label_notes=run.plan.label_notes) == run.plan
    with pytest.raises(BadInput, match="take other data settings back"):
        train_tiny(
            partial, tmp_path / "other", "segmentation", FAST, init=run.path,
            label_groups=f"{path}:whole",
        )  # fmt: skip
