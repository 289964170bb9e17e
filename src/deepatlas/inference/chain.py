"""Transforms from files, one after another: checked to fit, said in words, applied."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.inference.memory import Room, for_chain, for_inverse, to_read
from deepatlas.io.header import say_if_forms_differ
from deepatlas.io.images import (
    nifti_name,
    read_content,
    read_geometry,
    read_header,
    read_image,
    read_labels,
    scan_id,
    write_image,
    write_labels,
)
from deepatlas.io.paths import refuse_overwriting
from deepatlas.io.points import Axes, moved, read_points, write_points
from deepatlas.io.transforms import (
    FOREIGN,
    Foreign,
    needs_grid,
    read_transform,
    write_transform,
)
from deepatlas.io.transforms.inverting import inverting
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Composite, Transform, find_points, resample

RECORD = "transform.json"  # beside the files that `register` writes
BACKWARDS = "inverse_"  # how the names of inverse maps begin there
_LOST_MM = 0.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """A transform file and what is known about its ends.

    Attributes
    ----------
    start, end : (name of the scan, its SHA-256) where points come from and go to; None where no
        record beside the file tells.
    """

    path: Path
    transform: Transform
    start: tuple[str, str] | None = None
    end: tuple[str, str] | None = None

    def words(self) -> str:
        """What the file maps to what."""
        if self.start is None or self.end is None:
            return f"{self.path}: maps points, from and to scans that no {RECORD} beside it names"
        return f"{self.path}: maps points of {self.start[0]} to {self.end[0]}"


@dataclass(frozen=True)
class Warped:
    """The files that were written, and the map that was applied, from fixed mm to moving mm."""

    files: tuple[Path, ...]
    transform: Transform


def read_chain(paths: Sequence[Path]) -> list[Link]:
    """The links of a chain, the first applied first.

    Raises
    ------
    BadInput : a file that cannot be read, links of different dimensions, or one that does not
        begin where the one before it ends.
    """
    links = [_read_link(Path(path)) for path in paths]
    if not links:
        raise BadInput("no transform given; name at least one file")
    for before, after in itertools.pairwise(links):
        if _ndim(before.transform) != _ndim(after.transform):
            raise BadInput(f"{after.path}: is of other dimensions than {before.path}")
        if before.end and after.start and before.end[1] != after.start[1]:
            raise BadInput(
                f"{after.path}: starts at {after.start[0]}, and {before.path} before it ends at "
                f"{before.end[0]}; give the transforms in the order in which points pass them"
            )
    return links


def convert(
    transforms: Sequence[Path],
    *,
    out: Path,
    moving: Path | None = None,
    fixed: Path | None = None,
    read_as: str | None = None,
    write_as: str | None = None,
    inverse: bool = False,
) -> Transform:
    """Write transform files, one after another, as one file of another format.

    Parameters
    ----------
    out : the file; its name says the format: .h5, .mat, .tfm, or, for one displacement field on the
        grid of `fixed`, .nii.gz or .x5. For "ants" the prefix of its three files.
    moving, fixed : the scans, where a format needs their grids.
    read_as, write_as : "ants", "fsl" or "learn2reg", for files of these forms; both scans are
        needed, but to read files of ants.
    inverse : write the map from moving to fixed; the scans stay those of the map that is read.

    Raises
    ------
    BadInput : files that cannot be read, a form that cannot hold the map, scans that are missing
        or that nothing needs.
    """
    out = Path(out)
    form, target = (None if name is None else _form(name) for name in (read_as, write_as))
    targets = [out] if target is None else target.files(out)
    files = transforms if form is None else [
        file for path in transforms for file in form.files(Path(path))
    ]  # fmt: skip
    refuse_overwriting([*files, moving, fixed], targets)
    if target is None and (form is None or form.reads_alone):
        start, end = (moving, fixed) if inverse else (fixed, moving)
        if unneeded := end or (None if needs_grid(out) else start):
            raise BadInput(f"{unneeded}: nothing needs the grid of this scan; leave it out")
    if form is None:
        links = read_chain(transforms)
    else:
        if len(transforms) != 1:
            raise BadInput(
                f"{len(transforms)} files of {read_as} between the same two scans; give one, and "
                "join several after converting each"
            )
        grids = {} if form.reads_alone else _grids(moving, fixed, f"files of {read_as}")
        links = [Link(Path(path), form.read(Path(path), **grids)) for path in transforms]
    whole = whole_map(links, inverse=inverse)
    for path in (moving, fixed):
        if path is not None:
            say_if_forms_differ(read_header(path), path)
    moving, fixed = (fixed, moving) if inverse else (moving, fixed)
    if target is not None:
        grids = _grids(moving, fixed, f"files of {write_as}")
        for grid in grids.values():
            fit(links, grid.ndim, out)
        target.write(out, whole, **grids)
    elif fixed is not None:
        grid = read_geometry(fixed)
        fit(links, grid.ndim, fixed)
        write_transform(out, whole, grid, like=fixed)
    else:
        write_transform(out, whole)
    return whole


def _form(name: str) -> Foreign:
    if name not in FOREIGN:
        raise BadInput(f"there is no form {name!r} of transforms; choose {' or '.join(FOREIGN)}")
    return FOREIGN[name]


def _grids(moving: Path | None, fixed: Path | None, what: str) -> dict[str, Geometry]:
    if moving is None or fixed is None:
        raise BadInput(f"{what} need the grids of both scans; give moving and fixed")
    grids = {"moving": read_geometry(moving), "fixed": read_geometry(fixed)}
    if grids["moving"].ndim != grids["fixed"].ndim:
        raise BadInput(f"{moving}: is of other dimensions than {fixed}; give a pair of scans")
    return grids


def warp(
    transforms: Sequence[Path],
    *,
    out: Path,
    image: Path | None = None,
    labels: Path | None = None,
    points: Path | None = None,
    onto: Path | None = None,
    inverse: bool = False,
    axes: Axes = "RAS",
    max_memory: int | str | None = None,
) -> Warped:
    """Apply transform files to a scan, a label map or landmarks; results keep their files' names.

    Images and labels of another format than NIfTI become <name>.nii.gz.

    Points go from the fixed scan to the moving one, images and labels the other way: they are
    looked up in the moving scan, on the grid of `onto`, each by one interpolation.

    Parameters
    ----------
    transforms : files, in the order in which a point of the fixed scan passes them.
    onto : the fixed scan, whose grid images and labels get.
    inverse : use the inverse of the whole chain; then points come from the moving scan.
    axes : of the landmarks' file.
    max_memory : bytes that the process aims to stay below, "8GB" for example; None for most of
        what is free.

    Raises
    ------
    BadInput : nothing to warp, images without `onto`, a result that would overwrite its input,
        files that cannot be read or do not fit, or too little memory.
    """
    inputs = [Path(path) for path in (image, labels, points) if path is not None]
    targets = [Path(out) / (path.name if path == points else nifti_name(path)) for path in inputs]
    _check(inputs, targets, image=image, labels=labels, points=points, onto=onto, axes=axes)
    refuse_overwriting([*inputs, onto, *transforms], targets)
    links, room = read_chain(transforms), Room(max_memory)
    whole = whole_map(links, inverse=inverse, room=room)
    _refuse_swapped(links, image=image, labels=labels, onto=onto, inverse=inverse)
    forwards = Composite([link.transform for link in links])
    for path in dict.fromkeys(path for path in (image, labels, onto) if path is not None):
        say_if_forms_differ(read_header(path), path)
    work: list[Callable[[], None]] = []  # what is wrong in any input is said before a file is made
    for path, target in zip(inputs, targets, strict=True):
        if path == points:
            found = read_points(path, axes)
            fit(links, found.mm.shape[1], path)
            there = _found(forwards, whole, found.mm, path) if inverse else whole(found.mm)
            work.append(partial(write_points, target, moved(found, there), axes))
            continue
        assert onto is not None
        grid = read_geometry(onto)
        fit(links, grid.ndim, onto)
        reading = to_read(path, grid.shape, labels=path == labels)
        need = reading + 16.0 * math.prod(grid.shape) + for_chain(whole)
        room.measure()
        room.refuse(f"{path}: warping it", need, "give it more, or crop the scans")
        if path == image:
            volume = read_image(path)
            fit(links, volume.geometry.ndim, path)
            warped = resample(volume, grid, whole)
            work.append(partial(write_image, target, warped, like=onto))
        else:
            volume, dtype = read_labels(path)
            fit(links, volume.geometry.ndim, path)
            warped = resample(volume, grid, whole, labels=True)
            work.append(partial(write_labels, target, warped, dtype, like=onto))
    for write in work:
        write()
    return Warped(tuple(targets), whole)


def _check(
    inputs: Sequence[Path],
    targets: Sequence[Path],
    *,
    image: Path | None,
    labels: Path | None,
    points: Path | None,
    onto: Path | None,
    axes: str,
) -> None:
    if not inputs:
        raise BadInput("nothing to warp; give an image, labels or points")
    if axes not in ("RAS", "LPS"):
        raise BadInput(f"axes of landmarks are RAS or LPS, not {axes!r}")
    if axes != "RAS" and points is None:
        raise BadInput(f"only landmarks have axes that can be {axes}; leave that out")
    if (image or labels) and onto is None:
        raise BadInput(
            f"{image or labels}: on which grid? give the scan whose grid the result gets (onto)"
        )
    if onto is not None and not image and not labels:
        raise BadInput(f"{onto}: points need no grid; leave it out")
    names = [path.name for path in targets]
    faults = [f"{name}: two results of this name; warp them one at a time"
              for name in sorted({n for n in names if names.count(n) > 1})]  # fmt: skip
    if faults:
        raise BadInput(faults)


def whole_map(
    links: Sequence[Link], *, inverse: bool = False, room: Room | None = None
) -> Transform:
    """All links as one map, or its inverse; the chain is said in words.

    Parameters
    ----------
    room : the memory that inverting may take; None for most of what is free.

    Raises
    ------
    BadInput : a link that has no inverse that could be held, or too little memory for it.
    """
    for link in links:
        _log.info("%s", link.words())
    if not inverse:
        return Composite([link.transform for link in links])
    _log.info("the inverse of it all is used, from where the last ends to where the first starts")
    room, backwards = room or Room(), []
    remedy = "use the file of the inverse map"
    for link in reversed(links):
        with inverting(link.path, remedy):
            need = for_inverse(link.transform)
            room.refuse(f"{link.path}: inverting it", need, f"give it more, or {remedy}")
            backwards.append(link.transform.inverse())
    return Composite(backwards)


def _refuse_swapped(
    links: Sequence[Link],
    *,
    image: Path | None,
    labels: Path | None,
    onto: Path | None,
    inverse: bool,
) -> None:
    """BadInput where an image is the scan at the start of the map, or `onto` that at its end.

    Without an image `onto` alone tells; a scan onto its own grid is no exchange.
    """
    start, end = links[0].start, links[-1].end
    start, end = (end, start) if inverse else (start, end)
    if onto is None or start is None or end is None or start[1] == end[1]:
        return
    remedy = f"{'leave out' if inverse else 'add'} --inverse, or exchange the scans"
    if image is not None and _digest(image) == start[1]:
        raise BadInput(
            f"{image}: is the scan that points start from here, and images come from where they "
            f"end, {end[0]}; {remedy}"
        )
    if image is None and _digest(onto) == end[1]:
        raise BadInput(
            f"{onto}: is the scan that points end at here, and {labels} would get the grid of "
            f"where they start, {start[0]}; {remedy}"
        )


def _found(forwards: Transform, backwards: Transform, points_mm: Tensor, path: Path) -> Tensor:
    """The points that are mapped to the given ones; says how many there are not."""
    found = find_points(forwards, backwards, points_mm)
    lost = (forwards(found) - points_mm).norm(dim=-1) > _LOST_MM
    if bool(lost.any()):
        _log.warning(
            "%s: %d of %d points lie where the map does not lead; they are only near their place",
            path, int(lost.sum()), len(lost),
        )  # fmt: skip
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(read_content(path)).hexdigest()


def fit(links: Sequence[Link], ndim: int, path: Path) -> None:
    """BadInput where a file has not the dimensions of the chain."""
    wanted = _ndim(links[0].transform)
    if ndim != wanted:
        raise BadInput(f"{path}: has {ndim} dimensions, {links[0].path} maps {wanted}")


def _ndim(transform: Transform) -> int:
    return transform.parts()[0].ndim


def _read_link(path: Path) -> Link:
    transform = read_transform(path)
    record = _record_beside(path)
    if record is None:
        return Link(path, transform)
    ends = [(scan_id(record[end]["file"]), record[end]["sha256"]) for end in ("from", "to")]
    if path.name.startswith(BACKWARDS):
        ends.reverse()
    return Link(path, transform, *ends)


def _record_beside(path: Path) -> dict[str, Any] | None:
    """The record that `register` wrote beside a file, if it speaks of this very file."""
    try:
        record = json.loads((path.parent / RECORD).read_text(encoding="utf-8"))
        digest = record["files"].get(path.name)
        if digest is None:
            return None
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        ends = [record[end][key] for end in ("from", "to") for key in ("file", "sha256")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if digest != found:
        _log.warning(
            "%s: has changed since %s was written; what it maps is not known",
            path, path.parent / RECORD,
        )  # fmt: skip
        return None
    return record if all(isinstance(end, str) for end in ends) else None
