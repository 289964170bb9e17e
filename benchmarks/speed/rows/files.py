"""Files, as the system keeps them in memory: packed scans written and read, a map written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
import torch

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from deepatlas.data.phantom import Phantom
from deepatlas.io.images import read_image, write_image
from deepatlas.io.transforms import write_transform
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import DisplacementField


def scan_written(size: int) -> Case:
    """As .nii.gz; everyone packs as hard as they do by default."""
    folder, volume = tempfile.TemporaryDirectory(), _scan(size)
    array, affine = volume.data.numpy(), volume.geometry.affine.numpy()
    picture = SimpleITK.GetImageFromArray(array.T.copy())
    return _written(
        folder,
        {
            "deepatlas": lambda path: write_image(path, volume),
            "nibabel": lambda path: nibabel.save(nibabel.Nifti1Image(array, affine), path),
            "SimpleITK": lambda path: SimpleITK.WriteImage(picture, path, useCompression=True),
        },
        "scan.nii.gz",
    )


def map_written(size: int) -> Case:
    """A field as .h5; ITK does not pack it."""
    folder = tempfile.TemporaryDirectory()
    grid = Geometry.axis_aligned((size,) * 3, (1.0,) * 3)
    field = inputs.field(1, grid.shape)[0].cpu()
    ours = DisplacementField(field, grid)
    array = field.numpy().transpose(3, 2, 1, 0).astype(np.float64)
    theirs = SimpleITK.DisplacementFieldTransform(SimpleITK.GetImageFromArray(array, isVector=True))
    return _written(
        folder,
        {
            "deepatlas": lambda path: write_transform(path, ours),
            "SimpleITK": lambda path: SimpleITK.WriteTransform(theirs, path),
        },
        "map.h5",
    )


def _written(
    folder: tempfile.TemporaryDirectory[str],
    writers: dict[str, Callable[[str], object]],
    name: str,
) -> Case:
    candidates = []
    for who, write in writers.items():
        path = Path(folder.name) / who / name
        path.parent.mkdir()
        write(str(path))
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        candidates.append(Candidate(who, _calling(folder, write, str(path)), size))
    return Case(candidates, comparable=False, note="packed as each does it by default")


def _calling(
    folder: tempfile.TemporaryDirectory[str], write: Callable[[str], object], path: str
) -> Callable[[], Outputs]:
    def run() -> Outputs:
        assert folder.name  # the folder stays as long as this
        write(path)
        return ()

    return run


def scan_read(size: int) -> Case:
    """From .nii.gz, as nibabel wrote it."""
    folder, volume = tempfile.TemporaryDirectory(), _scan(size)
    path = str(Path(folder.name) / "scan.nii.gz")
    array, affine = volume.data.numpy(), volume.geometry.affine.numpy()
    nibabel.save(nibabel.Nifti1Image(array, affine), path)

    def ours() -> Outputs:
        assert folder.name
        return (read_image(Path(path)).data,)

    def by_nibabel() -> Outputs:
        return (torch.from_numpy(np.asarray(nibabel.load(path).dataobj, np.float32)),)

    def by_itk() -> Outputs:
        picture = SimpleITK.ReadImage(path, SimpleITK.sitkFloat32)
        return (torch.from_numpy(SimpleITK.GetArrayFromImage(picture)).permute(2, 1, 0),)

    candidates = {"deepatlas": ours, "nibabel": by_nibabel, "SimpleITK": by_itk}
    return Case([Candidate(who, run, exact=by_itk) for who, run in candidates.items()])


def _scan(size: int) -> Volume:
    image = Phantom(seed=0, shape=(size,) * 3).subject(0).image
    return Volume(image.data.cpu(), image.geometry)


ROWS = (
    Row(
        "write", "a scan written, .nii.gz", scan_written, {"size": 160}, {"size": 96}, {"size": 16},
        seconds=15.0,
    ),
    Row(
        "read", "a scan read, .nii.gz", scan_read, {"size": 160}, {"size": 96}, {"size": 16},
        seconds=15.0,
    ),
    Row(
        "write-map", "a map written, .h5", map_written, {"size": 112}, {"size": 64}, {"size": 16},
        seconds=15.0,
    ),
)  # fmt: skip
