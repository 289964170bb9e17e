"""Example scans and pairs made anew by a run's networks from the evaluated cohort's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.inference.session import Session
from deepatlas.io.images import read_image, read_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort, Subject
from deepatlas.report.drawing import Array
from deepatlas.report.examples import PairExample, ScanExample
from deepatlas.report.results import Evaluation, extremes, value
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.jacobian import jacobian_determinant
from deepatlas.spatial.transform import resample


@dataclass(frozen=True)
class Recomputed:
    """Examples made anew by the run's networks, on `device`, from the cohort's files."""

    device: str = "cpu"

    def scans(self, run: RunFolder, evaluation: Evaluation) -> list[ScanExample]:
        """Worst, median and best segmented scan by mean Dice."""
        chosen = extremes(evaluation.scans, "dice")
        if not chosen:
            return []
        cohort, session = _cohort(evaluation), Session(run, self.device)
        return [
            _segmented(session, rank, row, _subject(cohort, row.get("scan", "")))
            for rank, row in chosen
        ]

    def pairs(self, run: RunFolder, evaluation: Evaluation) -> list[PairExample]:
        """Worst, median and best registered pair by mean Dice."""
        chosen = extremes(evaluation.pairs, "dice")
        if not chosen:
            return []
        cohort, session = _cohort(evaluation), Session(run, self.device)
        return [
            _registered(
                session, rank, row,
                moving=_subject(cohort, row.get("moving", "")),
                fixed=_subject(cohort, row.get("fixed", "")),
            )
            for rank, row in chosen
        ]  # fmt: skip


def near_ras(volume: Volume) -> Volume:
    """The same voxels, axes permuted and flipped to run nearest to right, anterior, superior."""
    affine = volume.geometry.affine.numpy()
    turn = nib.orientations.io_orientation(affine)
    data = nib.orientations.apply_orientation(volume.data.numpy(), turn)
    turned = affine @ nib.orientations.inv_ornt_aff(turn, volume.geometry.shape)
    geometry = Geometry(data.shape, torch.from_numpy(turned))
    return Volume(torch.from_numpy(np.ascontiguousarray(data)), geometry)


def _segmented(
    session: Session, rank: str, row: Mapping[str, str], subject: Subject
) -> ScanExample:
    image = near_ras(read_image(subject.image))
    predicted = near_ras(session.segment(subject.image))
    return ScanExample(
        rank=rank,
        scan=subject.id,
        dice=value(row, "dice"),
        spacing_mm=image.geometry.spacing_mm,
        image=image.data.numpy(),
        manual=near_ras(_labels(session, subject)).data.numpy(),
        predicted=predicted.data.numpy(),
    )


def _registered(
    session: Session, rank: str, row: Mapping[str, str], *, moving: Subject, fixed: Subject
) -> PairExample:
    transform = session.register(moving=moving.image, fixed=fixed.image)
    start = session.alignment(moving=moving.image, fixed=fixed.image)
    moving_image, fixed_image = read_image(moving.image), read_image(fixed.image)
    target = near_ras(fixed_image)
    grid = target.geometry
    whole = transform.displacement(grid)
    labels: dict[str, Array | None] = {"moving": None, "fixed": None, "moved": None}
    if moving.labels is not None:
        carried = _labels(session, moving)
        labels["moving"] = resample(carried, grid, start, labels=True).data.numpy()
        labels["moved"] = resample(carried, grid, transform, labels=True).data.numpy()
    if fixed.labels is not None:
        labels["fixed"] = near_ras(_labels(session, fixed)).data.numpy()
    return PairExample(
        rank=rank,
        moving_scan=moving.id,
        fixed_scan=fixed.id,
        dice_before=value(row, "dice_before"),
        dice=value(row, "dice"),
        spacing_mm=grid.spacing_mm,
        moving=resample(moving_image, grid, start).data.numpy(),
        fixed=target.data.numpy(),
        moved=resample(moving_image, grid, transform).data.numpy(),
        moving_labels=labels["moving"],
        fixed_labels=labels["fixed"],
        moved_labels=labels["moved"],
        displacement=(whole - start.displacement(grid)).numpy(),
        determinant=jacobian_determinant(whole.unsqueeze(0))[0].numpy(),
    )


def _cohort(evaluation: Evaluation) -> Cohort:
    if evaluation.cohort is None:
        raise BadInput(f"{evaluation.folder}: the evaluation does not say which cohort it scored")
    if not evaluation.cohort.exists():
        raise BadInput(
            f"{evaluation.cohort}: the cohort that was evaluated is no longer there; "
            "put it back, or evaluate again on its new place"
        )
    return read_cohort(evaluation.cohort)


def _subject(cohort: Cohort, identifier: str) -> Subject:
    try:
        return cohort.by_id(identifier)
    except KeyError:
        raise BadInput(
            f"{cohort.root}: the scan {identifier!r} of the evaluation is not there any more; "
            "put it back, or evaluate again"
        ) from None


def _labels(session: Session, subject: Subject) -> Volume:
    """The manual map in the values that the run writes, ignored voxels background."""
    if subject.labels is None:
        raise BadInput(f"{subject.image}: the scan has no label file any more")
    volume = read_labels(subject.labels)[0]
    return Volume(session.plan.label_rule(volume.data)[0], volume.geometry)
