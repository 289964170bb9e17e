"""`deepatlas train`: train the networks of a recipe, or resume."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import console, options
from deepatlas.process import keep_freed_memory


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers,
        "train",
        run,
        "Train networks on a cohort in which few scans have segmentations.",
        epilog="The same command again resumes where the run stopped.",
        if_interrupted="the same command again resumes from the last checkpoint",
        if_memory_ends="say training.recompute=true, smaller batches (stages.STAGE.task.batch) or "
        "a coarser or smaller grid (data.spacing_mm, data.shape) with --set, or "
        f"{options.ELSEWHERE}",
    )
    parser.add_argument(
        "cohort",
        type=Path,
        metavar="COHORT",
        help="a folder (plain, Decathlon, nnU-Net, Learn2Reg, BIDS) or a CSV that lists the scans",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run folder")
    parser.add_argument("--recipe", default="da", help="a way of training (default: da)")
    parser.add_argument(
        "--config", type=Path, metavar="my.yaml", help="what differs from the recipe, as YAML"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        type=options.key_value,
        action="extend",
        nargs="+",
        default=[],
        metavar="key=value",
        help="single settings, such as training.steps=2000; they come last",
    )
    parser.add_argument(
        "--labelled",
        type=options.labelled,
        default="all",
        metavar="N|ids.txt|all",
        help="use only so many labels of the training part, or these (default: all)",
    )
    options.add_label_rules(parser)
    parser.add_argument(
        "--split",
        type=Path,
        metavar="split.json",
        help='{"train": [ids], "validation": [ids], "test": [ids]} '
        "(default: that of the cohort, where it has one; else all scans are trained on)",
    )
    parser.add_argument(
        "--init", type=Path, metavar="RUN0", help="start from the networks of this finished run"
    )
    options.add_seed(parser, default=None)
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="folder of prepared scans, shared by runs (default: the user's cache folder)",
    )
    options.add_compute(parser)


def run(args: argparse.Namespace) -> None:
    """Train, and say where the run lies."""
    from deepatlas import api

    keep_freed_memory()
    with console.progress() as progress:
        result = api.train(
            args.cohort,
            args.out,
            recipe=args.recipe,
            config=args.config,
            overrides=dict(args.overrides),
            labelled=args.labelled,
            label_groups=args.label_groups,
            annotated=args.annotated,
            split=args.split,
            init=args.init,
            seed=args.seed,
            cache=args.cache,
            device=args.device,
            threads=args.threads,
            progress=progress,
        )
    print(result.path)
