"""`deepatlas jacobian`: how much transforms stretch space, as images and per structure."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import options


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "jacobian", run, "Write the Jacobian determinant of transforms, and volumes.",
        epilog="The determinant is that of the map from fixed to moving in mm: 2 where a mm^3 of "
        "the fixed scan shows what takes 2 mm^3 in the moving scan.",
    )  # fmt: skip
    parser.add_argument(
        "transforms", type=Path, nargs="+", metavar="TRANSFORM",
        help="files, in the order in which a point of the fixed scan passes them",
    )  # fmt: skip
    parser.add_argument(
        "--onto", type=Path, required=True, metavar="F", help="the fixed scan, whose grid is used"
    )
    parser.add_argument("--labels", type=Path, metavar="L", help="labels of the fixed scan")
    parser.add_argument("--inverse", action="store_true", help="of the map from moving to fixed")
    options.add_out(parser, "gets jacobian.nii.gz, log_jacobian.nii.gz, volume_change.csv")


def run(args: argparse.Namespace) -> None:
    """Compute, and print the paths written and the share of folds."""
    from deepatlas import api

    result = api.jacobian(
        args.transforms, onto=args.onto, out=args.out, labels=args.labels, inverse=args.inverse
    )
    print(*result.files, f"folds: {result.folds_percent:.4f} % of the voxels", sep="\n")
