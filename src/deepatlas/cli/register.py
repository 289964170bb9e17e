"""`deepatlas register`: one moving scan onto one fixed scan."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(subparsers, "register", run, "Register a moving scan to a fixed scan.")
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run with such a network")
    parser.add_argument("--moving", type=Path, required=True, metavar="M", help="a scan")
    parser.add_argument("--fixed", type=Path, required=True, metavar="F", help="a scan")
    options.add_out(
        parser, "gets moved.nii.gz, transform.h5, affine.mat, transform.json, moved_labels.nii.gz"
    )
    parser.add_argument(
        "--moving-labels", type=Path, metavar="L", help="labels to move along with the scan"
    )
    parser.add_argument(
        "--write", choices=["main", "all"], default="main",
        help="all: also the inverse, and both maps as single fields (.nii.gz)",
    )  # fmt: skip
    parser.add_argument(
        "--keep-dtype", action="store_true",
        help="the moved scan in the moving scan's integer type, rounded and clipped",
    )  # fmt: skip
    options.add_compute(parser)
    options.add_memory(parser)


def run(args: argparse.Namespace) -> None:
    """Register, and print the paths written."""
    from deepatlas import api

    result = api.register(
        args.run_folder,
        moving=args.moving,
        fixed=args.fixed,
        out=args.out,
        moving_labels=args.moving_labels,
        write=args.write,
        keep_dtype=args.keep_dtype,
        device=args.device,
        threads=args.threads,
        max_memory=args.max_memory,
    )
    print(*result.files, sep="\n")
