"""Ask a training loop to stop at the end of its step when the process is told to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], int]]:
    """Yields a function that says which signal has come, 0 for none (SIGTERM and Ctrl-C)."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    kinds = (signal.SIGTERM, signal.SIGINT)

    def note(number: int, frame: object) -> None:
        received.append(number)
        if len(received) > 1:  # asked twice: do not wait for the step
            raise KeyboardInterrupt

    before = {kind: signal.signal(kind, note) for kind in kinds}
    try:
        yield lambda: received[0] if received else 0
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
