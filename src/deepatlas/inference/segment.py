"""Segment scans and write the label maps, each on its scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from deepatlas.errors import BadInput
from deepatlas.inference.session import Session
from deepatlas.io.nifti import scan_id, write_labels
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
    BadInput : two images of one name, an image that cannot be read, a run without the network.
        Maps that were written before stay.
    """
    paths = [Path(image) for image in images]
    names = [scan_id(path) for path in paths]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise BadInput(
            [
                f"{', '.join(str(p) for p in paths if scan_id(p) == name)}: would all be written "
                f"to {name}.nii.gz; rename them or segment them into different folders"
                for name in doubled
            ]
        )
    session = Session(run, device)
    run.segmentation_network()  # a missing network is said before anything is written
    missing = [f"{path}: there is no such file" for path in paths if not path.is_file()]
    if missing:
        raise BadInput(missing)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for done, (path, name) in enumerate(zip(paths, names, strict=True), 1):
        target = out / f"{name}.nii.gz"
        if target.exists() and target.samefile(path):
            raise BadInput(f"{path}: would be overwritten by its segmentation; give another --out")
        labels = session.segment(path)
        write_labels(target, labels, np.dtype(session.plan.label_dtype), like=path)
        written.append(target)
        if progress is not None:
            progress(done, len(paths))
    return written
