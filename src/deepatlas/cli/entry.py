"""From the command line to a command, and from what went wrong to an exit code.

0 done; 1 a defect of deepatlas, or errors that `check` found in a cohort; 2 something the user can
mend; 130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

import deepatlas
from deepatlas.cli import (
    check,
    console,
    convert,
    demo,
    evaluate,
    jacobian,
    phantom,
    register,
    report,
    segment,
    train,
    warp,
)
from deepatlas.errors import DeepAtlasError
from deepatlas.process import collect_seldom, leave, prepare_environment

COMMANDS = (
    check, train, segment, register, warp, convert, jacobian, evaluate, report, phantom, demo,
)  # fmt: skip
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# of the system and of torch, which has an error of its own for some of these only
_NO_MEMORY = re.compile("(?i)allocate memory|out of memory|not enough memory|_ALLOC_FAILED")
_AMOUNT = re.compile(r"(?i)(?:tried|unable) to (allocate [\d.]+ ?\w+)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each file of `deepatlas.cli` adds its own."""
    parser = argparse.ArgumentParser(
        prog="deepatlas",
        description="Learn to segment and to register scans of which few have segmentations.",
        epilog="`deepatlas COMMAND --help` explains a command; `deepatlas demo` needs no data.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deepatlas {deepatlas.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = build_parser().parse_args(argv)
    prepare_environment()
    collect_seldom()
    try:
        with console.logging_to_stderr(args.verbosity):
            code: int = args.run(args) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _say(args, f"interrupted; {args.if_interrupted}", code=130)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        _give_up_stdout()
        code = 0
    except Exception as error:
        return _explain(args, error)
    return code


def script() -> NoReturn:
    """The installed command: a process of its own, which ends with it.

    `python -m deepatlas` returns to whoever runs the module, a profiler or a notebook.
    """
    leave(main())


def _explain(args: argparse.Namespace, error: Exception) -> int:
    if args.verbosity > 0:
        traceback.print_exception(error)
    if isinstance(error, DeepAtlasError):
        return _say(args, str(error), code=getattr(error, "exit_code", 2))
    if _disk_is_full(error):
        _give_up_stdout()
        where = getattr(error, "filename", None)
        return _say(
            args,
            f"the disk is full{f' (writing {where})' if where else ''}; "
            f"free some space, then {args.if_interrupted}",
            code=2,
        )
    if (amount := _memory_is_full(error)) is not None:
        return _say(args, f"the memory is full{amount}; {args.if_memory_ends}", code=2)
    if isinstance(error, OSError) and error.filename is not None:
        return _say(args, f"{error.filename}: {error.strerror}", code=2)
    if args.verbosity <= 0:
        traceback.print_exception(error)
    return _say(
        args,
        f"this is a defect of deepatlas {deepatlas.__version__}, not of your data; "
        "please report it with the command and the lines above",
        code=1,
    )


def _give_up_stdout() -> None:
    """Where standard output cannot be written, keep Python from trying again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _disk_is_full(error: BaseException) -> bool:
    """Also where a library wraps the system's error into one of its own."""
    return any(
        (isinstance(e, OSError) and e.errno in DISK_FULL) or os.strerror(errno.ENOSPC) in str(e)
        for e in _chain(error)
    )


def _memory_is_full(error: BaseException) -> str | None:
    """What could not be had, if that is known, in words; None where something else is wrong.

    torch is asked for nothing: where a command has not loaded it, it stays so.
    """
    for e in _chain(error):
        of_torch = isinstance(e, RuntimeError) and (
            type(e).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(str(e))
        )
        of_system = isinstance(e, OSError) and e.errno == errno.ENOMEM
        if of_torch or of_system or isinstance(e, MemoryError):
            found = _AMOUNT.search(str(e))
            return f" (could not {found[1]})" if found else ""
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _say(args: argparse.Namespace, sentence: str, *, code: int) -> int:
    print(f"deepatlas {args.command}: {sentence}", file=sys.stderr)
    return code
