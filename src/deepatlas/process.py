"""What a command asks of its own process before torch is loaded, so that steps take less time.

Training allocates and frees the same large tensors at every step. By default each comes fresh
from the system, page by page, and is given back when freed; and threads of PyTorch that wait spin,
at the expense of the compiled kernels' own. What a user has set in the environment stands.

Loading torch and numba makes two hundred thousand objects that stay. Python would look through all
of them for garbage again and again while they are made, and free one after another at the end.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",  # waiting threads sleep
    "THP_MEM_ALLOC_ENABLE": "1",  # tensors on pages of 2 MiB where the system grants them (Linux)
}
_SELDOM = (50_000, 50, 10)  # new objects, and collections of these, until Python looks for garbage
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)


def prepare_environment() -> None:
    """Set what torch reads once, when it is loaded; nothing where that has happened."""
    if "torch" not in sys.modules:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)


def collect_seldom() -> None:
    """Let Python look for cyclic garbage seldom.

    Nothing where torch is loaded. What no cycle holds, tensors among it, is freed at once as ever.
    """
    if "torch" not in sys.modules:
        gc.set_threshold(*_SELDOM)


def leave(code: int) -> NoReturn:
    """End this process; the system frees what it holds.

    As at any end of Python, threads have ended before, what was registered for the end is done, and
    all that was said is written.
    """
    with suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stderr, sys.stdout):
        with suppress(AttributeError, OSError, ValueError):  # it is closed
            stream.flush()
    os._exit(code)


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next allocations, where the C library is glibc's.

    For a command that trains, whose steps are alike: memory grows to the peak of a step and stays
    there. It holds for the whole process and cannot be taken back, so no function of the library
    does it by itself.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**26)
