"""Packed scans written and read, and a map written, by a process that is up already."""

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

Writer = Callable[[str], object]
Writers = dict[str, Writer]


def scan_written(size: int) -> Case:
    """As .nii.gz; everyone packs as hard as they do by default."""
    volume = _scan(size)
    array, affine = volume.data.numpy(), volume.geometry.affine.numpy()
    picture = SimpleITK.GetImageFromArray(array.T.copy())
    writers: Writers = {
        "deepatlas": lambda path: write_image(Path(path), volume),
        "nibabel": lambda path: nibabel.save(nibabel.Nifti1Image(array, affine), path),
        "SimpleITK": lambda path: SimpleITK.WriteImage(picture, path, useCompression=True),
    }
    return _written(writers, "scan.nii.gz", "packed as each does it by default")


def map_written(size: int) -> Case:
    """A field as .h5."""
    grid = Geometry.axis_aligned((size,) * 3, (1.0,) * 3)
    field = inputs.field(1, grid.shape)[0].cpu()
    ours = DisplacementField(field, grid)
    array = field.numpy().transpose(3, 2, 1, 0).astype(np.float64)
    theirs = SimpleITK.DisplacementFieldTransform(SimpleITK.GetImageFromArray(array, isVector=True))
    writers: Writers = {
        "deepatlas": lambda path: write_transform(Path(path), ours),
        "SimpleITK": lambda path: SimpleITK.WriteTransform(theirs, path),
    }
    return _written(writers, "map.h5", "float32 and packed; ITK: float64, not packed")


def _written(writers: Writers, name: str, note: str) -> Case:
    folder = tempfile.TemporaryDirectory()
    candidates = []
    for number, (who, write) in enumerate(writers.items()):

        def run(number: int = number, write: Writer = write) -> Outputs:
            write(f"{folder.name}/{number}-{name}")  # the folder stays as long as this
            return ()

        run()
        size = Path(folder.name, f"{number}-{name}").stat().st_size
        candidates.append(Candidate(who, run, f"{size / 1e6:.1f} MB"))
    return Case(candidates, comparable=False, note=note)


def scan_read(size: int) -> Case:
    """From .nii.gz, as nibabel wrote it."""
    folder, volume = tempfile.TemporaryDirectory(), _scan(size)
    array, affine = volume.data.numpy(), volume.geometry.affine.numpy()

    def path() -> str:
        return f"{folder.name}/scan.nii.gz"  # the folder stays as long as this

    nibabel.save(nibabel.Nifti1Image(array, affine), path())

    def ours() -> Outputs:
        return (read_image(Path(path())).data,)

    def by_nibabel() -> Outputs:
        return (torch.from_numpy(np.asarray(nibabel.load(path()).dataobj, np.float32)),)

    def by_itk() -> Outputs:
        picture = SimpleITK.ReadImage(path(), SimpleITK.sitkFloat32)
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
