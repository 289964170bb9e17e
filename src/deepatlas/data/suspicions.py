"""What may be wrong with a cohort although it can be trained on, and what is good to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np

from deepatlas.data.findings import Finding
from deepatlas.data.outliers import intensity_outliers, suspected_flips
from deepatlas.data.survey import FileFacts, Survey
from deepatlas.io.annotations import FILE
from deepatlas.io.subject import Cohort, Subject
from deepatlas.spatial.geometry import Geometry

_FORMS_MM = 0.1  # apart: less is rounding
_OBLIQUE_DEGREES = 1.0
_SPACING = 0.01  # of each other, in which spacings are one
_WHITE = 0.2  # of the labelled voxels, in which 255 is a mask's white and no structure
_SHOWN = 8  # values or kinds that are listed


def suspicions(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Warnings and notes on a cohort whose files have been looked at."""
    masks = _masks(cohort, facts)
    strange = {finding.scan for finding in masks}
    labelled = [
        (scan, labels)
        for scan in cohort.labelled
        if (labels := facts[scan.id].labels) is not None and not labels.faults
        if scan.id not in strange
    ]
    return [
        *masks,
        *_unknown_labels(cohort, labelled),
        *_structures(cohort, labelled),
        *_unlisted(cohort, labelled),
        *_duplicates(cohort, facts),
        *_same_labels(cohort, labelled, facts),
        *intensity_outliers(cohort, facts),
        *suspected_flips(cohort, facts),
        *_file_notes(cohort, facts),
        *_grid_notes(cohort, facts),
    ]


def same_voxels(cohort: Cohort, facts: Survey) -> list[list[Subject]]:
    """Scans whose images have the same values, whatever their files say besides."""
    groups: dict[str, list[Subject]] = {}
    for scan in cohort.subjects:
        image = facts[scan.id].image
        if image.voxels and not image.faults:
            groups.setdefault(image.voxels, []).append(scan)
    return [scans for scans in groups.values() if len(scans) > 1]


