"""How the scans of a cohort are prepared: one grid, one intensity rule, one table of labels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch

from deepatlas.data.intensity import landmarks, scale
from deepatlas.data.reference import Reference, choose_reference, make_reference, pack
from deepatlas.data.survey import Survey, survey
from deepatlas.errors import BadInput
from deepatlas.io.images import read_image
from deepatlas.io.subject import Cohort
from deepatlas.spatial.geometry import Geometry

STEP = 8  # a planned grid has a multiple of this many voxels along each axis
Align = Literal["centre", "world", "rigid", "affine"]
ALIGNED = {"rigid": 0.08, "affine": 0.04}  # margin around the reference, of its field of view
_CHOICE = "one of 'centre', 'world', 'rigid' and 'affine'"
_VERSION = 1
_SLACK = 1e-3  # voxels; header noise does not cost a voxel more


@dataclass(frozen=True)
class DataConfig:
    """What a recipe may say about preparation.

    Parameters
    ----------
    align : "centre" puts the centres of the fields of view together, "world" trusts the headers;
        "rigid" and "affine" align every scan to a reference by its image.
    reference : id of the scan to align to; None for the training scan of the most usual size.
    spacing_mm : working spacing along R, A[, S]; None for the cohort's median.
    shape : working grid; None for one that holds the largest field of view.
    percentiles : intensities mapped to 0 and 1.
    match_histograms : give every scan the histogram landmarks of the first labelled one.
    max_voxels : a planned grid of more voxels is made coarser.
    """

    align: Align = "centre"
    reference: str | None = None
    spacing_mm: tuple[float, ...] | None = None
    shape: tuple[int, ...] | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    match_histograms: bool = False
    max_voxels: int = 192 * 224 * 192

    def __post_init__(self) -> None:
        faults = []
        if self.align not in get_args(Align):
            faults.append(f"data.align: expected {_CHOICE}, got {self.align!r}")
        if self.reference is not None and self.align not in ALIGNED:
            faults.append(
                f"data.reference: with align {self.align!r} there is none; "
                "take it out, or say data.align: rigid or affine"
            )
        if self.spacing_mm is not None and not all(0 < s < math.inf for s in self.spacing_mm):
            faults.append(f"data.spacing_mm: expected positive numbers, got {self.spacing_mm}")
        if self.shape is not None and not all(n >= STEP for n in self.shape):
            faults.append(f"data.shape: expected at least {STEP} voxels an axis, got {self.shape}")
        low, high = self.percentiles
        if not 0 <= low < high <= 100:
            faults.append(
                f"data.percentiles: expected 0 <= low < high <= 100, got {self.percentiles}"
            )
        if self.max_voxels < STEP**3:
            faults.append(f"data.max_voxels: expected at least {STEP**3}, got {self.max_voxels}")
        if faults:
            raise BadInput(faults)


@dataclass(frozen=True)
class Plan:
    """How the scans of a cohort are prepared; stored with the run.

    Parameters
    ----------
    shape, spacing_mm, centre_mm : the working grid, along R, A[, S].
    align : see `DataConfig`.
    reference : what scans are aligned to, where they are; its file lies beside the plan's.
    percentiles : intensities mapped to 0 and 1.
    histogram : landmarks of the reference, or None for no matching.
    label_values : class k + 1 is label_values[k]; class 0 is the background.
    label_names, groups : names of label values and of sets of them.
    label_dtype : integer type of written label maps.
    notes : what a reader of results should know about the grid.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    centre_mm: tuple[float, ...]
    align: Align = "centre"
    percentiles: tuple[float, float] = (0.5, 99.5)
    histogram: tuple[float, ...] | None = None
    label_values: tuple[int, ...] = ()
    label_names: dict[int, str] = field(default_factory=dict, hash=False)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    label_dtype: str = "uint8"
    notes: tuple[str, ...] = ()
    reference: Reference | None = field(default=None, compare=False)

    @property
    def geometry(self) -> Geometry:
        """The working grid."""
        return Geometry.axis_aligned(self.shape, self.spacing_mm, self.centre_mm)

    @property
    def classes(self) -> int:
        """Number of classes, the background included."""
        return len(self.label_values) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes, in their order; `label 7` where there is none."""
        return tuple(self.label_names.get(value, f"label {value}") for value in self.label_values)

    def preparing(self) -> dict[str, Any]:
        """The fields that decide how a prepared scan looks, as JSON; part of the cache's key."""
        content = self.to_json()
        names = ("shape", "spacing_mm", "centre_mm", "align", "percentiles", "histogram")
        deciding = {name: content[name] for name in (*names, "label_values")}
        if self.reference is not None:
            deciding["reference"] = hashlib.sha256(pack(self.reference)).hexdigest()
        return deciding

    def to_json(self) -> dict[str, Any]:
        """The plan in the types that JSON knows; floats come back bit for bit."""
        return {
            "version": _VERSION,
            "shape": list(self.shape),
            "spacing_mm": list(self.spacing_mm),
            "centre_mm": list(self.centre_mm),
            "align": self.align,
            "percentiles": list(self.percentiles),
            "histogram": None if self.histogram is None else list(self.histogram),
            "label_values": list(self.label_values),
            "label_names": {str(value): name for value, name in self.label_names.items()},
            "groups": {name: list(values) for name, values in self.groups.items()},
            "label_dtype": self.label_dtype,
            "notes": list(self.notes),
        }

    @staticmethod
    def from_json(content: dict[str, Any], reference: Reference | None = None) -> Plan:
        """The inverse of `to_json`, the reference given back; BadInput if it is not a plan."""
        try:
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']}, expected {_VERSION}")
            histogram = content["histogram"]
            low, high = content["percentiles"]
            return Plan(
                shape=tuple(int(n) for n in content["shape"]),
                spacing_mm=tuple(float(s) for s in content["spacing_mm"]),
                centre_mm=tuple(float(c) for c in content["centre_mm"]),
                align=content["align"],
                percentiles=(float(low), float(high)),
                histogram=None if histogram is None else tuple(float(v) for v in histogram),
                label_values=tuple(int(v) for v in content["label_values"]),
                label_names={int(v): str(n) for v, n in content["label_names"].items()},
                groups={n: tuple(int(v) for v in vs) for n, vs in content["groups"].items()},
                label_dtype=content["label_dtype"],
                notes=tuple(content["notes"]),
                reference=reference,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"plan.json: not a plan of this version of deepatlas ({error}); "
                "train the run again, or use the version that made it"
            ) from error


