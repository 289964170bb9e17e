"""Register two scans and write the moved image, the moved labels and the transform."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.inference import memory
from deepatlas.inference.chain import RECORD
from deepatlas.inference.memory import Room
from deepatlas.inference.session import Session
from deepatlas.io.atomic import write_json
from deepatlas.io.header import say_if_forms_differ, scaling
from deepatlas.io.images import (
    read_content,
    read_geometry,
    read_header,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from deepatlas.io.paths import refuse_overwriting
from deepatlas.io.transforms import write_displacement, write_transform
from deepatlas.io.transforms.inverting import inverting
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform, resample

MOVED, MOVED_LABELS = "moved.nii.gz", "moved_labels.nii.gz"
TRANSFORM, AFFINE = "transform.h5", "affine.mat"
FIELD, INVERSE, INVERSE_FIELD = (
    "transform.nii.gz", "inverse_transform.h5", "inverse_transform.nii.gz",
)  # fmt: skip
NAMES = (MOVED, MOVED_LABELS, TRANSFORM, AFFINE, RECORD, FIELD, INVERSE, INVERSE_FIELD)

_PARTS = {
    TRANSFORM: "the whole map, a composite of ITK",
    AFFINE: "its affine part alone, which aligns the scans before the network",
    FIELD: "the whole map as one field on the fixed grid",
    INVERSE: "the map from moving to fixed",
    INVERSE_FIELD: "the map from moving to fixed as one field on the moving grid",
}

Write = Literal["main", "all"]
Found = tuple[Transform, Transform]
_EXACT = 2.0**24  # up to which float32 holds every integer


@dataclass(frozen=True)
class Registered:
    """What a registration wrote, and the map itself, fixed mm to moving mm.

    Attributes
    ----------
    moved, moved_labels : on the fixed scan's grid; the latter None without labels.
    transform_file : the whole map as ITK reads it (HDF5).
    affine_file : its affine part alone, what preparation did without the network.
    record : JSON that says in words what maps to what, with checksums.
    inverse_file : the map from moving to fixed; None unless all was asked for.
    files : every file written.
    """

    moved: Path
    moved_labels: Path | None
    transform_file: Path
    affine_file: Path
    record: Path
    inverse_file: Path | None
    files: tuple[Path, ...]
    transform: Transform


def register(
    run: RunFolder,
    *,
    moving: Path,
    fixed: Path,
    out: Path,
    moving_labels: Path | None = None,
    write: Write = "main",
    keep_dtype: bool = False,
    device: torch.device | str = "cpu",
    max_memory: int | str | None = None,
) -> Registered:
    """Write moved image and labels, and the transform in ITK's forms, into `out`.

    A run's networks at work; see `write_registration` for what is written and refused.

    Raises
    ------
    BadInput : a run without a registration network, and what `write_registration` refuses.
    """

    def find() -> Found:
        session = Session(run, device, max_memory=max_memory)
        pair = {"moving": moving, "fixed": fixed}
        return session.register(**pair), session.alignment(**pair)

    return write_registration(
        find, moving=moving, fixed=fixed, out=out, moving_labels=moving_labels, write=write,
        keep_dtype=keep_dtype, max_memory=max_memory,
    )  # fmt: skip


def write_registration(
    find: Callable[[], Found],
    *,
    moving: Path,
    fixed: Path,
    out: Path,
    moving_labels: Path | None = None,
    write: Write = "main",
    keep_dtype: bool = False,
    max_memory: int | str | None = None,
) -> Registered:
    """Write what a registration of two scans found, however it did.

    Images are NIfTI files on the fixed scan's grid, with the header of a fixed NIfTI file; each is
    interpolated once.

    Parameters
    ----------
    find : gives the whole map, fixed mm to moving mm, and its affine part alone; called once all
        that is asked for has been checked.
    write : "main", or "all" for the inverse and for both maps as one field on the grid of the scan
        they start from.
    keep_dtype : write the moved image in the moving scan's type; integers are rounded and clipped.
    max_memory : bytes that the process aims to stay below, see `Session`; files are written side by
        side as far as it allows.

    Raises
    ------
    BadInput : a file that cannot be read or would be overwritten, labels on another grid than
        the moving scan, too little memory, or an inverse that could not be held, of which all else
        is written first.
    """
    out = Path(out)
    if write not in ("main", "all"):
        raise BadInput(f"there is nothing called {write!r} to write; choose main or all")
    refuse_overwriting((moving, fixed, moving_labels), [out / name for name in NAMES])
    labels = None if moving_labels is None else _labels_of(moving, moving_labels)
    image, dtype = _image_and_type(moving, keep_dtype=keep_dtype)
    for path in (moving, fixed):
        say_if_forms_differ(read_header(path), path)
    transform, affine = find()
    grid = read_geometry(fixed)

    def write_moved() -> None:
        moved = resample(image, grid, transform)
        write_image(out / MOVED, moved, like=fixed, dtype=dtype)

    def write_moved_labels() -> None:
        assert labels is not None
        volume, kind = labels
        moved = resample(volume, grid, transform, labels=True)
        write_labels(out / MOVED_LABELS, moved, kind, like=fixed)

    work: dict[str, Callable[[], None]] = {MOVED: write_moved}
    if labels is not None:
        work[MOVED_LABELS] = write_moved_labels
    room = Room(max_memory)
    inverse = _inverse(out, transform, room) if write == "all" else None
    work |= _maps(out, transform, affine, inverse, moving=moving, fixed=fixed)
    for name in set(NAMES) - set(work):  # of another pair, whose record is about to go
        (out / name).unlink(missing_ok=True)
    needs = _needs(
        image.geometry, grid, transform, dtype, 8 if labels is None else labels[1].itemsize
    )
    room.measure()
    _at_once(out, work, needs, room)
    write_json(out / RECORD, _describe(out, list(work), moving=moving, fixed=fixed))
    if isinstance(inverse, BadInput):
        raise inverse
    return Registered(
        moved=out / MOVED,
        moved_labels=out / MOVED_LABELS if labels is not None else None,
        transform_file=out / TRANSFORM,
        affine_file=out / AFFINE,
        record=out / RECORD,
        inverse_file=out / INVERSE if write == "all" else None,
        files=tuple(out / name for name in [*work, RECORD]),
        transform=transform,
    )


def _labels_of(moving: Path, moving_labels: Path) -> tuple[Volume, np.dtype]:
    """The label map of the moving scan; BadInput where it lies elsewhere."""
    labels = read_labels(moving_labels)
    if not labels[0].geometry.coincides_with(read_geometry(moving)):
        raise BadInput(
            f"{moving_labels}: does not lie on the grid of {moving} (shape or affine differ); "
            "give the labels of that scan"
        )
    return labels


def _image_and_type(moving: Path, *, keep_dtype: bool) -> tuple[Volume, np.dtype]:
    """The moving scan, and the type that the moved one is written in."""
    dtype = _dtype_of(moving) if keep_dtype else np.dtype(np.float32)
    image = read_image(moving)
    if keep_dtype and dtype.kind in "iu" and float(image.data.abs().max()) > _EXACT:
        raise BadInput(
            f"{moving}: has values above 2^24, which interpolation in float32 does not keep; "
            "leave --keep-dtype out"
        )
    return image, dtype


def _inverse(out: Path, transform: Transform, room: Room) -> Transform | BadInput:
    """The inverse of the map, or why there is none, for which what was found is not lost."""
    remedy = "the other files are written: leave out --write all"
    try:
        with inverting(out / TRANSFORM, remedy):
            need = memory.for_inverse(transform)
            room.refuse(f"{out}: inverting the map", need, f"give it more; {remedy}")
            return transform.inverse()
    except BadInput as error:
        return error


def _maps(
    out: Path,
    transform: Transform,
    affine: Transform,
    inverse: Transform | BadInput | None,
    *,
    moving: Path,
    fixed: Path,
) -> dict[str, Callable[[], None]]:
    """What writes each file of the map, by name; of its inverse too where that is there."""
    (linear,) = Composite([Affine.identity(read_geometry(fixed).ndim), affine]).parts()
    assert isinstance(linear, Affine)
    work: dict[str, Callable[[], None]] = {
        TRANSFORM: partial(write_transform, out / TRANSFORM, transform),
        AFFINE: partial(write_transform, out / AFFINE, linear),
    }
    fields = {FIELD: (transform, fixed)} if inverse is not None else {}
    if isinstance(inverse, Transform):
        fields[INVERSE_FIELD] = (inverse, moving)
        work[INVERSE] = partial(write_transform, out / INVERSE, inverse)
    for name, (way, start) in fields.items():
        grid = read_geometry(start)
        work[name] = partial(write_displacement, out / name, way, grid, like=start)
    return work


def _needs(
    start: Geometry, grid: Geometry, transform: Transform, dtype: np.dtype, label_size: int
) -> dict[str, float]:
    """Bytes that writing each file takes; see `inference.memory`."""
    d, fixed, moving = grid.ndim, math.prod(grid.shape), math.prod(start.shape)
    field = max((p.voxels.numel() for p in transform.parts() if isinstance(p, DisplacementField)),
                default=0)  # fmt: skip
    map_file = 16.0 * field  # vectors in mm twice, and the file twice
    return {
        MOVED: (8.0 if dtype.kind == "f" else 30.0) * fixed + memory.slab(grid.shape),
        MOVED_LABELS: (8.0 + label_size) * fixed + memory.slab(grid.shape),
        TRANSFORM: map_file,
        INVERSE: map_file,
        FIELD: 8.0 * d * fixed + memory.slab(grid.shape),
        INVERSE_FIELD: 8.0 * d * moving + memory.slab(start.shape),
    }


def _at_once(
    out: Path, work: Mapping[str, Callable[[], None]], needs: Mapping[str, float], room: Room
) -> None:
    """Do all side by side, as far as there is memory: packing a file keeps one core busy."""
    for name in work:
        room.refuse(f"{out / name}: writing it", needs.get(name, 0.0), "give it more")

    def do(name: str) -> None:
        with room.taking(needs.get(name, 0.0)):
            work[name]()

    with ThreadPoolExecutor() as pool:
        for future in [pool.submit(do, name) for name in work]:
            future.result()


def _describe(out: Path, names: Sequence[str], *, moving: Path, fixed: Path) -> dict[str, Any]:
    """The contents of transform.json."""
    return {
        "from": {"scan": "fixed", "file": str(fixed), "sha256": _digest(read_content(fixed))},
        "to": {"scan": "moving", "file": str(moving), "sha256": _digest(read_content(moving))},
        "direction": "a point of the fixed scan is mapped to the point of the moving scan that "
        "shows the same anatomy; images move the other way, from moving to fixed",
        "units": "mm",
        "axes": "LPS in the files, as in ITK",
        "parts": {name: words for name, words in _PARTS.items() if name in names},
        "files": {name: _digest((out / name).read_bytes()) for name in names},
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _dtype_of(path: Path) -> np.dtype:
    """The type of a scan's values on disk; BadInput where a slope stands between."""
    header = read_header(path)
    if (found := scaling(header)) is not None:
        raise BadInput(
            f"{path}: stores its values scaled (slope {found[0]:g}, intercept {found[1]:g}), and "
            "its integer type cannot hold them as they are; leave --keep-dtype out"
        )
    return header.get_data_dtype().newbyteorder("=")
