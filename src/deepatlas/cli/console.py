"""What a command says while it works: log lines and progress bars, on standard error.

Standard output is for results, so that they can be piped.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 10.0  # of progress, where standard error is no terminal


@contextmanager
def logging_to_stderr(verbosity: int) -> Iterator[None]:
    """Show what the library logs: -1 warnings, 0 what it does, 1 details."""
    logger = logging.getLogger("deepatlas")
    handler = _Handler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(verbosity, logging.DEBUG))
    try:
        with _own_stderr():
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _own_stderr() -> Iterator[None]:
    """What Python prints goes to a copy of descriptor 2.

    That descriptor itself is turned away, for all threads, while ITK reads a file.
    """
    with ExitStack() as undo:
        with suppress(AttributeError, OSError, ValueError):  # there may be no stderr
            if sys.stderr.fileno() == 2:  # else somebody reads along, such as a test
                how = sys.stderr
                copy = os.fdopen(os.dup(2), "w", 1, encoding=how.encoding, errors=how.errors)
                undo.enter_context(redirect_stderr(undo.enter_context(copy)))
        yield


@contextmanager
def progress() -> Iterator[Bars]:
    """Bars for as long as the context lasts."""
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()


class Bars:
    """Call it with what is being done, how much is done and how much there is to do."""

    def __init__(self) -> None:
        self._quiet = not logging.getLogger("deepatlas").isEnabledFor(logging.INFO)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __call__(
        self, what: str, done: int, total: int, line: Mapping[str, Any] | None = None
    ) -> None:
        """Show it: a bar on a terminal, else a line every ten seconds and at the end.

        `line` is the log's, in training; its stage and loss stand beside the count.
        """
        if self._quiet:
            return
        note = f"{line['stage']}, loss {line['total']:.3f}" if line else ""
        if _stderr().is_terminal:
            self._bar(what, done, total, note)
        elif done >= total or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            text = f"{what}: {done} of {total}" + (f" ({note})" if note else "")
            logging.getLogger("deepatlas").info(text)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.stop()

    def _bar(self, what: str, done: int, total: int, note: str) -> None:
        if self._bars is None:
            self._bars = _new_bars()
            self._bars.start()
        known = self._tasks.get(what)
        if known is None or (self._bars.tasks[known].finished and done < total):
            known = self._tasks[what] = self._bars.add_task(what, total=total, note="")
        self._bars.update(known, completed=done, total=total, note=note)


def _new_bars() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    return Progress(
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        "{task.fields[note]}",
        console=_stderr(),
    )


@cache
def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


class _Handler(logging.Handler):
    """Prints through the console of the bars, so that lines stand above them."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        text = prefix + self.format(record)
        _stderr().print(text, markup=False, highlight=False, soft_wrap=True)
