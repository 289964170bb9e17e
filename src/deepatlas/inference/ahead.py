"""A list of cases, the next one read and the last one written while one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Case = TypeVar("Case")
Read = TypeVar("Read")
Result = TypeVar("Result")


def overlapped(
    cases: Sequence[Case],
    *,
    read: Callable[[Case], Read],
    compute: Callable[[Case, Read], Result],
    write: Callable[[Case, Read, Result], None],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Read, compute and write every case, as one after another would, but side by side.

    At most one case is read ahead and one is being written. What a case raises is raised once all
    cases before it are written, and none after it is; so it is with Ctrl-C, but for the case that
    is being computed.

    Parameters
    ----------
    read, write : called in threads of their own.
    compute : called in this thread.
    progress : called in this thread with the number of cases written and their total.
    """
    done = 0

    def settle(writing: Future[None] | None) -> None:
        nonlocal done
        if writing is not None:
            writing.result()
            done += 1
            if progress is not None:
                progress(done, len(cases))

    writing: Future[None] | None = None
    with _thread("read") as reader, _thread("write") as writer:
        reading = reader.submit(read, cases[0]) if cases else None
        for number, case in enumerate(cases):
            assert reading is not None
            try:
                found = reading.result()
                if number + 1 < len(cases):
                    reading = reader.submit(read, cases[number + 1])
                result = compute(case, found)
            finally:  # a fault in what was before comes first
                previous, writing = writing, None
                settle(previous)
            writing = writer.submit(write, case, found, result)
            del found, result
        settle(writing)


@contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """One thread; what has not begun when the context ends is not done."""
    pool = ThreadPoolExecutor(1, thread_name_prefix=f"deepatlas-{name}")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
