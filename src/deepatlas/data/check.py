"""Everything that can be wrong with a cohort, found before the first step and told together."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from deepatlas.data.findings import SEVERITIES, Finding, from_faults
from deepatlas.data.leaks import leaks
from deepatlas.data.survey import FileFacts, Survey, survey
from deepatlas.data.suspicions import suspicions
from deepatlas.errors import BadInput
from deepatlas.io.subject import Cohort, Subject

logger = logging.getLogger(__name__)

_NOISE_MM = 1e-3  # between the corners of two grids: rounding of headers, and not worth a note


def check_cohort(
    cohort: Cohort,
    *,
    needs_labels: bool,
    needs_pairs: bool,
    parts: Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look at every file of a cohort; all faults are raised as one BadInput.

    These are the errors of `find`; of its warnings, only the number is logged.

    Parameters
    ----------
    needs_labels : the recipe has a segmentation network.
    needs_pairs : the recipe has a registration network.
    parts : of a split, by name: ids of scans. No subject may be in two of them.
    progress : called with the number of scans read and their total.

    Returns
    -------
    What was found, by scan id; `make_plan` and `prepare_cohort` take it, so that no file is
    read for the same thing twice.

    Raises
    ------
    BadInput : one sentence for each fault, naming the file and the remedy.
    """
    facts = survey(cohort, progress)
    found = find(cohort, facts, parts)
    faults = _recipe_faults(cohort, needs_labels, needs_pairs)
    faults += [str(finding) for finding in found if finding.severity == "error"]
    if faults:
        raise BadInput(faults)
    warnings = sum(finding.severity == "warning" for finding in found)
    if warnings:
        logger.warning(
            "%d warning%s; `deepatlas check %s` shows %s",
            warnings, "s"[: warnings > 1], cohort.root, "them" if warnings > 1 else "it",
        )  # fmt: skip
    return facts


def find(
    cohort: Cohort, facts: Survey, parts: Mapping[str, Sequence[str]] | None = None
) -> list[Finding]:
    """All that can be said of a cohort, errors first.

    Parameters
    ----------
    facts : the cohort's survey.
    parts : of a split, by name: ids of scans.
    """
    found = from_faults(cohort.faults, "layout")
    for subject in cohort.subjects:
        scan = facts[subject.id]
        found += from_faults(scan.image.faults, "unreadable", subject.image, subject.id)
        if scan.labels is not None and subject.labels is not None:
            found += from_faults(scan.labels.faults, "unreadable", subject.labels, subject.id)
            found += _pair_findings(subject, scan.image, scan.labels)
    found += _slices(cohort, facts)
    found += leaks(cohort, parts or {}, facts)
    found += suspicions(cohort, facts)
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _recipe_faults(cohort: Cohort, needs_labels: bool, needs_pairs: bool) -> list[str]:
    """What the recipe asks for and the cohort has not, with a recipe that would work."""
    lacks_labels = not cohort.labelled
    lacks_pairs = len(cohort.subjects) < 2
    if lacks_labels and lacks_pairs and (needs_labels or needs_pairs):
        return [
            f"{cohort.root}: one scan and no label map; expected a label map for the recipe "
            "`segmentation` or a second scan for the recipe `voxelmorph`: add one of them"
        ]
    faults = []
    if needs_labels and lacks_labels:
        faults.append(
            f"{cohort.root}: none of {len(cohort.subjects)} scans has a label map; this recipe "
            "trains a segmentation network and needs at least one: add label maps, or use the "
            "recipe `voxelmorph`, which needs none"
        )
    if needs_pairs and lacks_pairs:
        faults.append(
            f"{cohort.root}: a single scan ({', '.join(s.id for s in cohort.subjects)}); this "
            "recipe trains a registration network and needs at least two: add scans, or use the "
            "recipe `segmentation`"
        )
    return faults


def _pair_findings(subject: Subject, image: FileFacts, labels: FileFacts) -> list[Finding]:
    """What is wrong between a label map and its image."""
    if image.geometry is None or labels.geometry is None or subject.labels is None:
        return []
    files = (subject.labels, subject.image)
    remedy = f"resample the labels onto {subject.image} with nearest neighbour"
    if labels.geometry.shape != image.geometry.shape:
        text = (
            f"has {_times(labels.geometry.shape)} voxels, its image "
            f"{_times(image.geometry.shape)}; expected the image's grid: {remedy}"
        )
        return [Finding("other-shape", text, files, subject.id)]
    difference = labels.geometry.corners_mm() - image.geometry.corners_mm()
    apart = float(difference.norm(dim=-1).max())
    if labels.geometry.same_as(image.geometry, _NOISE_MM):
        return []
    if labels.geometry.coincides_with(image.geometry):
        text = f"lies {apart:.2g} mm away from its image, by rounding in a header; left as it is"
        return [Finding("header-noise", text, files, subject.id)]
    text = (
        f"lies up to {apart:.3g} mm away from its image by its affine; expected the image's grid: "
        f"copy the image's header, or {remedy}"
    )
    return [Finding("header-shift", text, files, subject.id)]


def _slices(cohort: Cohort, facts: Survey) -> list[Finding]:
    """Slices among volumes, or the other way round."""
    axes = {
        subject.id: sum(n > 1 for n in geometry.shape)
        for subject in cohort.subjects
        if (geometry := facts[subject.id].image.geometry) is not None
    }
    if len(set(axes.values())) < 2:
        return []
    usual = Counter(axes.values()).most_common(1)[0][0]
    return [
        Finding(
            "single-slice" if axes[subject.id] < usual else "volume-among-slices",
            f"is {axes[subject.id]}-D, most scans are {usual}-D; expected one kind: remove it or "
            "keep it in a folder of its own",
            (subject.image,),
            subject.id,
        )
        for subject in cohort.subjects
        if axes.get(subject.id, usual) != usual
    ]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
