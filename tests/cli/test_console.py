"""Log lines and progress go to standard error; verbosity decides how much."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from deepatlas.cli import console

LOGGER = logging.getLogger("deepatlas.training")


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error that is a narrow file, not a terminal."""
    stream = io.StringIO()
    narrow = Console(file=stream, width=20)
    monkeypatch.setattr(console, "_stderr", lambda: narrow)
    return stream


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard error that is a terminal."""
    stream = io.StringIO()
    wide = Console(file=stream, force_terminal=True, width=100)
    monkeypatch.setattr(console, "_stderr", lambda: wide)
    return stream


@pytest.mark.parametrize(
    ("verbosity", "lines"),
    [
        (-1, ["warning: lost"]),
        (0, ["resumed at step 120 [of 4000], a long line", "warning: lost"]),
        (1, ["detail", "resumed at step 120 [of 4000], a long line", "warning: lost"]),
    ],
)
def test_verbosity(verbosity: int, lines: list[str], stderr: io.StringIO) -> None:
    with console.logging_to_stderr(verbosity):
        LOGGER.debug("detail")
        LOGGER.info("resumed at step %d [of 4000], a long line", 120)
        LOGGER.warning("lost")
    LOGGER.warning("afterwards")
    assert stderr.getvalue().splitlines() == lines


def test_a_warning_is_not_lost_while_itk_reads_in_another_thread() -> None:
    code = (
        "import logging, os, sys, threading\n"
        "from deepatlas import api, cli\n"
        "from deepatlas.io.dicom_voxels import _quiet\n"
        "def report(*args, **more):\n"
        "    with _quiet():\n"
        "        os.write(2, b'chatter of ITK, ')\n"
        "        warn = logging.getLogger('deepatlas').warning\n"
        "        thread = threading.Thread(target=warn, args=('kept',))\n"
        "        thread.start()\n"
        "        thread.join()\n"
        "    os.write(2, b'what others say\\n')\n"
        "    return 'r.html'\n"
        "api.report = report\n"
        "sys.exit(cli.main(['report', 'r']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "warning: kept\nwhat others say\n"


def test_progress_into_a_file_is_few_lines(stderr: io.StringIO) -> None:
    with console.logging_to_stderr(0), console.progress() as progress:
        for done in range(101):
            progress("train", done, 100, {"stage": "joint", "total": 1.0})
    assert stderr.getvalue().splitlines() == ["train: 100 of 100 (joint, loss 1.000)"]


def test_progress_on_a_terminal_is_a_bar(terminal: io.StringIO) -> None:
    with console.logging_to_stderr(0), console.progress() as progress:
        progress("preparing scans", 3, 12)
        LOGGER.info("a line above")
        progress("preparing scans", 12, 12)
    shown = terminal.getvalue()
    assert "preparing scans" in shown
    assert "12/12" in shown
    assert "a line above" in shown


def test_training_shows_stage_and_loss(terminal: io.StringIO) -> None:
    line = {"stage": "joint", "total": 0.31249, "terms": {"similarity": 0.3}}
    with console.logging_to_stderr(0), console.progress() as progress:
        progress("train", 1, 4, line)
        progress("train", 4, 4, line)
    assert "joint, loss 0.312" in terminal.getvalue()


def test_what_is_done_a_second_time_has_a_second_bar(terminal: io.StringIO) -> None:
    with console.logging_to_stderr(0), console.progress() as progress:
        for done in (1, 7, 2, 7):
            progress("train", done, 7)
    at_last = terminal.getvalue().rsplit("\r", 1)[1]
    assert at_last.count("7/7") == 2


def test_quiet_has_no_bars(terminal: io.StringIO) -> None:
    with console.logging_to_stderr(-1), console.progress() as progress:
        progress("joint", 5, 10)
    assert terminal.getvalue() == ""
