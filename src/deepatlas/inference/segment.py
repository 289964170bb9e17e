"""Segment scans and write the label maps, each on its scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deepatlas.data.prepare import PreparedScan
from deepatlas.errors import BadInput
from deepatlas.inference.ahead import overlapped
from deepatlas.inference.derivatives import NAMES, Derivative, label_table
from deepatlas.inference.memory import to_write
from deepatlas.inference.session import Session
from deepatlas.io.atomic import write_text
from deepatlas.io.header import say_if_forms_differ
from deepatlas.io.images import read_header, scan_id, write_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.io.paths import refuse_overwriting
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Volume

Case = tuple[Path, Path]  # a scan, and where its label map goes


def segment(
    run: RunFolder,
    images: Sequence[Path],
    *,
    out: Path,
    bids: bool = False,
    device: torch.device | str = "cpu",
    max_memory: int | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `out`/<id>.nii.gz for every image, with the cohort's label values and integer type.

    Where the run has learnt groups of label values, the maps hold their ids, and dseg.tsv beside
    them their names. With `bids` the images have BIDS names, and `out` becomes a BIDS derivative
    (`Derivative`). While one scan is computed, the next is read and the last one written, as far
    as `max_memory` (see `Session`) allows.

    Raises
    ------
    BadInput : two images of one name, an image or a label file of the training cohort that would
        be overwritten, an image that cannot be read, a run without the network, and with `bids` a
        name that is none of BIDS or an `out` of something else. Maps that were written before
        stay.
    """
    paths = [Path(image) for image in images]
    derivative = Derivative.of(paths, Path(out)) if bids else None
    plain = [Path(out) / f"{scan_id(path)}.nii.gz" for path in paths]
    targets = list(derivative.targets) if derivative else plain
    _check_targets(paths, targets)
    _keep_manual_labels(run, targets)
    session = Session(run, device, max_memory=max_memory)
    session.load("segmentation")  # a missing network is said before anything is written
    if derivative is not None:
        derivative.begin(session.plan)
    dtype = np.dtype(session.plan.label_dtype)
    table = np.array([0, *session.plan.label_values], dtype)

    def read(case: Case) -> PreparedScan:
        say_if_forms_differ(read_header(case[0]), case[0])
        return session.read(case[0])

    def write(case: Case, scan: PreparedScan, classes: Tensor) -> None:
        path, target = case
        with session.room.taking(to_write(classes.numel(), dtype.itemsize)):
            labels = Volume(torch.from_numpy(table[classes.numpy()]), scan.preparation.native)
            write_labels(target, labels, dtype, like=path)
        if derivative is not None:
            derivative.describe(path, target)

    overlapped(
        list(zip(paths, targets, strict=True)),
        read=read,
        compute=lambda case, scan: session.classes(case[0], scan),
        write=write,
        progress=progress,
    )
    if session.plan.members and derivative is None:
        write_text(Path(out) / NAMES, label_table(session.plan))
    return targets


def _check_targets(paths: Sequence[Path], targets: Sequence[Path]) -> None:
    """BadInput where two maps would be one file or one an image, and where an image is missing."""
    sources: dict[Path, list[str]] = {}
    for path, target in zip(paths, targets, strict=True):
        sources.setdefault(target, []).append(str(path))
    faults = [
        f"{', '.join(several)}: would all be written to {target.name}; "
        "rename them or segment them into different folders"
        for target, several in sorted(sources.items())
        if len(several) > 1
    ]
    faults += [
        f"{path}: there is no such file; check the path" for path in paths if not path.exists()
    ]
    if faults:
        raise BadInput(faults)
    refuse_overwriting(paths, targets)


def _keep_manual_labels(run: RunFolder, targets: Sequence[Path]) -> None:
    """BadInput where a target is a label file of the cohort that the run was trained on."""
    existing = {target.resolve() for target in targets if target.exists()}
    if not existing:
        return
    try:
        labelled = read_cohort(run.split["cohort"]).labelled
    except BadInput:  # the cohort lies elsewhere now
        return
    manual = [s.labels for s in labelled if s.labels and s.labels.resolve() in existing]
    if manual:
        raise BadInput(
            [
                f"{path}: a manual label map would be overwritten; give another --out"
                for path in manual
            ]
        )
