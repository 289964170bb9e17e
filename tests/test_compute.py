"""Devices and threads by name, and how much memory there is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from deepatlas.compute import (
    choose_device,
    deterministic,
    free_in_group,
    free_memory,
    in_words,
    parse_memory,
    threads_each,
    use_threads,
)
from deepatlas.errors import BadInput


@pytest.fixture
def threads() -> Iterator[int]:
    """How many threads torch has; put back afterwards."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


def test_auto_takes_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=0)
    assert choose_device() == torch.device("cpu")
    pretend(monkeypatch, gpus=1)
    assert choose_device("auto") == torch.device("cuda")


def test_named_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(BadInput, match=r"cuda:2 is not here: .* sees 2 GPUs; use --device cpu"):
        choose_device("cuda:2")


def test_threads_are_shared_until_the_end(threads: int) -> None:
    torch.set_num_threads(6)
    with threads_each(2), ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: torch.get_num_threads(), range(4))) == [3] * 4
    with pytest.raises(ZeroDivisionError), threads_each(3):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 6
    with threads_each(9):
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:x", "cuda:01", "cuda:\u0661", "cpu:", "cpu:0", "", "Auto"]
)
def test_names_of_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=2)
    with pytest.raises(BadInput, match="no device is called"):
        choose_device(name)


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus=0)
    with pytest.raises(BadInput, match="sees 0 GPUs"):
        choose_device("cuda")


def test_threads(threads: int) -> None:
    use_threads(None)
    assert torch.get_num_threads() == threads
    use_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    with pytest.raises(BadInput, match="at least 1"):
        use_threads(0)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_algorithms_end_with_their_context(before: bool, wanted: bool) -> None:
    torch.use_deterministic_algorithms(before)
    try:
        with deterministic(wanted):
            assert torch.are_deterministic_algorithms_enabled() == (wanted or before)
        assert torch.are_deterministic_algorithms_enabled() == before
    finally:
        torch.use_deterministic_algorithms(False)


GIB = 1 << 30
STAT = f"anon 5\ninactive_file {GIB}\nactive_file {GIB // 2}\n"
GROUPS = {  # what stands below the root: (limit, used, memory.stat) of each group
    "v2": ("0::/a/b\n", {"a/b": (4 * GIB, 3 * GIB, STAT), "a": ("max", 9 * GIB, STAT)}, 2.5),
    "v2, the group around is tighter": (
        "0::/a/b\n", {"a/b": (4 * GIB, 3 * GIB, STAT), "a": (9 * GIB, 8 * GIB, "")}, 1,
    ),
    "v2, the container's group is the root": (
        "0::/../host/path\n", {"": (2 * GIB, GIB, STAT)}, 2.5
    ),
    "v2, over its limit": ("0::/\n", {"": (GIB, 2 * GIB, "")}, -1),
    "v1": (
        "5:cpu,cpuacct:/x\n4:memory:/a/b\n0::/\n",
        {
            "memory/a/b": (4 * GIB, 3 * GIB, f"total_inactive_file {GIB}\ninactive_file 7\n"),
            "memory": (9223372036854771712, 9 * GIB, ""),
        },
        2,
    ),
    "v1, in a container": ("4:memory:/docker/1\n", {"memory": (4 * GIB, 3 * GIB, "")}, 1),
    "no limit": ("0::/a\n", {"a": ("max", GIB, STAT)}, None),
    "nothing": ("", {}, None),
    "nothing known": ("garbage\n\n1:x\n", {}, None),
    "a line of one word": ("0::/\n", {"": (2 * GIB, GIB, "word\nactive_file 0\n")}, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_memory_left_by_the_limits_of_groups(name: str, tmp_path: Path) -> None:
    said, groups, left = GROUPS[name]
    (tmp_path / "cgroup").write_text(said)
    for place, (limit, used, stat) in groups.items():
        folder = tmp_path / "fs" / place
        folder.mkdir(parents=True, exist_ok=True)
        first = place.startswith("memory")
        names = ("limit_in_bytes", "usage_in_bytes") if first else ("max", "current")
        for end, text in zip((*names, "stat"), (limit, used, stat), strict=True):
            (folder / f"memory.{end}").write_text(f"{text}\n")
    found = free_in_group(tmp_path / "cgroup", tmp_path / "fs")
    assert found == (None if left is None else left * GIB)


def test_free_memory_is_known_without_groups(tmp_path: Path) -> None:
    assert free_in_group(tmp_path / "none", tmp_path) is None
    assert free_memory() > 0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8e9), ("8G", 8e9), ("8g", 8e9), ("800MB", 8e8), ("800 mb", 8e8), ("1.5GB", 1.5e9),
        ("2GiB", 2**31), ("64k", 64e3), ("1TB", 1e12), ("123456", 123456), (123456, 123456),
    ],
)  # fmt: skip
def test_amounts_of_memory(text: str | int, size: float) -> None:
    assert parse_memory(text) == int(size)


@pytest.mark.parametrize("text", ["", "lots", "8 apples", "-1GB", "GB", "1e9", "8iB", "0", "0GB"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(BadInput, match="say 8GB"):
        parse_memory(text)


def test_amounts_in_words() -> None:
    assert (in_words(1.234e9), in_words(5e6)) == ("1.23 GB", "5 MB")
