"""The three files of `antsRegistration`, named by a prefix.

| file | maps |
| --- | --- |
| prefix0GenericAffine.mat | the affine part |
| prefix1Warp.nii.gz | fixed mm -> fixed mm, before the affine part |
| prefix1InverseWarp.nii.gz | its inverse |

Both fields lie on the fixed grid, as ANTs has them, and end there; `.h5` knows no such end.
`antsApplyTransforms -i moving -r fixed -t prefix1Warp.nii.gz -t prefix0GenericAffine.mat`; back:
`-i fixed -r moving -t [prefix0GenericAffine.mat,1] -t prefix1InverseWarp.nii.gz`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from deepatlas.io.atomic import write_bytes
from deepatlas.io.nifti import read_content
from deepatlas.io.transforms import mat
from deepatlas.io.transforms.inverting import inverting
from deepatlas.io.transforms.itk import from_records, to_records
from deepatlas.io.transforms.nifti import read_displacement, write_displacement
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, Composite, Transform


def ants_files(prefix: Path) -> list[Path]:
    """The files of a prefix: affine part, warp, inverse warp."""
    endings = ("0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz")
    return [prefix.with_name(prefix.name + ending) for ending in endings]


def write_ants(prefix: Path, transform: Transform, *, moving: Geometry, fixed: Geometry) -> None:
    """Write fixed mm -> moving mm as `antsRegistration --output prefix` would.

    Raises
    ------
    BadInput : a map without an inverse that could be held; then nothing is written.
    DeepAtlasError : no room or no right to write there.
    """
    affine, warp, inverse = ants_files(prefix)
    with inverting(prefix, "files of ants hold the inverse too: write .h5, or .nii.gz for a field"):
        backwards = transform.inverse()
    matrix = torch.eye(fixed.ndim + 1, dtype=torch.float64)
    for part in transform.parts():
        matrix = part.matrix @ matrix if isinstance(part, Affine) else matrix
    linear = Affine(matrix)
    write_bytes(affine, mat.encode(to_records(linear)))
    write_displacement(warp, Composite([transform, linear.inverse()]), fixed)
    write_displacement(inverse, Composite([linear, backwards]), fixed)


def read_ants(prefix: Path) -> Transform:
    """The map fixed mm -> moving mm of such files, which say themselves where they lie.

    Raises
    ------
    BadInput : a file that cannot be read.
    """
    affine, warp, _ = ants_files(prefix)
    linear = from_records(mat.decode(read_content(affine), affine), affine)
    return Composite([read_displacement(warp), linear])
