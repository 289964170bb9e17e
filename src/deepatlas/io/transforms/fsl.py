"""FSL's linear maps (flirt -omat): text, 4 x 4, from the moving ("in") to the fixed ("ref") scan.

FSL measures a scan in voxels times their size, and counts the first axis backwards where the
voxel-to-world matrix has a positive determinant ("neurological" storage). Jenkinson et al. 2002;
FSL's own documentation of FLIRT.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_text
from deepatlas.io.nifti import read_content
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, Transform


def write_fsl(path: Path, transform: Transform, *, moving: Geometry, fixed: Geometry) -> None:
    """Write the affine map fixed mm -> moving mm as `flirt -in moving -ref fixed` would.

    Raises
    ------
    BadInput : a map with displacement fields (which FSL keeps in another way), or slices.
    DeepAtlasError : no room or no right to write there.
    """
    parts = transform.parts()
    if len(parts) != 1 or not isinstance(parts[0], Affine):
        raise BadInput(
            f"{path}: an FSL matrix holds an affine map, and this one has displacement fields, "
            "which are not written for FSL: their handedness there was not checked; write .h5"
        )
    onto_moving = _to_fsl(moving, path) @ parts[0].matrix @ torch.linalg.inv(_to_fsl(fixed, path))
    rows = torch.linalg.inv(onto_moving).tolist()
    write_text(path, "".join("  ".join(f"{v:.12g}" for v in row) + "\n" for row in rows))


def read_fsl(path: Path, *, moving: Geometry, fixed: Geometry) -> Affine:
    """The map fixed mm -> moving mm of a FLIRT matrix between two grids.

    Raises
    ------
    BadInput : the file cannot be read, or is no such matrix.
    """
    try:
        rows = [
            [float(word) for word in line.split()]
            for line in read_content(path).decode("ascii").splitlines()
            if line.strip()
        ]
        matrix = torch.tensor(rows, dtype=torch.float64)
        inverse = torch.linalg.inv(matrix)
        if matrix.shape != (4, 4) or not matrix.isfinite().all():
            raise ValueError("its size or its numbers")
        whole = torch.linalg.inv(_to_fsl(moving, path)) @ inverse @ _to_fsl(fixed, path)
        whole[-1] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    except (ValueError, RuntimeError) as error:
        raise BadInput(
            f"{path}: not a FLIRT matrix of 4 x 4 numbers with an inverse ({error}); write it again"
        ) from None
    return Affine(whole)


def _to_fsl(grid: Geometry, path: Path) -> Tensor:
    """(4, 4) RAS mm to FSL's mm of a scan."""
    if grid.ndim != 3:
        raise BadInput(f"{path}: FSL's matrices are for volumes, not for slices; write .tfm")
    scale = torch.diag(torch.tensor([*grid.spacing_mm, 1.0], dtype=torch.float64))
    if torch.linalg.det(grid.affine) > 0:
        scale[0, 3] = (grid.shape[0] - 1) * grid.spacing_mm[0]
        scale[0, 0] = -scale[0, 0]
    return scale @ torch.linalg.inv(grid.affine)
