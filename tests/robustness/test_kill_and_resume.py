"""`kill -9` at any moment: the same call resumes, and the weights are those without the kill."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forked import Server, wait_for
from tiny import assert_same_weights, lines

from deepatlas.run.folder import RunFolder

SPLIT = {"train": ["s00", "s01", "s02", "s05", "s06", "s07"], "validation": ["s03", "s04"]}

OFTEN = {"training__checkpoint_minutes": 0.0}


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny import write_split

    return write_split(tmp_path_factory.mktemp("split") / "split.json", **SPLIT)


@pytest.fixture(scope="session")
def whole(
    server: Server, cohort: Path, split: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, int]:
    """An uninterrupted run, and how often it touched the disk."""
    out = tmp_path_factory.mktemp("whole") / "run"
    ended = server.train(cohort=cohort, out=out, split=split, settings=OFTEN)
    assert ended.code == 0, ended.output
    return RunFolder(out), ended.touches


def check_killed(server: Server, whole: RunFolder, die: int, when: str, **arguments: Any) -> None:
    """Kill a run at a touch of the disk, resume it, and compare it with the uninterrupted one."""
    killed = server.train(die=die, when=when, **arguments)
    assert killed.code == -signal.SIGKILL, killed.output
    run = RunFolder(arguments["out"])
    done = max((line["step"] for line in lines(run) if line["event"] == "train"), default=0)
    finished = (run.path / "state.json").exists() and run.state["finished"]
    resumed = server.train(**arguments)
    assert resumed.code == 0, resumed.output
    notes = [event["step"] for event in run.log() if event["event"] == "note"]
    assert finished or max(notes, default=0) >= done - 1  # there is a checkpoint after each step
    check_same(run, whole)
    assert not list(run.path.rglob(".partial-*"))


def check_same(run: RunFolder, whole: RunFolder) -> None:
    """The same weights, log and state but for times."""
    assert_same_weights(run, whole)
    assert lines(run) == lines(whole)
    assert timeless(run.state) == timeless(whole.state)


def timeless(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if "seconds" not in key}


def test_an_uninterrupted_run_is_whole(whole: tuple[RunFolder, int]) -> None:
    run, touches = whole
    assert run.state["finished"]
    assert run.state["step"] == 12
    assert touches > 100
    assert sorted(path.name for path in run.path.iterdir()) == [
        "checkpoint", "config.yaml", "environment.json", "lock", "log.jsonl", "plan.json",
        "registration.safetensors", "segmentation.safetensors", "split.json", "state.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("share", "when"),
    [
        (0.0, "after"), (0.03, "halfway"), (0.07, "before"), (0.33, "halfway"), (0.5, "before"),
        (0.7, "halfway"), (0.97, "before"), (0.985, "after"), (1.0, "before"), (1.0, "after"),
    ],
)  # fmt: skip
def test_killed_at_some_moments(
    share: float, when: str, server: Server, whole: tuple[RunFolder, int], cohort: Path,
    split: Path, tmp_path: Path,
) -> None:  # fmt: skip
    run, touches = whole
    die = 1 + round(share * (touches - 1))
    out = tmp_path / "run"
    check_killed(server, run, die, when, cohort=cohort, out=out, split=split, settings=OFTEN)


@pytest.mark.slow
def test_killed_at_every_touch_of_the_disk(
    server: Server, cohort: Path, split: Path, tmp_path: Path
) -> None:
    arguments = {"cohort": cohort, "split": split, "settings": {**OFTEN, "training__steps": 3}}
    whole = server.train(out=tmp_path / "whole" / "run", **arguments)
    for die in range(1, whole.touches + 1):
        for when in ("before", "halfway", "after"):
            out = tmp_path / f"{die}-{when}" / "run"
            check_killed(
                server, RunFolder(tmp_path / "whole" / "run"), die, when, out=out, **arguments
            )
            shutil.rmtree(out.parent)


@pytest.mark.parametrize("network", ["unet", "tiny:Dropping"])
def test_killed_several_times_at_any_time(
    network: str, server: Server, cohort: Path, split: Path, tmp_path: Path
) -> None:
    """From outside, in mid-step; the second network draws random numbers and keeps statistics."""
    settings: dict[str, Any] = {"training__steps": 60, "training__checkpoint_minutes": 0.002}
    if network != "unet":
        outside = {"kind": network, "ndim": "{ndim}", "classes": "{classes}"}
        settings["networks__segmentation"] = outside
    arguments = {"cohort": cohort, "split": split, "settings": settings, "recipe": "segmentation"}
    whole = server.train(out=tmp_path / "whole" / "run", **arguments)
    assert whole.code == 0, whole.output
    run = RunFolder(tmp_path / "cut" / "run")
    codes = []
    for step in (9, 17, 31):
        pid = server.begin(train={"out": run.path, **arguments})
        wait_for(lambda step=step: any(line.get("step") == step for line in run.log()))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        codes.append(server.end().code)
    assert -signal.SIGKILL in codes
    last = server.train(out=run.path, **arguments)
    assert last.code == 0, last.output
    check_same(run, RunFolder(tmp_path / "whole" / "run"))
