"""One process at a time trains in a run folder; the lock of a killed process is no obstacle."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepatlas.errors import BadInput

try:
    import fcntl
except ImportError:  # Windows: no advisory locks of this kind
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system drops it when the process ends, however it ends."""
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise BadInput(
                    f"{folder}: process {file.read().strip() or 'another'} is training here; "
                    "wait for it, stop it, or give another --out"
                ) from None
            except OSError:  # a file system without locks
                pass
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
