"""SIGTERM and Ctrl-C save first; one process at a time trains in a folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from forked import Server, wait_for
from tiny import overrides, train_tiny

from deepatlas.errors import BadInput
from deepatlas.run.folder import RunFolder

LONG: dict[str, Any] = {"training__steps": 10_000, "training__checkpoint_minutes": 60}
EVERY = 50  # th step of a long run is logged


def command(cohort: Path, out: Path, **more: Any) -> list[str]:
    settings = overrides("segmentation", **more)
    return [
        "train", str(cohort), "--out", str(out), "--recipe", "segmentation",
        "--cache", str(out.parent / "cache"), "--device", "cpu", "--threads", "1",
        "--set", *[f"{key}={value}" for key, value in settings.items()],
    ]  # fmt: skip


def last_step(run: RunFolder) -> int:
    return max((event.get("step", 0) for event in run.log()), default=0)


def test_told_to_stop_it_saves_and_the_same_command_resumes(
    server: Server, cohort: Path, tmp_path: Path
) -> None:
    run, before = RunFolder(tmp_path / "run"), 0
    argv = command(cohort, run.path, **LONG)
    for kind, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        pid = server.begin(argv=argv)
        wait_for(lambda before=before: last_step(run) > before + EVERY)
        os.kill(pid, kind)
        ended = server.end()
        step = run.state["step"]
        assert ended.code == code, ended.output
        assert f"stopped at step {step}; the same command resumes there" in ended.output
        assert (f"resumed at step {before}" in ended.output) == (before > 0)
        assert "Traceback" not in ended.output
        loaded = run.checkpoints.load()
        assert loaded is not None
        assert loaded[1]["step"] == step > before + EVERY
        before = step


def test_a_finished_run_says_so(server: Server, cohort: Path, tmp_path: Path) -> None:
    argv = command(cohort, tmp_path / "run", training__steps=3)
    assert server.command(*argv).code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = server.command(*argv)
    assert (again.code, "finished at step 3" in again.output) == (0, True)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_living_process_keeps_others_out(server: Server, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pid = server.begin(argv=command(cohort, out, **LONG))
    wait_for(lambda: last_step(RunFolder(out)) > 0)
    with pytest.raises(BadInput, match=rf"process {pid} is training here"):
        train_tiny(cohort, out, "segmentation", LONG)
    os.kill(pid, signal.SIGKILL)
    assert server.end().code == -signal.SIGKILL
    assert (out / "lock").read_text() == str(pid)
    stopped = server.begin(argv=command(cohort, out, **LONG))
    wait_for(lambda: (out / "lock").read_text() == str(stopped))
    os.kill(stopped, signal.SIGKILL)
    server.end()
