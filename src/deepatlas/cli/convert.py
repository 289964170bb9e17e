"""`deepatlas convert`: transform files in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from deepatlas.cli import options

FORMS = ("ants", "fsl", "learn2reg")


def add(subparsers: options.Subparsers) -> None:
    """Add the command and its options."""
    parser = options.command(
        subparsers, "convert", run, "Write transforms as one file of another format.",
        epilog="The name says the format: .h5 for any chain, .mat or .tfm for affine maps, .nii.gz "
        "or .x5 (a draft) for one displacement field on the fixed scan's grid. ANTs' files have a "
        "prefix: --to ants --out DIR/pair1_.",
    )  # fmt: skip
    parser.add_argument(
        "transforms", type=Path, nargs="+", metavar="TRANSFORM",
        help="files, in the order in which a point of the fixed scan passes them",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file")
    parser.add_argument("--moving", type=Path, metavar="M", help="the moving scan, for its grid")
    parser.add_argument("--fixed", type=Path, metavar="F", help="the fixed scan, for its grid")
    parser.add_argument("--from", choices=FORMS, dest="read_as", help="what the files are of")
    parser.add_argument("--to", choices=FORMS, dest="write_as", help="what to write for")
    parser.add_argument("--inverse", action="store_true", help="write the map from moving to fixed")


def run(args: argparse.Namespace) -> None:
    """Convert, and print the path written."""
    from deepatlas import api

    path = api.convert(
        args.transforms,
        out=args.out,
        moving=args.moving,
        fixed=args.fixed,
        read_as=args.read_as,
        write_as=args.write_as,
        inverse=args.inverse,
    )
    print(path)
