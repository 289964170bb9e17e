"""`deepatlas check`: what is in a cohort, and what is wrong with it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepatlas.cli import console, options

if TYPE_CHECKING:
    from deepatlas.run.check import CohortCheck, LookedAt

WIDTH = 100  # of the table where standard output is no terminal
SHOWN = 10  # findings of one kind, without -v
COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "check", run, "Look at every file of a cohort and list what is wrong or odd.",
        epilog="Errors keep `train` from its first step; warnings are worth a look; notes need "
        "nothing. Exit code: 0 without errors, 1 with errors, 2 where COHORT cannot be looked at.",
    )  # fmt: skip
    parser.add_argument(
        "cohort", type=Path, metavar="COHORT", help="the folder, or the file that lists scans"
    )
    parser.add_argument(
        "--split", type=Path, metavar="split.json", help="look for subjects in two of its parts"
    )
    options.add_annotated(parser)
    parser.add_argument(
        "--ignore-value",
        type=int,
        metavar="N",
        help="label value of voxels of which nothing is known (data.ignore_value in training)",
    )
    parser.add_argument(
        "--json", type=Path, metavar="findings.json", help="write all findings for other programs"
    )


def run(args: argparse.Namespace) -> int:
    """Check, and print a table; 1 where there are errors."""
    from deepatlas import api

    with console.progress() as progress:
        found = api.check(
            args.cohort,
            split=args.split,
            annotated=args.annotated,
            ignore_value=args.ignore_value,
            json=args.json,
            progress=progress,
        )
    print(looked_at(found.cohort, found.looked_at))
    if found.findings:
        print_table(found, None if args.verbosity > 0 else SHOWN)
    print(", ".join(_counted(n, kind) for kind, n in found.counts.items()))
    return 1 if found.counts["error"] else 0


def looked_at(cohort: Path, looked: LookedAt) -> str:
    """What was looked at, in a line."""
    line = f"{cohort}: {_counted(looked.scans, 'scan')}, {looked.labelled} with label maps"
    if looked.structures:
        line += f" of {_counted(looked.structures, 'structure')}"
    if looked.axes:
        line += "; " + " and ".join(f"{n}-D" for n in looked.axes)
    if looked.shape:
        line += f", {_ranges(looked.shape)} voxels of {_ranges(looked.spacing_mm)} mm"
    return line


def print_table(found: CohortCheck, at_most: int | None) -> None:
    """Every finding, or the first of each kind and how many more there are."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = Console()
    if not out.is_terminal:
        out.width = WIDTH
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("severity", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    table.add_column("file, what was found and what to do", overflow="fold")
    for kind in dict.fromkeys(finding.kind for finding in found.findings):
        alike = [finding for finding in found.findings if finding.kind == kind]
        for finding in alike[:at_most]:
            file = Text(_name(found.cohort, finding.files[0]), style="bold")
            table.add_row(
                Text(finding.severity, style=COLOURS[finding.severity]),
                Text(kind),
                Text("\n").join([file, Text(_short(found.cohort, finding.text))]),
            )
        if at_most is not None and len(alike) > at_most:
            more = f"and {len(alike) - at_most} more of this kind; -v or --json lists all"
            table.add_row("", Text(kind), Text(more))
    out.print(table)


def _name(cohort: Path, file: Path) -> str:
    """The file, within the cohort where it lies there."""
    if file == cohort:
        return "the whole cohort"
    folder = _folder(cohort)
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)


def _short(cohort: Path, text: str) -> str:
    """The text, with paths as `_name` has them."""
    beginning = re.escape(f"{_folder(cohort)}{os.sep}")
    return re.sub(rf"(?<![^\s(]){beginning}", "", text)


def _folder(cohort: Path) -> Path:
    """The cohort, or where the file lies that lists its scans."""
    return cohort.parent if cohort.is_file() else cohort


def _counted(n: int, thing: str) -> str:
    return f"{n} {thing}{'s'[: n != 1]}"


def _ranges(ends: Sequence[tuple[float, float]]) -> str:
    return " x ".join(
        f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}-{high:.3g}"
        for low, high in ends
    )
