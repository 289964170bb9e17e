"""A scan on the working grid, with intensities in [0, 1] and class indices, and the way back."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from deepatlas.data.intensity import match, scale
from deepatlas.data.labels import class_dtype, labels_to_classes
from deepatlas.data.plan import Plan
from deepatlas.data.reference import Alignment, align
from deepatlas.data.survey import image_faults
from deepatlas.data.working_grid import axis_order
from deepatlas.errors import BadInput
from deepatlas.io.header import read_placement
from deepatlas.io.images import decode_header, decode_image, decode_labels, read_content
from deepatlas.io.subject import Subject
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Transform, resample

_log = logging.getLogger(__name__)
_MET, _FILLED = 0.5, 0.1  # shares of a scan and of the working grid, below which it is said
_LOOKED_AT = 16  # voxels along each axis
_COINCIDE = 1e-2  # voxels over the whole scan: less is noise of the header
_ROUNDING = 1e-6  # voxels over the whole scan: less is that of float64


@dataclass(frozen=True, eq=False)
class Preparation:
    """Where a scan came from: its own grid, and working mm -> scan mm.

    Parameters
    ----------
    alignment : how the transform was found, where that was by the image.
    """

    native: Geometry
    transform: Affine
    alignment: Alignment | None = None


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan on the working grid.

    Parameters
    ----------
    id : the scan's id.
    image : (1, *S) in [0, 1] of float16 precision: float32, of a cohort float16.
    labels : (*S) uint8 or int16 class indices, or None; K + 1, beyond the last class, where a voxel
        is ignored.
    present : (K,) bool, foreground classes that were annotated; all False without labels.
    preparation : the way back.
    """

    id: str
    image: Tensor
    labels: Tensor | None
    present: Tensor
    preparation: Preparation


def locate(subject: Subject, plan: Plan) -> Preparation:
    """Where a scan lies on the working grid; BadInput where it cannot be read."""
    content = read_content(subject.image)
    if plan.reference is None:
        grid = read_placement(decode_header(content, subject.image), subject.image)
        _check_axes(grid, subject.image, plan)
        return place(grid, plan)
    return _located(_decoded(content, subject.image, plan), content, plan)


def say_if_misaligned(what: object, preparation: Preparation) -> None:
    """A warning in the log where a scan could not be aligned by its image."""
    found = preparation.alignment
    if found is not None and found.fault:
        _log.warning(
            "%s: not aligned to the reference: %s; its centre of mass was put on the "
            "reference's and no more was done, so look at it", what, found.fault,
        )  # fmt: skip


def say_if_outside(what: object, preparation: Preparation, grid: Geometry) -> None:
    """A warning in the log where a scan and the working grid hardly meet."""
    native, transform = preparation.native, preparation.transform
    said = f"({_lengths(native)} mm; the working grid has {_lengths(grid)} mm)"
    if (share := _share_within(native, transform.inverse(), grid)) < _MET:
        _log.warning(
            "%s: only %.0f %% of its field of view %s lies within the run's working grid, and "
            "nothing is done for the rest; look at its spacing, or train on scans as large",
            what, 100 * share, said,
        )  # fmt: skip
    elif (share := _share_within(grid, transform, native)) < _FILLED:
        _log.warning(
            "%s: fills only %.1g %% of the run's working grid %s; look at its spacing and units",
            what, 100 * share, said,
        )  # fmt: skip


def _lengths(grid: Geometry) -> str:
    sides = (n * step for n, step in zip(grid.shape, grid.spacing_mm, strict=True))
    return " x ".join(f"{side:.3g}" for side in sides)


def _share_within(one: Geometry, transform: Transform, other: Geometry) -> float:
    """Of the voxels of a grid, the share that a map takes into another grid, about."""
    axes = [torch.linspace(0, n - 1, _LOOKED_AT, dtype=torch.float64) for n in one.shape]
    points = one.to_mm(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))
    index = other.to_index(transform(points))
    last = torch.tensor(other.shape, dtype=torch.float64) - 1
    within = (index >= -0.5) & (index <= last + 0.5)
    return float(within.all(dim=-1).double().mean())


def place(native: Geometry, plan: Plan) -> Preparation:
    """Where a scan of this grid lies on the working grid, when that depends on no image.

    With `align="centre"` the centres of both fields of view coincide. Where the axes and the
    spacing of both are the same, up to order and direction of the axes, the translation is
    rounded to whole voxels, so that nothing is interpolated; a half goes up, along R, A and S,
    however the scan is stored. With `align="world"` the headers are trusted.
    """
    grid = plan.geometry
    if plan.align == "world":
        return Preparation(native, Affine(torch.eye(native.ndim + 1)))
    shift = native.centre_mm - grid.centre_mm
    if _share_a_lattice(native, grid):
        first = native.corners_mm().amin(dim=0)
        index = grid.to_index(first - shift)
        whole = torch.floor(index.round(decimals=6) + 0.5)
        shift = shift + (index - whole) * torch.tensor(plan.spacing_mm, dtype=torch.float64)
    return Preparation(native, Affine.translation(shift))


