"""Cases side by side: the same files as one after another, and faults in the same order."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from test_session import PLANS, flipped, importable, make_run, oblique, write_scan

from deepatlas.errors import BadInput
from deepatlas.inference.ahead import overlapped
from deepatlas.inference.segment import segment

__all__ = ["importable"]  # a fixture


class Cases:
    """Notes what is done, and fails where it is told to."""

    def __init__(self, **fail: int) -> None:
        self.fail = fail
        self.done: list[tuple[str, int]] = []
        self.ahead = 0

    def _do(self, what: str, case: int) -> None:
        if self.fail.get(what) == case:
            raise (KeyboardInterrupt if what == "compute" else BadInput)(f"{what} {case}")
        self.done.append((what, case))

    def read(self, case: int) -> int:
        computed = [n for what, n in self.done if what == "compute"]
        self.ahead = max(self.ahead, case - len(computed))
        self._do("read", case)
        return case

    def compute(self, case: int, read: int) -> int:
        assert read == case
        self._do("compute", case)
        return case * 10

    def write(self, case: int, read: int, result: int) -> None:
        assert (read, result) == (case, case * 10)
        self._do("write", case)

    def run(self, count: int = 5) -> list[int]:
        told: list[int] = []
        overlapped(
            range(count), read=self.read, compute=self.compute, write=self.write,
            progress=lambda done, total: told.append(done),
        )  # fmt: skip
        return told

    def written(self) -> list[int]:
        return [case for what, case in self.done if what == "write"]


def test_all_is_done_in_order_and_at_most_one_ahead() -> None:
    cases = Cases()
    assert cases.run() == [1, 2, 3, 4, 5]
    for what in ("read", "compute", "write"):
        assert [case for name, case in cases.done if name == what] == [0, 1, 2, 3, 4]
    assert cases.ahead <= 1
    assert Cases().run(0) == []


def test_reading_computing_and_writing_really_go_side_by_side() -> None:
    """Each waits for the other: one after another would never end."""
    was_read, was_computed = threading.Event(), threading.Event()

    def read(case: int) -> int:
        if case == 1:
            was_read.set()
        return case

    def compute(case: int, read: int) -> int:
        if case == 0:
            assert was_read.wait(20)
        else:
            was_computed.set()
        return case

    def write(case: int, read: int, result: int) -> None:
        assert case != 0 or was_computed.wait(20)

    overlapped([0, 1], read=read, compute=compute, write=write)


@pytest.mark.parametrize("what", ["read", "compute", "write"])
def test_what_was_done_before_a_fault_stays_written(what: str) -> None:
    cases = Cases(**{what: 2})
    with pytest.raises((BadInput, KeyboardInterrupt), match=f"{what} 2"):
        cases.run()
    assert cases.written() == [0, 1]
    assert not any(thread.name.startswith("deepatlas-re") for thread in threading.enumerate())


def test_the_fault_of_the_earlier_case_comes_first() -> None:
    with pytest.raises(BadInput, match="write 1"):
        Cases(write=1, read=2).run()


def test_the_files_are_those_of_one_case_at_a_time(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    paths = []
    for number, grid in enumerate((flipped(3), oblique(3), oblique(3, 1), flipped(3))):
        paths.append(tmp_path / f"s{number}.nii.gz")
        write_scan(paths[-1], grid)
    together = segment(run, paths, out=tmp_path / "together")
    for path, target in zip(paths, together, strict=True):
        (alone,) = segment(run, [path], out=tmp_path / "alone")
        assert alone.read_bytes() == target.read_bytes()


def test_a_damaged_scan_is_named_and_the_others_before_it_are_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    paths = [tmp_path / f"s{number}.nii.gz" for number in range(4)]
    for path in paths:
        write_scan(path, oblique(3))
    paths[2].write_bytes(paths[2].read_bytes()[: paths[2].stat().st_size // 2])
    with pytest.raises(BadInput, match=r"s2\.nii\.gz: damaged or truncated"):
        segment(run, paths, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["s0.nii.gz", "s1.nii.gz"]
