"""How the scans of a cohort are prepared: one grid, one intensity rule, one table of labels."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepatlas.data.config import ALIGNED, Align, DataConfig
from deepatlas.data.intensity import landmarks, scale
from deepatlas.data.labels import LabelRule
from deepatlas.data.reference import Reference, choose_reference, make_reference, pack
from deepatlas.data.survey import Survey, survey
from deepatlas.data.working_grid import working_grid
from deepatlas.errors import BadInput
from deepatlas.io.images import read_image
from deepatlas.io.label_groups import IGNORE, LabelGroup
from deepatlas.io.subject import Cohort
from deepatlas.spatial.geometry import Geometry

_VERSION = 1


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
    notes, label_notes : what a reader of results should know about the grid, and about labels.
    members : label value -> values of label files that make it; empty where they are the same.
    ignored : values of label files that mark voxels of which nothing is known.
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
    label_notes: tuple[str, ...] = ()
    members: dict[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    ignored: tuple[int, ...] = ()
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

    @property
    def label_rule(self) -> LabelRule:
        """What the values of label files stand for."""
        return LabelRule(self.members, self.ignored)

    def preparing(self) -> dict[str, Any]:
        """The fields that decide how a prepared scan looks, as JSON; part of the cache's key."""
        content = self.to_json()
        names = ("shape", "spacing_mm", "centre_mm", "align", "percentiles", "histogram")
        rules = [name for name in ("members", "ignored") if content[name]]
        deciding = {name: content[name] for name in (*names, "label_values", *rules)}
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
            "label_notes": list(self.label_notes),
            "members": {str(value): list(values) for value, values in self.members.items()},
            "ignored": list(self.ignored),
        }

    @staticmethod
    def from_json(content: dict[str, Any], reference: Reference | None = None) -> Plan:
        """The inverse of `to_json`, the reference given back; ValueError if it is not a plan."""
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
                label_notes=tuple(content.get("label_notes", ())),
                members={
                    int(v): tuple(int(m) for m in ms)
                    for v, ms in content.get("members", {}).items()
                },
                ignored=tuple(int(v) for v in content.get("ignored", ())),
                reference=reference,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"not a plan of this version of deepatlas ({error}); train the run again, or use "
                "the version that made it"
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
    references : ids among which references, of place and of intensities, are chosen; None for
        all.

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
    shape, spacing, centre, notes = working_grid(grids, config, around)
    if reference is not None:
        notes.append(f"scans are aligned to {reference.id}, whose field of view the grid holds")
    return Plan(
        shape=shape,
        spacing_mm=spacing,
        centre_mm=centre,
        align=config.align,
        percentiles=config.percentiles,
        histogram=_reference(cohort, config, references) if config.match_histograms else None,
        notes=tuple(notes),
        ignored=config.ignored(cohort),
        reference=reference,
        **label_fields(cohort, facts, config),
    )


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


def label_fields(cohort: Cohort, facts: Survey, config: DataConfig) -> dict[str, Any]:
    """The plan's fields of labels: each value that occurs is a structure, or each group is."""
    if config.label_groups:
        return grouped(config.label_groups)
    found = [labels for s in cohort.labelled if (labels := facts[s.id].labels) is not None]
    values = sorted({value for labels in found for value in labels.values})
    values = [value for value in values if value not in config.ignored(cohort)]
    dtype = np.result_type(*[labels.dtype for labels in found]) if found else np.dtype("uint8")
    return {
        "label_values": tuple(values),
        "label_names": {v: cohort.label_names[v] for v in values if v in cohort.label_names},
        "groups": dict(cohort.groups),
        "label_dtype": dtype.name if dtype.kind in "iu" else "int64",
    }


def grouped(groups: Sequence[LabelGroup]) -> dict[str, Any]:
    """The fields of a plan where each group is a structure, which is scored under its name."""
    kept = sorted((group for group in groups if group.name != IGNORE), key=lambda group: group.id)
    values = tuple(group.id for group in kept)
    return {
        "label_values": values,
        "label_names": {group.id: group.name for group in kept},
        "groups": {group.name: (group.id,) for group in kept},
        "label_dtype": np.min_scalar_type(values[-1]).name,
        "members": {group.id: group.values for group in kept},
    }


def _reference(
    cohort: Cohort, config: DataConfig, among: Collection[str] | None
) -> tuple[float, ...]:
    """Histogram landmarks of the first labelled scan (of the first scan if none is labelled)."""
    scans = (*cohort.labelled, *cohort.subjects)
    subject = next((s for s in scans if among is None or s.id in among), scans[0])
    return landmarks(scale(read_image(subject.image).data, config.percentiles))