def _masks(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Label maps that are black and white pictures, of 0 and 255, perhaps with soft edges."""
    found = []
    for scan in cohort.labelled:
        labels = facts[scan.id].labels
        if scan.labels is None or labels is None or labels.faults or labels.structures is None:
            continue
        values = labels.values
        if not values or values[-1] != 255 or 255 in cohort.label_names:
            continue
        share = labels.structures.shares.get(255, 0.0)
        known = len(set(values) & set(cohort.label_names))
        many = len(values) >= 5 or values[0] > 15  # else 255 may be a mark beside few structures
        is_soft = many and share > _WHITE and known <= len(values) / 2
        if len(values) > 1 and not is_soft:
            continue
        what = (
            "255 for the structure"
            if len(values) == 1
            else f"{len(values)} values, and {share:.0%} of the labelled voxels are 255: a mask "
            "with soft edges, each grey of which would be a structure of its own"
        )
        found.append(
            Finding(
                "mask-0-255",
                f"holds {what}; expected label values such as 0 and 1: threshold it, for example "
                "labels = (mask > 127)",
                (scan.labels,),
                scan.id,
            )
        )
    return found


def _unknown_labels(cohort: Cohort, labelled: list[tuple[Subject, FileFacts]]) -> list[Finding]:
    known = {*cohort.label_names, *(v for values in cohort.groups.values() for v in values)}
    if not known:
        return []
    return [
        Finding(
            "unknown-label",
            f"label values {_listed(unknown)} are not in the cohort's table of labels; expected "
            f"{_listed(sorted(known))}: name them there, or correct the label map",
            (scan.labels,),
            scan.id,
        )
        for scan, labels in labelled
        if scan.labels is not None
        and (unknown := [value for value in labels.values if value not in known])
    ]


def _structures(cohort: Cohort, labelled: list[tuple[Subject, FileFacts]]) -> list[Finding]:
    """Structures that most label maps have and one has not, and those that few have."""
    if len(labelled) < 2:
        return []
    counts = Counter(value for _, labels in labelled for value in labels.values)
    usual = sorted(value for value, n in counts.items() if n >= len(labelled) / 2)
    found = []
    for scan, labels in labelled:
        expected = usual if scan.annotated is None else set(usual) & set(scan.annotated)
        missing = [_named(cohort, v) for v in usual if v in expected and v not in labels.values]
        if missing and scan.labels is not None:
            most = min(counts[v] for v in usual if v in expected and v not in labels.values)
            found.append(
                Finding(
                    "missing-structure",
                    f"lacks {_listed(missing)}, which {most} or more of {len(labelled)} label maps "
                    "have; it is learnt as background there: segment it if it can be seen, or say "
                    f"in {FILE} what was annotated",
                    (scan.labels,),
                    scan.id,
                )
            )
    rare = [f"{_named(cohort, v)}: {n}" for v, n in sorted(counts.items()) if n < len(labelled) / 2]
    if rare:
        found.append(
            Finding(
                "rare-structure",
                f"fewer than half of {len(labelled)} label maps have {_listed(rare)}; scores of "
                "them rest on few scans",
                (cohort.root,),
            )
        )
    return found


def _unlisted(cohort: Cohort, labelled: list[tuple[Subject, FileFacts]]) -> list[Finding]:
    """Structures of label maps that are not among those that were annotated by what is said."""
    return [
        Finding(
            "unlisted-structure",
            f"holds {_listed([_named(cohort, v) for v in unlisted])}, and {FILE} does not say that "
            "it was annotated in this scan, so it is not learnt from it: add it there, or take it "
            "out of the label map",
            (scan.labels,),
            scan.id,
        )
        for scan, labels in labelled
        if scan.labels is not None and scan.annotated is not None
        if (unlisted := [value for value in labels.values if value not in scan.annotated])
    ]


def _duplicates(cohort: Cohort, facts: Survey) -> list[Finding]:
    return [
        Finding(
            "duplicate-scan",
            f"has the same voxels as {_listed([scan.id for scan in first])}: one scan under "
            "several names (certain); keep one, or it counts twice and may be tested on as well",
            (last.image, *(scan.image for scan in first)),
            last.id,
        )
        for *first, last in same_voxels(cohort, facts)
    ]


def _same_labels(
    cohort: Cohort, labelled: list[tuple[Subject, FileFacts]], facts: Survey
) -> list[Finding]:
    """One label map for two different scans."""
    copies = {s.id: scans[0].id for scans in same_voxels(cohort, facts) for s in scans}
    groups: dict[str, dict[str, Subject]] = {}
    for scan, labels in labelled:
        groups.setdefault(labels.voxels, {}).setdefault(copies.get(scan.id, scan.id), scan)
    return [
        Finding(
            "duplicate-labels",
            f"is the label map of {_listed([s.id for s in first])}, voxel for voxel, although the "
            "images differ (certain); expected the segmentation of this scan: look whether it is",
            tuple(s.labels for s in (last, *first) if s.labels is not None),
            last.id,
        )
        for scans in groups.values()
        for *first, last in [list(scans.values())]
        if first
    ]


def _file_notes(cohort: Cohort, facts: Survey) -> Iterator[Finding]:
    """Headers and types that are read without fault and may be read otherwise elsewhere."""
    for scan in cohort.subjects:
        for path, file in (
            (scan.image, facts[scan.id].image),
            (scan.labels, facts[scan.id].labels),
        ):
            if path is None or file is None:
                continue
            if file.forms_mm > _FORMS_MM:
                apart = f"by up to {file.forms_mm:.1f} mm" if np.isfinite(file.forms_mm) else "much"
                yield Finding(
                    "forms-differ",
                    f"sform and qform differ {apart} (without a qform: sform and pixdim); the "
                    "sform is used here, ITK may place the scan by the other: set both alike",
                    (path,),
                    scan.id,
                )
            if path == scan.labels and file.stored.startswith("float") and not file.faults:
                yield Finding(
                    "float-labels",
                    f"is stored as {file.stored} and holds whole numbers only; it is read as "
                    f"{file.dtype}",
                    (path,),
                    scan.id,
                )


def _grid_notes(cohort: Cohort, facts: Survey) -> Iterator[Finding]:
    """Differences of the grids; scans are put on one working grid, so that nothing is to do."""
    grids = {
        scan.image: grid
        for scan in cohort.subjects
        if (grid := facts[scan.id].image.geometry) is not None
    }
    if not grids:
        return
    ndim = Counter(grid.ndim for grid in grids.values()).most_common(1)[0][0]
    grids = {path: grid for path, grid in grids.items() if grid.ndim == ndim}
    codes = {path: _axes(grid) for path, grid in grids.items()}
    ordered = Counter(codes.values()).most_common()
    told = _listed([f"{code} ({n} scans)" for code, n in ordered])
    yield from _note(
        "mixed-orientations",
        f"axes run in different directions: {told}; all are turned alike for training",
        cohort,
        [path for path, code in codes.items() if code != ordered[0][0]],
    )
    spacings = np.stack([np.sort(grid.spacing_mm) for grid in grids.values()])
    middle, low, high = (f(spacings, axis=0) for f in (np.median, np.min, np.max))
    differs = np.abs(spacings / middle - 1).max(axis=1) > _SPACING
    yield from _note(
        "mixed-spacings",
        f"{differs.sum()} of {len(grids)} scans have another spacing than {_times(middle)} mm; the "
        f"finest is {_times(low)}, the coarsest {_times(high)} mm; all are resampled to one",
        cohort,
        [path for path, odd in zip(grids, differs, strict=True) if odd],
    )
    turned = {path: _obliqueness(grid) for path, grid in grids.items()}
    oblique = [path for path, degrees in turned.items() if degrees > _OBLIQUE_DEGREES]
    yield from _note(
        "oblique",
        f"the axes of {len(oblique)} of {len(grids)} scans are turned against the patient's, by up "
        f"to {max(turned.values()):.0f} degrees; this is taken into account",
        cohort,
        oblique,
    )


def _note(kind: str, text: str, cohort: Cohort, scans: list[Path]) -> Iterator[Finding]:
    """A note on the cohort that names the scans that differ; none where none does."""
    if scans:
        yield Finding(kind, text, (cohort.root, *scans))


def _axes(grid: Geometry) -> str:
    """Such as RAS; of a slice the first two letters of its plane."""
    codes = nib.orientations.aff2axcodes(grid.affine.numpy(), (("L", "R"), ("P", "A"), ("I", "S")))
    return "".join(code or "?" for code in codes)


def _obliqueness(grid: Geometry) -> float:
    """Degrees by which the axis farthest from an axis of the world is turned from it."""
    cosines = np.abs(grid.affine[:-1, :-1].numpy() / np.array(grid.spacing_mm)).max(axis=0)
    return float(np.degrees(np.arccos(cosines.clip(0, 1))).max())


def _named(cohort: Cohort, value: int) -> str:
    name = cohort.label_names.get(value)
    return str(value) if name is None else f"{value} ({name})"


def _listed(items: list[str] | list[int]) -> str:
    shown = ", ".join(str(item) for item in items[:_SHOWN])
    return shown if len(items) <= _SHOWN else f"{shown} and {len(items) - _SHOWN} more"


def _times(numbers: np.ndarray) -> str:
    return " x ".join(f"{n:.3g}" for n in numbers)
