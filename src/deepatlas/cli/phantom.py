"""`deepatlas phantom`: a cohort of drawn scans whose truth is known."""

from __future__ import annotations

import argparse

from deepatlas.cli import options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "phantom", run, "Draw a cohort of anatomy-like scans with known labels."
    )
    options.add_out(parser, "gets the cohort")
    parser.add_argument(
        "--subjects", type=options.positive, default=40, metavar="N", help="default: 40"
    )
    parser.add_argument(
        "--labelled",
        type=options.natural,
        default=3,
        metavar="N",
        help="how many of them have a label file (default: 3)",
    )
    options.add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the cohort, and print its path."""
    from deepatlas import api

    print(api.phantom(out=args.out, subjects=args.subjects, labelled=args.labelled, seed=args.seed))
