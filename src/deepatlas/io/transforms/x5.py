"""BIDS' X5 transforms (.x5, HDF5). Experimental: the format is a draft, as NiTransforms has it.

One node: an affine map, (4, 4) in RAS mm, or a dense field of steps in RAS mm on a grid. Both map
points of the fixed scan to the moving one.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_bytes
from deepatlas.io.nifti import read_content
from deepatlas.io.transforms.hdf5 import UNPACKED, check_heaps, write_packed
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, DisplacementField, Transform

_LINEAR = {"Type": "linear", "SubType": "affine", "Representation": "matrix"}
_FIELD = {"Type": "nonlinear", "SubType": "densefield", "Representation": "displacements"}


def write_x5(path: Path, transform: Transform, fixed: Geometry) -> None:
    """Write fixed mm -> moving mm; anything but an affine map becomes a field on the fixed grid.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    """
    parts = transform.parts()
    if len(parts) == 1 and isinstance(parts[0], Affine):
        kind, values = _LINEAR, parts[0].matrix.numpy()
    else:
        field = np.empty((*fixed.shape, fixed.ndim), dtype=np.float32)
        for rows, points in fixed.slabs():
            field[rows] = (transform(points) - points).numpy()
        kind, values = _FIELD, field
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs.update({"Format": "X5", "Version": np.uint16(1)})
        node = file.create_group("TransformGroup/0")
        node.attrs.update({**kind, "ArrayLength": 1})
        node.attrs["Metadata"] = json.dumps({"WrittenBy": "deepatlas"})
        if kind is _FIELD:
            write_packed(node, "Transform", values)
        else:
            node["Transform"] = values
        node["DimensionKinds"] = np.array([*["space"] * fixed.ndim, "vector"], dtype="S")
        domain = node.create_group("Domain")
        domain.attrs["Coordinates"] = "cartesian"
        domain["Grid"] = np.uint8(1)
        domain["Size"] = np.array(fixed.shape)
        domain["Mapping"] = fixed.affine.numpy()
    write_bytes(path, content.getvalue())


def read_x5(path: Path) -> Affine | DisplacementField:
    """The transform of a file that holds a single one, fixed mm -> moving mm.

    Raises
    ------
    BadInput : the file cannot be read, or holds several transforms or one of another kind.
    """
    try:
        content = read_content(path)
        check_heaps(content)
        with h5py.File(io.BytesIO(content), "r") as file:
            nodes = list(file["TransformGroup"].values())
            claimed = sum(node["Transform"].nbytes for node in nodes)
            if claimed > len(content) * UNPACKED:
                raise ValueError(f"it claims {claimed} bytes")
            kinds = [{name: str(node.attrs.get(name, "")) for name in _FIELD} for node in nodes]
            if kinds == [_LINEAR] and nodes[0].attrs.get("ArrayLength", 1) == 1:
                matrix = torch.from_numpy(nodes[0]["Transform"][()].astype(np.float64))
                if not bool(torch.linalg.inv(matrix).isfinite().all()):
                    raise ValueError("a matrix without an inverse")
                return Affine(matrix)
            if kinds == [_FIELD]:
                return _field(nodes[0])
    except BadInput:
        raise
    except Exception as error:  # h5py raises nearly anything for a damaged file
        raise BadInput(
            f"{path}: damaged, or not an X5 transform ({error}); copy or write it again"
        ) from error
    raise BadInput(
        f"{path}: holds {kinds or 'no transform'}; only a single affine matrix or dense field of "
        "displacements is read of the draft format X5: write it as ITK's .h5"
    )


def _field(node: h5py.Group) -> DisplacementField:
    affine = torch.from_numpy(node["Domain/Mapping"][()].astype(np.float64))
    shape = tuple(int(n) for n in node["Domain/Size"][()])
    step_mm = torch.from_numpy(node["Transform"][()].astype(np.float64))
    voxels = step_mm @ torch.linalg.inv(affine[:-1, :-1]).T
    if not bool(voxels.isfinite().all()):
        raise ValueError("steps that are NaN or infinite")
    return DisplacementField(voxels.movedim(-1, 0), Geometry(shape, affine))
