"""Scans that look unlike the others of their cohort: another modality, or mirrored.

These are suspicions. The bounds are such that neither the 200 hippocampus scans nor the 15 brain
scans of our tests, which differ a thousandfold in gain, raise one, and so that a cohort in which
both kinds are common (left and right hips, T1 and T2) raises none: there no kind is the odd one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from deepatlas.data.appearance import Appearance
from deepatlas.data.findings import Finding
from deepatlas.data.survey import Survey
from deepatlas.io.subject import Cohort, Subject

_FEW = 8  # scans: with fewer, how far scans of one kind lie apart is not known
_SIGMA = 1.4826  # median absolute deviation to standard deviation
_ODD = 0.2  # of a cohort, at most, can be the odd ones
_NEGATIVE = 0.05  # share of the voxels below 0 that is no noise
_SIDES = {"left": "l", "l": "l", "lh": "l", "right": "r", "r": "r", "rh": "r"}


@dataclass(frozen=True)
class _Looks:
    """How far each scan is from the cohort's median look; (n,) each, in the order of the ids."""

    histogram: np.ndarray  # mean difference of landmarks, of the range of grey values
    likeness: np.ndarray  # correlation of the thumbnail with the median thumbnail
    mirrored: np.ndarray  # the same after mirroring it
    negative: np.ndarray


