"""A process that forks trainings, so that each can be killed without paying for its imports.

Reads one JSON request a line: `tiny.train_tiny` arguments, or the command line of `deepatlas`.
Answers with the child's process id, then with how it ended. `die` lets the child kill itself
(SIGKILL) at its n-th touch of the disk: before it, halfway through it, or after it. `full` is the
touch from which on no content can be written, as on a full disk.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "run"))

import tiny
import torch
import torch._dynamo  # what the first optimiser would import, in every child

from deepatlas.cli import main
from deepatlas.training.log import Log


class Death:
    """Counts touches of the disk and kills the process at one of them."""

    def __init__(self, at: int, when: str, full: int) -> None:
        self.at, self.when, self.full, self.count = at, when, full, 0

    def wrap(self, owner: Any, name: str, half: Callable[..., Any] = lambda *_, **__: None) -> None:
        """Count the calls of a function; `half` does half of its work."""
        whole = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if name == "write_bytes" and 0 < self.full <= self.count:
                half(*args, **kwargs)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
            if self.count != self.at:
                return whole(*args, **kwargs)
            if self.when == "halfway":
                half(*args, **kwargs)
            elif self.when == "after":
                whole(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, counted)


def watch(death: Death) -> None:
    """Let everything that touches the disk in a run be counted."""
    write_bytes = Path.write_bytes

    def torn_bytes(path: Path, content: bytes) -> None:
        write_bytes(path, content[: len(content) // 2])

    def torn_line(log: Log, **event: Any) -> None:
        with log.path.open("a", encoding="utf-8") as file:
            file.write('{"event": "tra')

    def partly_removed(folder: Any, **_: Any) -> None:
        for path in sorted(Path(folder).glob("*"))[:1]:
            path.unlink()

    os.fsync = lambda handle: None  # a killed process loses nothing that it gave to the system
    death.wrap(Path, "write_bytes", torn_bytes)
    death.wrap(Log, "write", torn_line)
    death.wrap(shutil, "rmtree", partly_removed)
    death.wrap(os, "replace")
    death.wrap(Path, "rename")
    death.wrap(Path, "mkdir")


def child(request: dict[str, Any]) -> int:
    """What a forked process does; returns its exit code."""
    death = Death(request.get("die", 0), request.get("when", "before"), request.get("full", 0))
    watch(death)
    if "argv" in request:
        return main(request["argv"])
    arguments = {
        key: Path(value) if key in ("cohort", "out", "split", "cache") else value
        for key, value in request["train"].items()
    }
    try:
        tiny.train_tiny(**arguments)
    finally:
        Path(request["touches"]).write_text(str(death.count))
    return 0


def serve() -> None:
    """Answer requests until the input ends."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                with open(request["output"], "w") as output:
                    os.dup2(output.fileno(), 1)
                    os.dup2(output.fileno(), 2)
                code = child(request)
                sys.stdout.flush()
            except BaseException as error:
                os.write(2, repr(error).encode())
            finally:
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
