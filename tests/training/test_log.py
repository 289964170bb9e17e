"""The log is cut back when a run resumes, and survives torn lines and odd numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from deepatlas.errors import DeepAtlasError
from deepatlas.training.log import Log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.jsonl")


def test_what_was_written_is_read(log: Log) -> None:
    assert log.read() == []
    log.write(event="train", step=1, terms={"similarity": 0.5})
    log.write(event="note", text="ä \u2028 line")
    assert log.read() == [
        {"event": "train", "step": 1, "terms": {"similarity": 0.5}},
        {"event": "note", "text": "ä \u2028 line"},
    ]


def test_numbers_that_json_does_not_know_become_null(log: Log) -> None:
    log.write(total=float("nan"), terms={"anatomy": float("inf"), "similarity": 1.0})
    assert "NaN" not in log.path.read_text()
    assert log.read() == [{"total": None, "terms": {"anatomy": None, "similarity": 1.0}}]


def test_a_torn_line_is_left_out_and_gone_after_a_cut(log: Log) -> None:
    log.write(event="train", step=1)
    with log.path.open("a") as file:
        file.write('{"event": "train", "st')
    assert [event["step"] for event in log.read()] == [1]
    log.cut(1)
    log.write(event="train", step=2)
    assert [event["step"] for event in log.read()] == [1, 2]


def test_a_cut_keeps_what_the_checkpoint_knows(log: Log) -> None:
    log.write(event="stage", stage="first", step=0)
    for step in range(1, 5):
        log.write(event="train", stage="first", step=step)
    log.write(event="validation", step=4)
    log.write(event="stage", stage="second", step=4)
    log.write(event="train", stage="second", step=5)
    log.cut(4)
    kept = [(event["event"], event["step"]) for event in log.read()]
    assert kept == [("stage", 0), *[("train", k) for k in range(1, 5)], ("validation", 4)]
    log.clear()
    assert log.read() == []
    log.clear()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_no_room_is_an_error_in_words(log: Log) -> None:
    log.path.symlink_to("/dev/full")
    with pytest.raises(DeepAtlasError, match=r"log.jsonl: cannot be written .*make room"):
        log.write(event="train", step=1)


def test_lines_are_json(log: Log) -> None:
    log.write(event="train", step=1)
    assert json.loads(log.path.read_text()) == {"event": "train", "step": 1}