def intensity_outliers(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Scans whose grey values are distributed or arranged in another way than the others'."""
    scans, looks = _looks(cohort, facts)
    if len(scans) < 3:
        return []
    reasons: dict[int, list[str]] = {}
    for n in _far(looks.histogram, floor=0.15, few=0.2, sigmas=20):
        reasons.setdefault(n, []).append(
            f"its histogram is off by {looks.histogram[n]:.0%} of the grey range, the others' "
            f"mostly by {np.median(looks.histogram):.0%}"
        )
    unlike = 1 - np.maximum(looks.likeness, looks.mirrored)
    for n in _far(unlike, floor=0.8, few=1.0, sigmas=6):
        reasons.setdefault(n, []).append(
            f"bright and dark lie elsewhere (correlation {1 - unlike[n]:.2f} with the cohort's "
            f"median scan, the others' mostly {1 - np.median(unlike):.2f})"
        )
    has_negative = looks.negative > _NEGATIVE
    for n, without in enumerate(~has_negative):
        alike = has_negative == has_negative[n]
        others_clear = (looks.negative < _NEGATIVE / 10) | has_negative
        if alike.sum() == 1 and len(scans) >= 5 and others_clear.all():
            reasons.setdefault(n, []).append(
                "it alone has no values below 0" if without else "it alone has values below 0"
            )
    return [_outlier(scans[n], why, len(scans)) for n, why in sorted(reasons.items())]


def suspected_flips(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Scans whose left and right seem to have changed places."""
    named = _flips_by_names(cohort, facts)
    if named is not None:
        return named
    by_labels = _flips_by_places(cohort, facts)
    told = {finding.scan for finding in by_labels}
    return [*by_labels, *(f for f in _flips_by_image(cohort, facts) if f.scan not in told)]


def _outlier(scan: Subject, why: list[str], total: int) -> Finding:
    sure = "a hint only, among so few scans" if total < _FEW else "likely, not certain"
    return Finding(
        "intensity-outlier",
        f"looks unlike the other {total - 1} scans: {'; '.join(why)}; expected one modality and "
        f"contrast: look at it, and remove it if it is of another ({sure})",
        (scan.image,),
        scan.id,
    )


def _looks(cohort: Cohort, facts: Survey) -> tuple[list[Subject], _Looks]:
    """The scans that can be compared, those of the usual number of axes, and how they look."""
    seen = [
        (scan, look)
        for scan in cohort.subjects
        if (look := facts[scan.id].image.appearance) is not None
    ]
    axes = [look.thumbnail.ndim for _, look in seen]
    usual = max(set(axes), key=axes.count, default=0)
    seen = [(scan, look) for scan, look in seen if look.thumbnail.ndim == usual]
    return [scan for scan, _ in seen], _compared([look for _, look in seen])


def _compared(looks: list[Appearance]) -> _Looks:
    if not looks:
        return _Looks(*[np.zeros(0)] * 4)
    landmarks = np.stack([look.landmarks for look in looks])
    thumbnails = np.stack([look.thumbnail for look in looks])
    median = np.median(thumbnails, axis=0)
    return _Looks(
        histogram=np.abs(landmarks - np.median(landmarks, axis=0)).mean(axis=1),
        likeness=_correlation(thumbnails, median),
        mirrored=_correlation(thumbnails[:, ::-1], median),
        negative=np.array([look.negative for look in looks]),
    )


def _correlation(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of each of (n, ...) images with a reference; 0 where one of them is flat."""
    rows = images.reshape(len(images), -1).astype(np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)
    column = reference.ravel() - reference.mean()
    norm = np.linalg.norm(rows, axis=1) * np.linalg.norm(column)
    return rows @ column / np.where(norm > 0, norm, np.inf)


def _far(distances: np.ndarray, *, floor: float, few: float, sigmas: float) -> list[int]:
    """Which distances from the cohort's middle are far beyond the others.

    Parameters
    ----------
    floor : less is never far.
    few : the floor for few scans, all others of which must lie within half of it.
    sigmas : robust standard deviations above the median, for many scans.
    """
    if len(distances) < _FEW:
        far = np.flatnonzero(distances > few)
        rest = np.delete(distances, far)
        return far.tolist() if len(far) == 1 and rest.max() < few / 2 else []
    most = float(np.quantile(distances, 1 - _ODD))  # of two common kinds, all may be equally far
    far = np.flatnonzero(distances > max(floor, _bound(distances, sigmas), 2 * most))
    return far.tolist() if len(far) <= _ODD * len(distances) else []


def _bound(values: np.ndarray, sigmas: float) -> float:
    middle = np.median(values)
    return float(middle + sigmas * _SIGMA * np.median(np.abs(values - middle)))


def _flips_by_names(cohort: Cohort, facts: Survey) -> list[Finding] | None:
    """Scans whose left structures lie to the right; None where names tell no sides."""
    pairs = _sided_pairs(cohort.label_names)
    flipped, scans = [], 0
    for scan, centres in _centres(cohort, facts):
        both = [(left, right) for left, right in pairs if left in centres and right in centres]
        swapped = sum(bool(centres[left][0] > centres[right][0]) for left, right in both)
        scans += bool(both)
        if both and swapped >= 0.8 * len(both):
            flipped.append((scan, swapped, len(both)))
    if not scans:
        return None
    if len(flipped) > 1 and len(flipped) > scans / 2:
        return [
            Finding(
                "flip-suspected",
                f"structures named left lie on the right in {len(flipped)} of {scans} label maps; "
                "expected the patient's left: either the names are those of the viewer's side, or "
                "the headers mirror the scans (certain, if the names are right)",
                (cohort.root,),
            )
        ]
    return [
        _flip(
            scan,
            f"in {swapped} of {pairs} pairs of structures the one named left lies to the right",
            "certain, if the names are right",
        )
        for scan, swapped, pairs in flipped
    ]


def _flips_by_places(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Scans whose structures lie from left to right as the mirrored others' do."""
    found = list(_centres(cohort, facts))
    if len(found) < 5:
        return []
    values = sorted({value for _, centres in found for value in centres})
    across = np.full((len(found), len(values)), np.nan)
    for row, (_, centres) in zip(across, found, strict=True):
        for n, value in enumerate(values):
            row[n] = centres[value][0] if value in centres else np.nan
    across = across[:, np.isfinite(across).mean(axis=0) > 0.8]
    has_some = np.isfinite(across).any(axis=1)  # of what the others have, to be compared by
    across, found = across[has_some], [found[n] for n in np.flatnonzero(has_some)]
    if len(found) < 5 or across.shape[1] < 2:
        return []
    across = across - np.nanmean(across, axis=1, keepdims=True)
    usual = np.nanmedian(across, axis=0)
    if np.sqrt((usual**2).mean()) < 5:
        return []
    lengths = (np.isfinite(across) * usual**2).sum(axis=1)
    along = np.nansum(across * usual, axis=1) / np.where(lengths > 0, lengths, np.inf)
    if _bound(np.abs(along - 1), 8) > 1.5:
        return []
    far = np.flatnonzero((along < -0.5) & (along > -2))
    if len(far) > _ODD * len(found):
        return []
    return [
        _flip(
            found[n][0],
            f"its structures lie from left to right as the mirror image of those of the other "
            f"{len(found) - 1} labelled scans",
            "likely, not certain",
        )
        for n in far
    ]


def _flips_by_image(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Scans more like the cohort's median scan after mirroring, where anatomy is one-sided."""
    scans, looks = _looks(cohort, facts)
    if len(scans) < _FEW:
        return []
    gain = looks.mirrored - looks.likeness
    far = np.flatnonzero((gain > 0.3) & (looks.mirrored > np.quantile(looks.likeness, 0.25)))
    if np.quantile(gain, 1 - _ODD) > -0.3 or len(far) > _ODD * len(scans):
        return []
    return [
        _flip(
            scans[n],
            f"is more like the cohort's median scan when mirrored (correlation "
            f"{looks.mirrored[n]:.2f} instead of {looks.likeness[n]:.2f})",
            "likely, not certain",
        )
        for n in far
    ]


def _flip(scan: Subject, why: str, sure: str) -> Finding:
    path = scan.labels or scan.image
    return Finding(
        "flip-suspected",
        f"{why}; expected left and right as in the others: compare it with its original, and "
        f"mend image, labels or header ({sure})",
        (path,) if path == scan.image else (path, scan.image),
        scan.id,
    )


def _centres(cohort: Cohort, facts: Survey) -> list[tuple[Subject, Mapping[int, np.ndarray]]]:
    """Labelled volumes and where their structures lie; slices may lie in any plane."""
    return [
        (scan, labels.structures.centres_mm)
        for scan in cohort.labelled
        if (labels := facts[scan.id].labels) is not None
        and labels.structures is not None
        and labels.geometry is not None
        and labels.geometry.ndim == 3
        and not labels.faults
    ]


def _sided_pairs(names: Mapping[int, str]) -> list[tuple[int, int]]:
    """Label values of left structures and of their counterparts on the right."""
    sides: dict[tuple[str, ...], dict[str, int]] = {}
    for value, name in names.items():
        words = [w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
        told = [_SIDES[word] for word in words if word in _SIDES]
        if len(told) == 1:
            rest = tuple(word for word in words if word not in _SIDES)
            sides.setdefault(rest, {})[told[0]] = value
    return [(both["l"], both["r"]) for both in sides.values() if len(both) == 2]
