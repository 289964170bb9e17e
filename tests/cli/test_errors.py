"""What goes wrong becomes a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from deepatlas import api
from deepatlas.cli import main
from deepatlas.errors import BadInput, DeepAtlasError

Fail = Callable[[BaseException], None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Lets `deepatlas report` and `deepatlas train` raise."""

    def let(error: BaseException) -> None:
        def raise_it(*args: Any, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(api, "report", raise_it)
        monkeypatch.setattr(api, "train", raise_it)

    return let


def wrapped(error: Exception) -> Exception:
    outer = RuntimeError("could not write the checkpoint")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (BadInput("a.nii: truncated; export it again"), "deepatlas report: a.nii: truncated"),
        (BadInput(["a: bad", "b: bad"]), "2 faults:\n  - a: bad\n  - b: bad"),
        (DeepAtlasError("no such run"), "no such run"),
        (OSError(errno.ENOSPC, "No space left on device", "x.nii"), "the disk is full (writing x"),
        (wrapped(OSError(errno.ENOSPC, "No space left on device")), "the disk is full;"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full;"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied"),
    ],
)
def test_what_the_user_can_mend(
    error: Exception, says: str, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(error)
    assert main(["report", "r"]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert "Traceback" not in err
    assert out == ""


class OutOfMemoryError(RuntimeError):
    """As torch's, which needs no GPU to be named so."""


NO_MEMORY = [
    (MemoryError(), "the memory is full; "),
    (MemoryError("Unable to allocate 745. GiB for an array"), "(could not allocate 745. GiB);"),
    (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity"),
     "(could not allocate 2.00 GiB);"),
    (RuntimeError("CUDA error: out of memory"), "the memory is full; "),
    (wrapped(OSError(errno.ENOMEM, "Cannot allocate memory", "x.nii")), "the memory is full;"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "says"), NO_MEMORY)
def test_memory_that_runs_out_is_no_defect(
    error: Exception, says: str, fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(error)
    for command, helps in ((["report", "r"], "close other programs"),
                           (["train", "c", "--out", "r"], "training.recompute=true")):  # fmt: skip
        assert main(command) == 2
        err = capsys.readouterr().err
        assert says in err
        assert helps in err
        assert "Traceback" not in err


def test_torch_that_cannot_have_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def segment(*args: Any, **kwargs: Any) -> None:
        torch.empty(1 << 60)

    monkeypatch.setattr(api, "segment", segment)
    assert main(["segment", "r", "a.nii", "--out", "o"]) == 2
    err = capsys.readouterr().err
    assert "could not allocate 4611686018427387904 bytes" in err
    assert "--max-memory" in err


def test_an_error_may_have_an_exit_code_of_its_own(
    fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    class StopError(DeepAtlasError):
        exit_code = 130

    fail(StopError("stopped at step 4"))
    assert main(["train", "c", "--out", "r"]) == 130
    assert capsys.readouterr().err == "deepatlas train: stopped at step 4\n"


def test_verbose_shows_the_traceback(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(BadInput("bad"))
    assert main(["report", "r", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["-q"], ["-v"]])
def test_a_defect_shows_where_and_asks_for_a_report(
    flags: list[str], fail: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    fail(ZeroDivisionError("division by zero"))
    assert main(["report", "r", *flags]) == 1
    err = capsys.readouterr().err
    assert err.count("Traceback") == 1
    assert "please report it" in err.splitlines()[-1]


def test_interrupted(fail: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    fail(KeyboardInterrupt())
    assert main(["train", "c", "--out", "r"]) == 130
    err = capsys.readouterr().err
    assert err == (
        "deepatlas train: interrupted; the same command again resumes from the last checkpoint\n"
    )


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys\n"
        "from deepatlas import api, cli\n"
        "api.report = lambda *a, **k: 'x' * 1000000\n"
        "sys.exit(cli.main(['report', 'r']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_standard_output() -> None:
    code = (
        "import sys\n"
        "from deepatlas import api, cli\n"
        "api.report = lambda *a, **k: 'x'\n"
        "sys.exit(cli.main(['report', 'r']))\n"
    )
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=buffered,
        )
    assert result.returncode == 2
    assert "disk is full" in result.stderr
