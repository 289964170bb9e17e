"""A full disk ends a command with one sentence; the checkpoint before stays, and it resumes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Server
from test_signals import command
from tiny import assert_same_weights, train_tiny

from deepatlas.run.folder import RunFolder

OFTEN = {"training__checkpoint_minutes": 0.0}


@pytest.mark.parametrize("full", [8, 60, 100, 150])
def test_a_disk_that_fills_up(full: int, server: Server, cohort: Path, tmp_path: Path) -> None:
    whole = train_tiny(cohort, tmp_path / "whole" / "run", "segmentation", OFTEN)
    out = tmp_path / "full" / "run"
    (tmp_path / "whole" / "cache").rename(tmp_path / "cache")
    argv = [*command(cohort, out, **OFTEN), "--cache", str(tmp_path / "cache")]
    ended = server.command(*argv, full=full)
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    assert ended.output.count("deepatlas train:") == 1
    assert f"{out}" in ended.output
    assert "the disk is full" in ended.output
    assert "make room" in ended.output
    assert not list(out.rglob(".partial-*"))
    assert server.command(*argv).code == 0
    assert_same_weights(RunFolder(out), whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(
    small_disk: Path, server: Server, cohort: Path, tmp_path: Path
) -> None:
    run = RunFolder(small_disk / "run")
    cache = ["--cache", str(tmp_path / "cache")]
    short = [*command(cohort, run.path, training__steps=6), *cache]
    long = [*command(cohort, run.path, training__steps=9), *cache]
    assert server.command(*short).code == 0
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(1_000_000))
    ended = server.command(*long)
    assert ended.code == 2, ended.output
    assert "Traceback" not in ended.output
    assert f"{run.path}" in ended.output
    assert "full" in ended.output
    assert run.checkpoints.load()[1]["step"] == 6
    assert run.segmentation_network() is not None
    ballast.unlink()
    assert server.command(*long).code == 0
    assert (run.state["step"], run.state["finished"]) == (9, True)
