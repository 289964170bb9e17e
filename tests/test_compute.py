"""Devices and threads by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from deepatlas.compute import choose_device, deterministic, use_threads
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


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "Auto"])
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(BadInput):
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
