"""Files are whole or absent, and a full disk is told about in one sentence."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from deepatlas.errors import DeepAtlasError
from deepatlas.io import atomic


def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    atomic.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError), atomic.replacing(path) as aside:
        aside.write_text("new \N{GREEK SMALL LETTER ALPHA}", encoding="ascii")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_until_the_end_a_reader_sees_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    atomic.write_bytes(path, b"old")
    with atomic.replacing(path) as aside:
        aside.write_bytes(b"new")
        assert aside.parent == path.parent
        assert aside.suffix == ".png"  # writers that choose a format by the name still do
        assert aside.name.startswith(".")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "a" / "b" / "c.txt", "text")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"


def test_json_takes_arrays_and_has_no_nan(tmp_path: Path) -> None:
    value = {
        "mean": np.float64(0.5),
        "n": np.int64(3),
        "nothing": float("nan"),
        "list": (1, torch.tensor([1.5, float("inf")])),
        7: Path("a") / "b",
        "ä": None,
    }
    atomic.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {
        "mean": 0.5,
        "n": 3,
        "nothing": None,
        "list": [1, [1.5, None]],
        "7": str(Path("a") / "b"),
        "ä": None,
    }


def test_text_is_written_as_given(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "x.txt", "one\ntwo\n")
    assert (tmp_path / "x.txt").read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("at", ["write", "flush"])
def test_a_full_disk_says_where_and_how_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = (Path, "write_bytes") if at == "write" else (os, "fsync")
    monkeypatch.setattr(*target, full)
    with pytest.raises(DeepAtlasError) as caught:
        atomic.write_bytes(tmp_path / "scan.nii", b"x" * 2_500_000)
    message = str(caught.value)
    assert str(tmp_path / "scan.nii") in message
    assert "the disk is full" in message
    assert "2.5 MB" in message
    assert list(tmp_path.iterdir()) == []


def test_a_device_without_room_says_so() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this platform has no /dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        Path("/dev/full").write_bytes(b"x")
    assert "disk is full" in str(atomic._explain(caught.value, Path("/dev/full"), 1))


def test_a_folder_that_is_a_file_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DeepAtlasError, match="cannot be written"):
        atomic.write_text(tmp_path / "out" / "x.txt", "text")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic.replacing(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / f"{atomic.PARTIAL}1-1-a", tmp_path / f"{atomic.PARTIAL}2-2-b"
    for path in (old, new, tmp_path / "kept"):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - 100,) * 2 if path != new else None)
    atomic.remove_leftovers(tmp_path, older_than_s=50)
    atomic.remove_leftovers(tmp_path / "missing", older_than_s=50)
    assert sorted(p.name for p in tmp_path.iterdir()) == [new.name, "kept"]
