"""`deepatlas evaluate`: how good a run is, alone or against others on the same scans."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from deepatlas.cli import console, options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers,
        "evaluate",
        run,
        "Score a run on labelled scans, alone or against other runs.",
        epilog="The last lines on standard output are the summary, a key and a value each.",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="the run to score")
    parser.add_argument(
        "cohort",
        type=Path,
        metavar="COHORT",
        help="the training cohort (its test part is scored) or another (all labelled scans)",
    )
    pairs = parser.add_mutually_exclusive_group()
    pairs.add_argument(
        "--pairs", type=Path, metavar="pairs.csv", help="columns moving,fixed with scan ids"
    )
    pairs.add_argument(
        "--n-pairs",
        type=options.positive,
        default=40,
        metavar="N",
        help="how many pairs to take without --pairs (default: 40)",
    )
    parser.add_argument(
        "--against",
        type=Path,
        action="extend",
        nargs="+",
        default=[],
        metavar="RUN2",
        help="runs to compare with, scan by scan and pair by pair",
    )
    options.add_label_rules(parser)
    options.add_out(parser, "gets scans.csv, pairs.csv and summary.json")
    options.add_compute(parser)
    options.add_memory(
        parser,
        "; with it, what does not fit is segmented in tiles, which is less exact; the score tables "
        "are not counted",
    )


def run(args: argparse.Namespace) -> None:
    """Evaluate, and print the summary."""
    from deepatlas import api

    with console.progress() as progress:
        summary = api.evaluate(
            args.run_folder,
            args.cohort,
            out=args.out,
            pairs=args.pairs,
            n_pairs=args.n_pairs,
            against=args.against,
            label_groups=args.label_groups,
            annotated=args.annotated,
            device=args.device,
            threads=args.threads,
            max_memory=args.max_memory,
            progress=progress,
        )
    from deepatlas.evaluation.tables import flatten

    for note in summary.get("notes", ()):
        logging.getLogger("deepatlas").warning(note)
    for key, value in flatten(summary).items():
        print(key, value)
