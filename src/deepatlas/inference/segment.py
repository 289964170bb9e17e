"""Segment scans and write the label maps, each on its scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.inference.session import Session
from deepatlas.io.header import say_if_forms_differ
from deepatlas.io.images import read_header, scan_id, write_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.io.paths import refuse_overwriting
from deepatlas.run.folder import RunFolder


def segment(
    run: RunFolder,
    images: Sequence[Path],
    *,
    out: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write `out`/<id>.nii.gz for every image, with the cohort's label values and integer type.

    Raises
    ------
    BadInput : two images of one name, an image or a label file of the training cohort that would
        be overwritten, an image that cannot be read, a run without the network. Maps that were
        written before stay.
    """
    paths = [Path(image) for image in images]
    targets = _targets(paths, Path(out))
    _keep_manual_labels(run, targets)
    session = Session(run, device)
    run.segmentation_network()  # a missing network is said before anything is written
    for done, (path, target) in enumerate(zip(paths, targets, strict=True), 1):
        say_if_forms_differ(read_header(path), path)
        labels = session.segment(path)
        write_labels(target, labels, np.dtype(session.plan.label_dtype), like=path)
        if progress is not None:
            progress(done, len(paths))
    return targets


def _targets(paths: Sequence[Path], out: Path) -> list[Path]:
    """Where each map is written; BadInput where two would be one file, or one is an image.

    Missing images are among the faults.
    """
    names = [scan_id(path) for path in paths]
    targets = [out / f"{name}.nii.gz" for name in names]
    doubled = sorted({name for name in names if names.count(name) > 1})
    faults = [
        f"{', '.join(str(p) for p in paths if scan_id(p) == name)}: would all be written to "
        f"{name}.nii.gz; rename them or segment them into different folders"
        for name in doubled
    ]
    faults += [
        f"{path}: there is no such file; check the path" for path in paths if not path.exists()
    ]
    if faults:
        raise BadInput(faults)
    refuse_overwriting(paths, targets)
    return targets


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