def make_plan(
    cohort: Cohort,
    config: DataConfig,
    facts: Survey | None = None,
    *,
    references: Collection[str] | None = None,
) -> Plan:
    """Plan the preparation of a cohort.

    Parameters
    ----------
    facts : what `check_cohort` found; without it every file is read here.
    references : ids among which a reference is chosen; None for all.

    Raises
    ------
    BadInput : files with faults, or a configuration that does not fit the cohort.
    """
    if facts is None:
        facts = survey(cohort)
    grids = _grids(cohort, facts)
    reference, around = None, None
    if config.align in ALIGNED:
        chosen = choose_reference(cohort, facts, config.reference, references)
        reference, around = make_reference(chosen), facts[chosen.id].image.geometry
    shape, spacing, centre, notes = _working_grid(grids, config, around)
    if reference is not None:
        notes.append(f"scans are aligned to {reference.id}, whose field of view the grid holds")
    values, dtype = _label_table(cohort, facts)
    return Plan(
        shape=shape,
        spacing_mm=spacing,
        centre_mm=centre,
        align=config.align,
        percentiles=config.percentiles,
        histogram=_reference(cohort, config) if config.match_histograms else None,
        label_values=values,
        label_names={v: cohort.label_names[v] for v in values if v in cohort.label_names},
        groups=dict(cohort.groups),
        label_dtype=dtype,
        notes=tuple(notes),
        reference=reference,
    )


def axis_order(grid: Geometry) -> tuple[int, ...]:
    """For each world axis (R, A[, S]) the array axis that runs most nearly along it."""
    lengths = torch.tensor(grid.spacing_mm, dtype=torch.float64)
    cosines = (grid.affine[:-1, :-1] / lengths).abs().numpy()
    order = [-1] * grid.ndim
    for _ in range(grid.ndim):
        world, axis = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
        order[int(world)] = int(axis)
        cosines[world, :] = -1
        cosines[:, axis] = -1
    return tuple(order)