def inside(preparation: Preparation, grid: Geometry) -> Tensor:
    """(1, *S) bool: whether a voxel of the working grid lies within the scan, not in padding."""
    to_index = torch.linalg.inv(preparation.native.affine)
    matrix = (to_index @ preparation.transform.matrix @ grid.affine).tolist()
    within = torch.ones(grid.shape, dtype=torch.bool)
    for n, row in zip(preparation.native.shape, matrix[:-1], strict=True):
        index = torch.tensor(row[-1], dtype=torch.float64)
        for axis, step in enumerate(row[:-1]):
            if abs(step) * grid.shape[axis] > _ROUNDING:  # else a line of voxels, not a volume
                steps = torch.arange(grid.shape[axis], dtype=torch.float64) * step
                index = index + steps.view([-1 if k == axis else 1 for k in range(grid.ndim)])
        within &= (index >= -_COINCIDE) & (index <= n - 1 + _COINCIDE)
    return within.unsqueeze(0)


def prepare(
    subject: Subject, plan: Plan, *, labels: bool = True, preparation: Preparation | None = None
) -> PreparedScan:
    """Read a scan, and its labels if asked for, and put them on the working grid.

    Where the scan lies is found anew unless `preparation` says it.

    Intensities are scaled by the plan's percentiles (and histogram), then interpolated once;
    labels go to the nearest voxel; outside the scan both are 0.

    Raises
    ------
    BadInput : a file cannot be read, holds NaN, is constant, has another number of axes than
        the plan, or holds label values that the plan does not know.
    """
    label_content = None
    if labels and subject.labels is not None:
        label_content = read_content(subject.labels)
    image_content = read_content(subject.image)
    return prepare_content(subject, plan, image_content, label_content, preparation)


def prepare_content(
    subject: Subject,
    plan: Plan,
    image_content: bytes,
    label_content: bytes | None,
    preparation: Preparation | None = None,
) -> PreparedScan:
    """`prepare` of the bytes of a scan's files."""
    volume = _decoded(image_content, subject.image, plan)
    if preparation is None:
        preparation = _located(volume, image_content, plan)
    scaled = scale(volume.data, plan.percentiles)
    if plan.histogram is not None:
        scaled = match(scaled, plan.histogram)
    image = resample(Volume(scaled, volume.geometry), plan.geometry, preparation.transform)
    classes = None
    if label_content is not None and subject.labels is not None:
        classes = _classes(label_content, subject.labels, plan, preparation)
    return PreparedScan(
        id=subject.id,
        image=image.data.half().float().unsqueeze(0),  # what the cache gives back
        labels=classes,
        present=annotated_classes(subject, plan, has_labels=classes is not None),
        preparation=preparation,
    )


def _decoded(content: bytes, path: Path, plan: Plan) -> Volume:
    """A scan that can be prepared by this plan."""
    volume = decode_image(content, path)
    faults = image_faults(volume, path)
    if faults:
        raise BadInput(faults)
    _check_axes(volume.geometry, path, plan)
    return volume


def _check_axes(grid: Geometry, path: Path, plan: Plan) -> None:
    if grid.ndim != len(plan.shape):
        raise BadInput(
            f"{path}: is {grid.ndim}-D; expected {len(plan.shape)}-D scans, as in the cohort of "
            "the run: choose another scan or run"
        )


def _located(volume: Volume, content: bytes, plan: Plan) -> Preparation:
    if plan.reference is None:
        return place(volume.geometry, plan)
    digest = hashlib.sha256(content).hexdigest()
    found = align(volume, digest, plan.reference, plan.align)
    return Preparation(volume.geometry, found.transform, found)


def annotated_classes(subject: Subject, plan: Plan, *, has_labels: bool) -> Tensor:
    """(K,) bool: foreground classes that a scan's label map speaks about."""
    annotated = plan.label_rule.annotated(subject.annotated)
    known = plan.label_values if annotated is None else annotated
    return torch.tensor([has_labels and v in known for v in plan.label_values], dtype=torch.bool)


def _classes(content: bytes, path: Path, plan: Plan, preparation: Preparation) -> Tensor:
    """Class indices on the working grid, of the bytes of a label map."""
    volume, _ = decode_labels(content, path)
    labels, ignored = plan.label_rule(volume.data)
    try:
        classes = labels_to_classes(labels, plan.label_values)
    except ValueError as error:
        raise BadInput(
            f"{path}: {error} of the run's plan; "
            "remove these values, or train a new run on a cohort that has them"
        ) from error
    if ignored is not None:
        classes = classes.to(class_dtype(plan.classes)).masked_fill(ignored, plan.classes)
    native = Volume(classes, volume.geometry)
    return resample(native, plan.geometry, preparation.transform, labels=True).data


def _share_a_lattice(native: Geometry, grid: Geometry) -> bool:
    """Whether axes and spacing are the same up to order and direction of the axes."""
    order = list(axis_order(native))
    matrix = (
        native.affine[:-1, :-1][:, order].abs()
        / torch.tensor(grid.spacing_mm, dtype=torch.float64)[:, None]
    )
    drift = (matrix - torch.eye(native.ndim)) * torch.tensor(native.shape)[order]
    return bool(drift.abs().max() < _COINCIDE)
