"""The tests' side of `worker.py`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


@dataclass
class Ended:
    """How a process ended: its exit code (negative: the signal), output and touches of the disk."""

    code: int
    output: str
    touches: int


class Server:
    """A `worker.py` that waits for requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output, self.touches = folder / "output", folder / "touches"
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def begin(self, **request: Any) -> int:
        """Start a process; returns its id. `end` must follow."""
        self.touches.write_text("0")
        where = {"output": str(self.output), "touches": str(self.touches)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**where, **request}, default=str) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def end(self) -> Ended:
        """Wait for the process that was started last."""
        code = int(self._line())
        return Ended(code, self.output.read_text(), int(self.touches.read_text()))

    def train(self, *, die: int = 0, when: str = "before", **arguments: Any) -> Ended:
        """`tiny.train_tiny` in a process that dies at its n-th touch of the disk, or not at all."""
        self.begin(train=arguments, die=die, when=when)
        return self.end()

    def command(self, *argv: Any, full: int = 0) -> Ended:
        """A `deepatlas` command, on a disk that is full from its n-th touch on, or never."""
        self.begin(argv=[str(word) for word in argv], full=full)
        return self.end()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the worker has died"
        return line


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Look again and again until it is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.001)