def bounds_mm(grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the field of view along each world axis, voxels' edges included."""
    matrix, centre = grid.affine[:-1, :-1].abs(), grid.centre_mm
    half = matrix @ torch.tensor(grid.shape, dtype=torch.float64) / 2
    return (centre - half).numpy(), (centre + half).numpy()


def _grids(cohort: Cohort, facts: Survey) -> list[Geometry]:
    """The scans' grids; all of them are there and of one dimension."""
    faults = [fault for s in cohort.subjects for fault in facts[s.id].image.faults]
    for subject in cohort.labelled:
        labels = facts[subject.id].labels
        faults += labels.faults if labels is not None else ()
    if not cohort.subjects:
        faults.append(f"{cohort.root}: holds no scan; expected at least one")
    if faults:
        raise BadInput(faults)
    grids = [grid for s in cohort.subjects if (grid := facts[s.id].image.geometry) is not None]
    if len({grid.ndim for grid in grids}) > 1:
        raise BadInput(f"{cohort.root}: slices (2-D) and volumes (3-D) together; keep one kind")
    return grids


def _working_grid(
    grids: list[Geometry], config: DataConfig, reference: Geometry | None = None
) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...], list[str]]:
    """Shape, spacing and centre of the working grid, and notes on them.

    It holds all fields of view or, where scans are aligned to a reference, that of the reference
    and a margin, since other anatomies reach a little further. Not all aligned fields of view:
    turned ones have far corners with little in them.
    """
    around = grids if reference is None else [reference]
    d = grids[0].ndim
    for name, given in (("spacing_mm", config.spacing_mm), ("shape", config.shape)):
        if given is not None and len(given) != d:
            raise BadInput(f"data.{name}: the scans are {d}-D; expected {d} values, got {given}")
    notes: list[str] = []
    natural = [[grid.spacing_mm[axis] for axis in axis_order(grid)] for grid in grids]
    spacing = np.array(config.spacing_mm or np.median(np.array(natural), axis=0), dtype=np.float64)
    centre = np.zeros(d)
    if config.align != "centre":
        centre = np.mean([grid.centre_mm.numpy() for grid in around], axis=0)
    extent = _extent_mm(around, centre, config.align)
    shape = _enough(extent, spacing, config.align)
    if config.shape is not None:
        if any(given < needed for given, needed in zip(config.shape, shape, strict=True)):
            notes.append(
                f"the grid of {_times(config.shape)} voxels that was asked for is smaller than "
                f"the largest field of view ({_times(shape)}): scans are cropped"
            )
        shape = tuple(config.shape)
    elif math.prod(shape) > config.max_voxels:
        shape, spacing, note = _coarser(extent, spacing, config)
        notes.append(note)
    if config.align != "centre":
        centre = _on_lattice(around[0], shape, spacing, centre)
    return shape, tuple(spacing.tolist()), tuple(centre.tolist()), notes


def _extent_mm(grids: list[Geometry], centre: np.ndarray, align: str) -> np.ndarray:
    """Size of the box around `centre` that holds every field of view where it will lie."""
    ends = [bounds_mm(grid) for grid in grids]
    if align == "centre":
        return np.max([high - low for low, high in ends], axis=0)
    reach = np.max([np.maximum(centre - low, high - centre) for low, high in ends], axis=0)
    return 2 * reach * (1 + 2 * ALIGNED.get(align, 0.0))


def _enough(extent: np.ndarray, spacing: np.ndarray, align: str) -> tuple[int, ...]:
    """Voxels that hold an extent; one more where the grid is shifted onto a lattice."""
    voxels = extent / spacing - _SLACK + (0 if align == "centre" else 1)
    return tuple(max(STEP, math.ceil(n / STEP) * STEP) for n in voxels)


def _coarser(
    extent: np.ndarray, spacing: np.ndarray, config: DataConfig
) -> tuple[tuple[int, ...], np.ndarray, str]:
    """The finest uniformly coarser grid of at most `max_voxels`, in steps of one percent."""
    full = _enough(extent, spacing, config.align)
    said = f"{_times(full)} voxels of {_times(spacing)} mm are more than max_voxels"
    if config.spacing_mm is not None:
        raise BadInput(
            f"data.spacing_mm: {said} = {config.max_voxels}; give a coarser spacing, "
            "a shape (scans are then cropped) or raise data.max_voxels"
        )
    coarse, shape = spacing, full
    while math.prod(shape) > config.max_voxels:
        coarse = coarse * 1.01
        shape = _enough(extent, coarse, config.align)
    return shape, coarse, f"{said}: the working spacing is {_times(coarse)} mm"


def _on_lattice(
    grid: Geometry, shape: tuple[int, ...], spacing: np.ndarray, centre: np.ndarray
) -> np.ndarray:
    """`centre`, moved by at most half a voxel so that working voxels fall on those of `grid`.

    Scans that share a lattice in the world are then not interpolated at all.
    """
    anchor = bounds_mm(grid)[0] + np.array([grid.spacing_mm[a] for a in axis_order(grid)]) / 2
    first = centre - (np.array(shape) - 1) / 2 * spacing
    steps = np.floor(np.round((first - anchor) / spacing, 6) + 0.5)
    return centre + (anchor + steps * spacing - first)


def _label_table(cohort: Cohort, facts: Survey) -> tuple[tuple[int, ...], str]:
    """Label values that occur, ascending, and an integer type that holds them."""
    found = [labels for s in cohort.labelled if (labels := facts[s.id].labels) is not None]
    if not found:
        return (), "uint8"
    values = sorted({value for labels in found for value in labels.values})
    dtype = np.result_type(*[labels.dtype for labels in found])
    return tuple(values), dtype.name if dtype.kind in "iu" else "int64"


def _reference(cohort: Cohort, config: DataConfig) -> tuple[float, ...]:
    """Histogram landmarks of the first labelled scan (of the first scan if none is labelled)."""
    subject = (*cohort.labelled, *cohort.subjects)[0]
    return landmarks(scale(read_image(subject.image).data, config.percentiles))


def _times(numbers: tuple[int, ...] | np.ndarray) -> str:
    return " x ".join(f"{n:.4g}" if isinstance(n, float) else str(n) for n in numbers)
