"""`deepatlas warp`: apply transform files to a scan, labels or landmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "warp", run, "Apply transforms to a scan, a label map or landmarks.",
        epilog="Points go from the fixed scan to the moving one; images and labels are looked up "
        "in the moving scan, on the fixed scan's grid. Files: .h5, .mat, .tfm, .txt, .nii, .nii.gz "
        "and .x5.",
    )  # fmt: skip
    parser.add_argument(
        "transforms", type=Path, nargs="+", metavar="TRANSFORM",
        help="files, in the order in which a point of the fixed scan passes them",
    )  # fmt: skip
    parser.add_argument("--image", type=Path, metavar="M", help="the moving scan")
    parser.add_argument("--labels", type=Path, metavar="L", help="labels of the moving scan")
    parser.add_argument(
        "--points", type=Path, metavar="CSV", help="landmarks, columns x, y, z (mm)"
    )
    parser.add_argument("--onto", type=Path, metavar="F", help="the scan whose grid images get")
    parser.add_argument("--inverse", action="store_true", help="apply the inverse of it all")
    parser.add_argument(
        "--axes", choices=["RAS", "LPS"], default="RAS",
        help="of the landmarks (default: RAS, as in NIfTI; ITK and ANTs use LPS)",
    )  # fmt: skip
    options.add_memory(parser)
    options.add_out(parser, "gets each result under its input's name")


def run(args: argparse.Namespace) -> None:
    """Apply, and print the paths written."""
    from deepatlas import api

    result = api.warp(
        args.transforms,
        out=args.out,
        image=args.image,
        labels=args.labels,
        points=args.points,
        onto=args.onto,
        inverse=args.inverse,
        axes=args.axes,
        max_memory=args.max_memory,
    )
    print(*result.files, sep="\n")
