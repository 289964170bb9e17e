"""Register two scans and write the moved image, the moved labels and the transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from deepatlas.errors import BadInput
from deepatlas.inference.session import Session
from deepatlas.io.nifti import (
    read_geometry,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from deepatlas.io.transforms import write_displacement
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.transform import Transform, resample

MOVED, MOVED_LABELS, TRANSFORM = "moved.nii.gz", "moved_labels.nii.gz", "transform.nii.gz"


@dataclass(frozen=True)
class Registered:
    """What a registration wrote, and the map itself, fixed mm to moving mm."""

    moved: Path
    transform_file: Path
    moved_labels: Path | None
    transform: Transform


def register(
    run: RunFolder,
    *,
    moving: Path,
    fixed: Path,
    out: Path,
    moving_labels: Path | None = None,
    device: torch.device | str = "cpu",
) -> Registered:
    """Write moved.nii.gz, transform.nii.gz and, with labels, moved_labels.nii.gz into `out`.

    All are on the fixed scan's grid with its header; each is interpolated once. The transform is
    a displacement as ITK reads it (5-D float32, intent 1007, LPS mm).

    Raises
    ------
    BadInput : a file that cannot be read or would be overwritten, labels on another grid than the
        moving scan, or a run without a registration network.
    """
    out = Path(out)
    inputs = [Path(path) for path in (moving, fixed, moving_labels) if path is not None]
    _refuse_overwriting(inputs, out)
    labels = None if moving_labels is None else read_labels(moving_labels)
    if labels is not None and not labels[0].geometry.same_as(read_geometry(moving)):
        raise BadInput(
            f"{moving_labels}: does not lie on the grid of {moving} (shape or affine differ); "
            "give the labels of that scan"
        )
    session = Session(run, device)
    transform = session.register(moving=moving, fixed=fixed)
    grid = read_geometry(fixed)
    moved = resample(read_image(moving), grid, transform)
    write_image(out / MOVED, moved, like=fixed)
    moved_labels = None
    if labels is not None:
        volume, dtype = labels
        moved_labels = out / MOVED_LABELS
        warped = resample(volume, grid, transform, labels=True)
        write_labels(moved_labels, warped, dtype, like=fixed)
    write_displacement(out / TRANSFORM, transform, grid, like=fixed)
    return Registered(out / MOVED, out / TRANSFORM, moved_labels, transform)


def _refuse_overwriting(inputs: Sequence[Path], out: Path) -> None:
    targets = [out / name for name in (MOVED, MOVED_LABELS, TRANSFORM)]
    faults = [
        f"{path}: would be overwritten by {target}; give another --out"
        for path in inputs
        for target in targets
        if path.exists() and target.exists() and target.samefile(path)
    ]
    if faults:
        raise BadInput(faults)
