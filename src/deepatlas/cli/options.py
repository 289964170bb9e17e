"""Options that several commands share, and the kinds of values they take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
AGAIN = "the same command again starts anew"
ELSEWHERE = "close other programs, or use smaller scans or a machine with more"


def command(
    subparsers: Subparsers,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    summary: str,
    *,
    epilog: str | None = None,
    if_interrupted: str = AGAIN,
    if_memory_ends: str = ELSEWHERE,
) -> argparse.ArgumentParser:
    """Add a command whose `run` gets the parsed arguments and may return an exit code.

    `if_interrupted` ends the sentences "interrupted; ..." and "the disk is full; ..., then ...",
    `if_memory_ends` the sentence "the memory is full; ...".
    """
    parser = subparsers.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog=epilog,
        allow_abbrev=False,
    )
    parser.set_defaults(
        run=run, if_interrupted=if_interrupted, if_memory_ends=if_memory_ends, verbosity=0
    )
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument(
        "-v", "--verbose", dest="verbosity", action="store_const", const=1, help="say more"
    )
    talk.add_argument(
        "-q", "--quiet", dest="verbosity", action="store_const", const=-1, help="warnings only"
    )
    return parser


def add_compute(parser: argparse.ArgumentParser) -> None:
    """--device and --threads."""
    parser.add_argument(
        "--device",
        type=device,
        default="auto",
        metavar="auto|cpu|cuda[:N]",
        help="where to compute (default: auto, the first GPU where there is one)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads")


def add_memory(parser: argparse.ArgumentParser, note: str = "") -> None:
    """--max-memory; the note says what it means for this command."""
    parser.set_defaults(if_memory_ends=f"say --max-memory SIZE to take less at a time, {ELSEWHERE}")
    parser.add_argument(
        "--max-memory", metavar="SIZE",
        help="aim to stay below this, the process as its share of a GPU, such as 8GB or 800MB "
        f"(default: most of what is free){note}",
    )  # fmt: skip


def add_out(parser: argparse.ArgumentParser, text: str) -> None:
    """--out DIR, required."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=text)


def add_seed(parser: argparse.ArgumentParser, default: int | None = 0) -> None:
    """--seed."""
    parser.add_argument(
        "--seed",
        type=natural,
        default=default,
        metavar="N",
        help="of all that is drawn (default: 0)",
    )


def add_label_rules(parser: argparse.ArgumentParser) -> None:
    """--label-groups and --annotated."""
    add_annotated(parser)
    parser.add_argument(
        "--label-groups",
        type=Path,
        metavar="groups.json[:NAME]",
        help="named groups of label values in place of the values; NAME is one of several sets",
    )


def add_annotated(parser: argparse.ArgumentParser) -> None:
    """--annotated."""
    parser.add_argument(
        "--annotated",
        type=Path,
        metavar="annotations.json",
        help="{scan id: [values or names annotated in it]}, where that is not all "
        "(default: annotations.json in COHORT, if it is there)",
    )


def natural(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or more; got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number, 1 or more; got {text!r}")
    return int(text)


def device(text: str) -> str:
    """The name of a device; whether it is here, the command says later."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N; got {text!r}")
    return text


def labelled(text: str) -> str | int | Path:
    """`all`, a number of labels, or a file with one scan id a line."""
    if text == "all":
        return text
    if re.fullmatch(r"[+-]?\d+", text):
        return positive(text)
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"expected all, a number, or a file with one scan id a line; there is no file {text!r}"
        )
    return Path(text)


def key_value(text: str) -> tuple[str, Any]:
    """`training.steps=2000`; the value is read as a YAML scalar or list."""
    key, equals, value = text.partition("=")
    if not (equals and key):
        raise argparse.ArgumentTypeError(
            f"expected key=value; got {text!r} (what is no key=value stands before --set)"
        )
    return key, _yaml(value)


def _yaml(text: str) -> Any:
    import yaml

    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", text):
        return float(text)  # YAML 1.1 takes 1e-3, without a point, for a word
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not YAML: {error}") from None
