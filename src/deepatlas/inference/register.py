"""Register two scans and write the moved image, the moved labels and the transform."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

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
    BadInput : a file that cannot be read, or a run without a registration network.
    """
    labels = None if moving_labels is None else read_labels(moving_labels)
    session = Session(run, device)
    transform = session.register(moving=moving, fixed=fixed)
    grid = read_geometry(fixed)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    moved = resample(read_image(moving), grid, transform)
    write_image(out / "moved.nii.gz", moved, like=fixed)
    moved_labels = None
    if labels is not None:
        volume, dtype = labels
        moved_labels = out / "moved_labels.nii.gz"
        warped = resample(volume, grid, transform, labels=True)
        write_labels(moved_labels, warped, dtype, like=fixed)
    write_displacement(out / "transform.nii.gz", transform, grid, like=fixed)
    return Registered(out / "moved.nii.gz", out / "transform.nii.gz", moved_labels, transform)
