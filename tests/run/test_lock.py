"""One process at a time; and how signals become a question that a loop asks after each step."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from deepatlas.errors import BadInput
from deepatlas.run import lock
from deepatlas.run.lock import locked
from deepatlas.run.stopping import stop_on_signals


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        with (
            pytest.raises(BadInput, match=rf"process {os.getpid()} is training here"),
            locked(tmp_path),
        ):
            pass
        assert (tmp_path / "lock").read_text() == str(os.getpid())
    with locked(tmp_path):  # free again
        pass


def test_an_error_frees_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_what_a_killed_process_left_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("4194304123")
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_disk_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with locked(tmp_path), locked(tmp_path):
        pass


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted(kind: signal.Signals) -> None:
    before = signal.getsignal(kind)
    with stop_on_signals() as stop:
        assert stop() == 0
        signal.raise_signal(kind)
        assert stop() == kind
    assert signal.getsignal(kind) is before


def test_asked_twice_it_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in the background
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.extend([stop(), signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0, before]
