"""Two scans of a pair: read side by side while the network is measured, in the memory there is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out
from test_session import PLANS, importable, make_run, oblique, write_scan

from deepatlas.data.prepare import PreparedScan
from deepatlas.errors import BadInput
from deepatlas.inference.memory import to_read
from deepatlas.inference.register import register
from deepatlas.inference.session import Session

__all__ = ["importable"]  # a fixture


def test_a_pair_may_take_what_is_free_though_reading_takes_some_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is measured while scans are read; without a limit that counts nothing twice."""
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    session = Session(make_run(tmp_path / "run", PLANS[3]))
    total = session.room.total
    monkeypatch.setattr("deepatlas.inference.memory.free_memory", lambda: 1)
    session.register(moving=path, fixed=path)
    assert session.room.total == total


def test_each_scan_of_a_pair_has_half_of_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, before = tmp_path / "scan.nii.gz", torch.get_num_threads()
    write_scan(path, oblique(3))
    session, seen, read = Session(make_run(tmp_path / "run", PLANS[3])), [], Session.read

    def watched(self: Session, image: Path) -> PreparedScan:
        seen.append(torch.get_num_threads())
        return read(self, image)

    monkeypatch.setattr(Session, "read", watched)
    torch.set_num_threads(4)
    try:
        session.register(moving=path, fixed=path)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert seen == [2, 2]


def test_a_missing_network_is_said_before_scans_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    session = Session(run)
    (run.path / "registration.safetensors").unlink()
    seen: list[Path] = []
    monkeypatch.setattr(Session, "read", lambda self, image: seen.append(image))
    with pytest.raises(BadInput, match=r"registration"):
        session.register(moving=tmp_path / "none.nii.gz", fixed=tmp_path / "none.nii.gz")
    assert not seen


def test_a_grid_too_large_for_what_is_free(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    session = Session(make_run(tmp_path / "run", PLANS[3]))
    session.__dict__["_registration_bytes"] = 1e15
    with pytest.raises(BadInput, match=r"registration on its grid .*spacing_mm"):
        session.register(moving=path, fixed=path)


def test_files_of_a_pair_are_the_same_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("a", "b")):
        write_scan(tmp_path / f"{name}.nii.gz", oblique(3, seed))
    run = make_run(tmp_path / "run", PLANS[3], std=0.2)
    pair = {"moving": tmp_path / "a.nii.gz", "fixed": tmp_path / "b.nii.gz"}
    free = register(run, **pair, out=tmp_path / "free", write="all")
    monkeypatch.setattr("deepatlas.inference.memory.used_memory", lambda: 0)
    one_scan = to_read(pair["moving"], PLANS[3].shape, aligned=True)
    tight = (100 << 20) + int(1.5 * one_scan)
    kept = register(run, **pair, out=tmp_path / "kept", write="all", max_memory=tight)
    for one, other in zip(free.files, kept.files, strict=True):
        assert one.read_bytes() == other.read_bytes()
