"""What is in a cohort and what is wrong with it, without training on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from deepatlas.data.check import find
from deepatlas.data.config import DataConfig
from deepatlas.data.findings import SEVERITIES, Finding, from_faults
from deepatlas.data.survey import Survey, survey
from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort
from deepatlas.run.split import read_split, unfit


@dataclass(frozen=True)
class LookedAt:
    """What there was to look at; grids of the images that could be read.

    Parameters
    ----------
    scans, labelled : how many, and how many of them have a label map.
    structures : values that occur in label maps.
    axes : of space that the scans have, 2 or 3 or both.
    shape, spacing_mm : the least and the greatest along each axis of the files; empty where
        there are slices and volumes.
    """

    scans: int
    labelled: int
    structures: int
    axes: tuple[int, ...]
    shape: tuple[tuple[int, int], ...]
    spacing_mm: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CohortCheck:
    """What `check` found.

    Parameters
    ----------
    cohort : the folder.
    looked_at : the scans in few numbers.
    findings : errors first.
    """

    cohort: Path
    looked_at: LookedAt
    findings: tuple[Finding, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of errors, warnings and notes."""
        counted = Counter(finding.severity for finding in self.findings)
        return {severity: counted[severity] for severity in SEVERITIES}

    def to_json(self) -> dict[str, Any]:
        """For `deepatlas check --json`."""
        return {
            "cohort": str(self.cohort.resolve()),
            "looked_at": asdict(self.looked_at),
            "counts": self.counts,
            "findings": [finding.to_json() for finding in self.findings],
        }


def check(
    cohort: Path,
    *,
    split: Path | None = None,
    annotated: Path | None = None,
    ignore_value: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CohortCheck:
    """Look at every file of a cohort once and tell all that is found, errors and less.

    Parameters
    ----------
    split : JSON with train, validation and test ids, instead of the cohort's own split; no subject
        may be in two of them.
    annotated : JSON of what was annotated in which scan, instead of the cohort's annotations.json.
    ignore_value : label value of voxels of which nothing is known, beside that of the cohort.
    progress : called with the number of scans read and their total.

    Raises
    ------
    BadInput : the folder is missing, of no known layout, or holds no image.
    """
    scans = read_cohort(cohort, annotated)
    scans = replace(scans, ignored=DataConfig(ignore_value=ignore_value).ignored(scans))
    parts, wrong = _parts(scans, split)
    facts = survey(scans, progress)
    said = [Finding("choice", note, (scans.root,)) for note in scans.notes]
    found = (*wrong, *find(scans, facts, parts), *said)
    return CohortCheck(Path(cohort), _looked_at(scans, facts), found)


def _parts(cohort: Cohort, split: Path | None) -> tuple[dict[str, list[str]], list[Finding]]:
    """The parts of a split file, or of the cohort's own split, and what is wrong with it."""
    given = cohort.root if split is None else Path(split)
    parts = {part: list(ids) for part, ids in (cohort.split or {}).items()}
    try:
        parts = parts if split is None else read_split(split, cohort)
    except BadInput as error:
        return {}, from_faults(error.faults, "split", given)
    return parts, from_faults(unfit(parts, cohort, given) if parts else (), "split", given)


def _looked_at(cohort: Cohort, facts: Survey) -> LookedAt:
    grids = [grid for s in cohort.subjects if (grid := facts[s.id].image.geometry) is not None]
    axes = tuple(sorted({grid.ndim for grid in grids}))
    maps = [labels for s in cohort.labelled if (labels := facts[s.id].labels) is not None]
    shape = np.array([grid.shape for grid in grids]) if len(axes) == 1 else np.zeros((1, 0), int)
    spacing = np.array([g.spacing_mm for g in grids]) if len(axes) == 1 else np.zeros((1, 0))
    return LookedAt(
        scans=len(cohort.subjects),
        labelled=len(cohort.labelled),
        structures=len({value for labels in maps for value in labels.values}),
        axes=axes,
        shape=tuple((int(column.min()), int(column.max())) for column in shape.T),
        spacing_mm=tuple((float(column.min()), float(column.max())) for column in spacing.T),
    )
