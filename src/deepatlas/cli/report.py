"""`deepatlas report`: one HTML page about a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "report", run, "Write one HTML page about a run, readable offline."
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="finished or under way")
    parser.add_argument(
        "--out", type=Path, metavar="report.html", help="default: report.html in the run folder"
    )


def run(args: argparse.Namespace) -> None:
    """Write the page, and print its path."""
    from deepatlas import api

    print(api.report(args.run_folder, out=args.out))
