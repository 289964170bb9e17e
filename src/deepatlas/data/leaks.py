"""Scans of one subject that lie in two parts of a split, so that what is tested was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepatlas.data.findings import Finding
from deepatlas.data.survey import Survey
from deepatlas.data.suspicions import same_voxels
from deepatlas.io.subject import Cohort, Subject


def leaks(cohort: Cohort, parts: Mapping[str, Sequence[str]], facts: Survey) -> list[Finding]:
    """Subjects, and scans of the same voxels, that are in two of the parts.

    Parameters
    ----------
    parts : part of the split to the ids of its scans.
    """
    part_of = _part_of(parts)
    copies = same_voxels(cohort, facts)
    found = [_leak(scans, part_of, "has the same voxels as") for scans in copies]
    return [*subjects_apart(cohort, parts), *(finding for finding in found if finding is not None)]


def subjects_apart(cohort: Cohort, parts: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Subjects whose scans are in two of the parts; no file is read for it."""
    part_of = _part_of(parts)
    subjects: dict[str, list[Subject]] = {}
    for scan in cohort.subjects:
        subjects.setdefault(scan.person, []).append(scan)
    found = [
        _leak(scans, part_of, f"is of the subject {subject}, as")
        for subject, scans in subjects.items()
    ]
    return [finding for finding in found if finding is not None]


def _part_of(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {name: part for part, names in parts.items() for name in names}


def _leak(scans: Sequence[Subject], part_of: Mapping[str, str], how: str) -> Finding | None:
    used = [scan for scan in scans if scan.id in part_of]
    apart = [scan for scan in used if part_of[scan.id] != part_of[used[0].id]]
    if not apart:
        return None
    first, other = used[0], apart[0]
    return Finding(
        "subject-in-two-parts",
        f"{how} {first.id}, and the split puts one into {part_of[other.id]} and the other into "
        f"{part_of[first.id]}; expected them in one part: move one",
        (other.image, first.image),
        other.id,
    )
