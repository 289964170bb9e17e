"""Compiled inner loops for CPUs (numba), each beside a plain PyTorch function, its reference.

A kernel works on flat arrays, most of them float32 rows with channels last, so that the values of
a voxel are read together. Kernels release the lock of the interpreter and are run by PyTorch's
number of threads. Where numba is missing, on other devices and in other types the plain functions
are used.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

_MOST_THREADS = 256
_PAGE, _HUGE_PAGES = 4096, 14  # the second of madvise(2)
_LARGE = 8 << 20  # bytes
_plain = 0


@contextmanager
def plain() -> Iterator[None]:
    """A context in which no kernel is used."""
    global _plain
    _plain += 1
    try:
        yield
    finally:
        _plain -= 1


@lru_cache(maxsize=1)
def _installed() -> bool:
    return find_spec("numba") is not None


def usable(*tensors: Tensor, half: bool = False) -> bool:
    """Whether kernels can work on these tensors, float32 or, with `half`, bfloat16 too."""
    dtypes = (torch.float32, torch.bfloat16) if half else (torch.float32,)
    fit = all(x.device.type == "cpu" and x.dtype in dtypes for x in tensors)
    return fit and not _plain and _installed()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="deepatlas-kernel")


if hasattr(os, "register_at_fork"):  # threads are not in the copy of a process
    os.register_at_fork(after_in_child=_pool.cache_clear)


def in_parts(kernel: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """Call kernel(*arguments, first, last) on parts of range(count), a thread each.

    Returns what the parts return, in order.
    """
    threads = min(torch.get_num_threads(), _MOST_THREADS, count)
    if threads <= 1:
        return [kernel(*arguments, 0, count)]
    cuts = [count * n // threads for n in range(threads + 1)]
    parts = [(cuts[n], cuts[n + 1]) for n in range(threads)]
    rest = [_pool().submit(kernel, *arguments, *part) for part in parts[1:]]
    own = kernel(*arguments, *parts[0])
    return [own, *(part.result() for part in rest)]


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """A contiguous tensor on the CPU that is not filled.

    A large one is put on pages of 2 MiB where the system grants them (Linux): its first pages of
    4 KiB, which come one by one as they are written, cost as much as a kernel's work.
    """
    out = torch.empty(*shape, dtype=dtype, device="cpu")
    if out.nbytes >= _LARGE and (advise := _madvise()) is not None:
        low = -(-out.data_ptr() // _PAGE) * _PAGE
        high = (out.data_ptr() + out.nbytes) // _PAGE * _PAGE
        advise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _HUGE_PAGES)
    return out


@lru_cache(maxsize=1)
def _madvise() -> Any:
    """Of the C library; None elsewhere than on Linux."""
    return getattr(ctypes.CDLL(None), "madvise", None) if sys.platform.startswith("linux") else None


def three_axes(space: Sequence[int]) -> tuple[int, ...]:
    """A shape of two or three axes as one of three."""
    return (1,) * (3 - len(space)) + tuple(space)


def to_rows(x: Tensor) -> Tensor:
    """(B, C, *S) as (B, *S, C), contiguous; a copy only where memory is not laid out so."""
    rows = x.movedim(1, -1)
    if rows.is_contiguous() or rows.device.type != "cpu":
        return rows.contiguous()
    return empty(rows.shape, rows.dtype).copy_(rows)


def flat_values(rows: Tensor) -> Any:
    """The same memory as a numpy array of one axis; bfloat16 as uint16, its bits."""
    if rows.dtype == torch.bfloat16:
        return rows.detach().view(torch.int16).view(-1).numpy().view("uint16")
    return flat(rows)


def flat(rows: Tensor) -> Any:
    """The same memory as a numpy array of one axis."""
    return rows.detach().view(-1).numpy()
