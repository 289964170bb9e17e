"""Every kind of file that is read: how a sample is made, and what reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from dicom_files import packed, write_frames, write_series

from deepatlas.inference.chain import warp
from deepatlas.io.images import FORMATS as SCANS
from deepatlas.io.images import read_geometry, read_image, read_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.io.points import read_points
from deepatlas.io.transforms import FOREIGN, read_transform, write_displacement, write_transform
from deepatlas.io.transforms import FORMATS as TRANSFORMS
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform

GRID = Geometry((6, 5, 4), torch.diag(torch.tensor([1.5, -2.0, 3.0, 1.0])))
VALUES = np.arange(120).reshape(6, 5, 4).astype("int16")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    name : of the sample.
    make : writes it.
    reads : what reads such a file; each returns something or raises BadInput.
    header : bytes at its beginning that are all tried; beyond, some are.
    apply : a verb that reads the file and writes results into a folder; None where there is none.
    damage : the part of the sample that is damaged; the sample itself without it.
    """

    name: str
    make: Callable[[Path], object]
    reads: tuple[Callable[[Path], Any], ...]
    header: int = 400
    apply: Callable[[Path, Path], object] | None = None
    damage: str = ""


def some_affine(ndim: int = 3) -> Affine:
    matrix = torch.eye(ndim + 1, dtype=torch.float64)
    matrix[:ndim, ndim] = 0.5
    return Affine(matrix)


def some_field() -> DisplacementField:
    return DisplacementField(torch.full((3, 6, 5, 4), 0.3), GRID)


def by_itk(path: Path, values: np.ndarray, **how: Any) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing((1.5, 2.0, 3.0)[: values.ndim])
    sitk.WriteImage(image, str(path), **how)


def by_nibabel(path: Path) -> None:
    kind = nib.MGHImage if path.suffix.startswith(".mg") else nib.Nifti1Image
    nib.save(kind(VALUES, GRID.affine.numpy()), path)


def warp_scan(path: Path, out: Path) -> None:
    transform, flat = out.parent / "t.mat", path.suffix in (".png", ".tif", ".tiff")
    write_transform(transform, some_affine(2 if flat else 3))
    good = out.parent / ("onto.png" if flat else "onto.nii")
    by_itk(good, VALUES[..., 0].astype("uint8") if flat else VALUES)
    warp([transform], image=path, onto=good, out=out)


def warp_by(path: Path, out: Path) -> None:
    by_nibabel(out.parent / "scan.nii")
    warp([path], image=out.parent / "scan.nii", onto=out.parent / "scan.nii", out=out)


def warp_points(path: Path, out: Path) -> None:
    write_transform(out.parent / "t.mat", some_affine())
    warp([out.parent / "t.mat"], points=path, out=out)


def a_cohort(path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (path.parent / folder).mkdir(exist_ok=True)
    by_nibabel(path.parent / "imagesTr/a.nii")
    path.write_text(json.dumps({"labels": {"0": "background", "1": "left", "2": "right"}}))


def scan(ending: str, make: Callable[[Path], object], header: int = 400) -> Kind:
    reads = (read_geometry, read_image, read_labels)
    return Kind(f"a{ending}", make, reads, header, warp_scan)


def frames(path: Path) -> None:
    write_frames(path, VALUES, GRID.affine.numpy())


def series(path: Path) -> None:
    write_series(path, VALUES, GRID.affine.numpy())


def packed_series(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (24, 32, 3)).astype("uint16")
    for file in write_series(path, noise, GRID.affine.numpy()).iterdir():
        packed(file, "JPEG2000")


def transform(ending: str, whole: Transform, header: int) -> Kind:
    def make(path: Path) -> None:
        if ending.startswith(".nii"):
            write_displacement(path, whole, GRID)
        else:
            write_transform(path, whole, GRID)

    return Kind(f"t{ending}", make, (read_transform,), header, warp_by)


def foreign(name: str, ending: str, whole: Transform) -> Kind:
    grids = {"moving": GRID, "fixed": GRID}
    return Kind(
        f"{name}{ending}",
        lambda path: FOREIGN[name].write(path, whole, **grids),
        (lambda path: FOREIGN[name].read(path, **grids),),
    )


CHAIN = Composite([some_affine(), some_field()])
KINDS = (
    scan(".nii", by_nibabel),
    scan(".nii.gz", by_nibabel),
    scan(".mha", lambda path: by_itk(path, VALUES, useCompression=True)),
    scan(".mhd", lambda path: by_itk(path, VALUES)),
    scan(".nrrd", lambda path: by_itk(path, VALUES, useCompression=True)),
    scan(".mgz", by_nibabel),
    scan(".mgh", by_nibabel, header=284),
    scan(".png", lambda path: by_itk(path, VALUES[..., 0].astype("uint8"))),
    scan(".tif", lambda path: by_itk(path, VALUES[..., 0].astype("float32"))),
    scan(".tiff", lambda path: by_itk(path, VALUES[..., 0].astype("uint16"))),
    scan(".dcm", frames, header=700),
    Kind("series", series, (read_geometry, read_image), 150, warp_scan, "im001.dcm"),
    Kind("packed", packed_series, (read_image,), 150, warp_scan, "im001.dcm"),
    transform(".h5", CHAIN, 800),
    transform(".hdf5", some_affine(), 200),
    transform(".x5", CHAIN, 800),
    transform(".mat", some_affine(), 400),
    transform(".tfm", some_affine(), 400),
    transform(".txt", some_affine(), 400),
    transform(".nii", some_field(), 400),
    transform(".nii.gz", some_field(), 100),
    foreign("fsl", ".mat", some_affine()),
    foreign("learn2reg", ".nii.gz", some_field()),
    Kind("p.csv", lambda p: p.write_text("name,x,y,z\na,1,2,3\nb,4,-5,6.5\n"), (read_points,),
         apply=warp_points),
    Kind("dataset.json", a_cohort, (lambda path: read_cohort(path.parent).faults,)),
)  # fmt: skip


def all_kinds_are_here() -> bool:
    """One of every row of the tables of formats."""
    names = {kind.name for kind in KINDS}
    wanted = {f"a{ending}" for ending in SCANS} | {f"t{ending}" for ending in TRANSFORMS}
    foreign = set(FOREIGN) - {"ants"}  # three files of kinds that are here
    return names >= wanted and {name.partition(".")[0] for name in names} >= foreign
