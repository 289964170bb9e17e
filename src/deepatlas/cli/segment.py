"""`deepatlas segment`: label maps of scans, each on its own grid."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import console, options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "segment", run, "Segment scans; each result lies on its scan's own grid."
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="a run with such a network")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="scans")
    options.add_out(parser, "gets <id>.nii.gz for every image")
    parser.add_argument(
        "--bids",
        action="store_true",
        help="write DIR as a BIDS derivative, sub-01/anat/sub-01_dseg.nii.gz; "
        "the images have BIDS names",
    )
    options.add_compute(parser)
    options.add_memory(
        parser, "; with it, what does not fit is segmented in tiles, which is less exact"
    )


def run(args: argparse.Namespace) -> None:
    """Segment, and print the paths written."""
    from deepatlas import api

    with console.progress() as progress:
        paths = api.segment(
            args.run_folder,
            args.images,
            out=args.out,
            bids=args.bids,
            device=args.device,
            threads=args.threads,
            max_memory=args.max_memory,
            progress=progress,
        )
    print(*paths, sep="\n")
