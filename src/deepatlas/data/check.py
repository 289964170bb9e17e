"""Everything that can be wrong with a cohort, found before the first step and told together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from deepatlas.data.survey import FileFacts, Survey, survey
from deepatlas.errors import BadInput
from deepatlas.io.subject import Cohort, Subject


def check_cohort(
    cohort: Cohort,
    *,
    needs_labels: bool,
    needs_pairs: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look at every file of a cohort; all faults are raised as one BadInput.

    Parameters
    ----------
    needs_labels : the recipe has a segmentation network.
    needs_pairs : the recipe has a registration network.
    progress : called with the number of scans read and their total.

    Returns
    -------
    What was found, by scan id; `make_plan` and `prepare_cohort` take it, so that no file is
    read for the same thing twice.

    Raises
    ------
    BadInput : one sentence for each fault, naming the file and the remedy.
    """
    faults = [*cohort.faults, *_recipe_faults(cohort, needs_labels, needs_pairs)]
    facts = survey(cohort, progress)
    for subject in cohort.subjects:
        scan = facts[subject.id]
        faults += scan.image.faults
        if scan.labels is not None:
            faults += scan.labels.faults
            faults += _pair_faults(subject, scan.image, scan.labels)
    faults += _axes_faults(cohort, facts)
    if faults:
        raise BadInput(faults)
    return facts


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


def _pair_faults(subject: Subject, image: FileFacts, labels: FileFacts) -> list[str]:
    """What is wrong between a label map and its image."""
    if image.geometry is None or labels.geometry is None:
        return []
    remedy = f"resample the labels onto {subject.image} with nearest neighbour"
    if labels.geometry.shape != image.geometry.shape:
        return [
            f"{subject.labels}: has {_times(labels.geometry.shape)} voxels, its image "
            f"{_times(image.geometry.shape)}; expected the image's grid: {remedy}"
        ]
    if not labels.geometry.same_as(image.geometry):
        apart = (labels.geometry.corners_mm() - image.geometry.corners_mm()).norm(dim=-1).max()
        return [
            f"{subject.labels}: lies up to {float(apart):.3g} mm away from its image by its "
            f"affine; expected the image's grid: copy the image's header, or {remedy}"
        ]
    return []


def _axes_faults(cohort: Cohort, facts: Survey) -> list[str]:
    """Slices among volumes, or the other way round."""
    axes = {
        subject.id: geometry.ndim
        for subject in cohort.subjects
        if (geometry := facts[subject.id].image.geometry) is not None
    }
    if len(set(axes.values())) < 2:
        return []
    usual = Counter(axes.values()).most_common(1)[0][0]
    return [
        f"{subject.image}: is {axes[subject.id]}-D, most scans are {usual}-D; expected one kind: "
        "remove it or keep it in a folder of its own"
        for subject in cohort.subjects
        if axes.get(subject.id, usual) != usual
    ]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
