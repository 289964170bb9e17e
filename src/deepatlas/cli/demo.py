"""`deepatlas demo`: the whole way on drawn scans, in a few minutes and without a download."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers,
        "demo",
        run,
        "Draw scans, train a baseline and joint networks at equal budget, and compare them.",
        if_interrupted="the same command again goes on from the last checkpoint",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="default: demo"
    )
    options.add_seed(parser)
    options.add_compute(parser)


def run(args: argparse.Namespace) -> None:
    """Run the demonstration, and print the report's path."""
    from deepatlas import api

    page = api.demo(out=args.out, seed=args.seed, device=args.device, threads=args.threads)
    print("report:", page)
