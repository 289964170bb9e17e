"""A phantom cohort on disk: what `deepatlas phantom` writes.

DIR/dataset.json, imagesTr/, labelsTr/   the cohort: all scans, label maps of the first few
DIR/truth/                               the same scans with all their label maps, a cohort too
DIR/test/                                other scans of the population with all label maps
DIR/phantom.json                         what `Phantom` needs to draw them again
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from deepatlas.data import phantom_template as template
from deepatlas.data.phantom import DEFAULT_SHAPE, Phantom
from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_json
from deepatlas.io.images import write_image, write_labels

RECORD = "phantom.json"
FIRST_TEST_SUBJECT = 1000
TEST_SUBJECTS = 8


def write_phantom(
    out: Path,
    *,
    subjects: int = 40,
    labelled: int = 3,
    seed: int = 0,
    ndim: int = 3,
    shape: Sequence[int] | None = None,
    test_subjects: int = TEST_SUBJECTS,
) -> Path:
    """Write a cohort of phantom scans in Decathlon layout, its truth and a test set.

    A phantom that lies in `out` already is replaced.

    Parameters
    ----------
    out : folder of the cohort.
    subjects : scans of the cohort, `phantom_000` and on, with their numbers in `Phantom`.
    labelled : how many of them, the first ones, have a label file.
    ndim, shape : 2 or 3 axes with the usual shape, or a shape of your own.
    test_subjects : scans of `out/test`, `phantom_1000` and on: the same for any `subjects`.

    Returns
    -------
    `out`.

    Raises
    ------
    BadInput : impossible numbers, or a folder that holds something else.
    """
    out = Path(out)
    _check_numbers(subjects, labelled, test_subjects, ndim)
    phantom = Phantom(seed=seed, shape=tuple(shape) if shape else DEFAULT_SHAPE[ndim])
    _clear(out)
    write_json(out / RECORD, {"phantom": asdict(phantom), "labelled": labelled})
    truth, test = out / "truth", out / "test"
    for index in range(subjects):
        _write_subject(phantom, index, truth)
        name = _file_name(index)
        _link(truth / "imagesTr" / name, out / "imagesTr" / name)
        if index < labelled:
            _link(truth / "labelsTr" / name, out / "labelsTr" / name)
    for index in range(FIRST_TEST_SUBJECT, FIRST_TEST_SUBJECT + test_subjects):
        _write_subject(phantom, index, test)
    (out / "labelsTr").mkdir(exist_ok=True)
    for folder in (truth, test, out):
        if folder.is_dir():
            _write_table(folder)
    return out


def _check_numbers(subjects: int, labelled: int, test_subjects: int, ndim: int) -> None:
    faults = []
    if not 1 <= subjects <= FIRST_TEST_SUBJECT:
        faults.append(f"subjects are 1 to {FIRST_TEST_SUBJECT}; got {subjects}")
    if not 0 <= labelled <= subjects:
        faults.append(f"labelled subjects are 0 to {subjects}, all of them; got {labelled}")
    if test_subjects < 0:
        faults.append(f"test subjects are 0 or more; got {test_subjects}")
    if ndim not in DEFAULT_SHAPE:
        faults.append(f"a phantom has 2 or 3 axes; got {ndim}")
    if faults:
        raise BadInput(faults)


def _file_name(index: int) -> str:
    return f"phantom_{index:03d}.nii.gz"


def _write_subject(phantom: Phantom, index: int, cohort: Path) -> None:
    subject = phantom.subject(index)
    write_image(cohort / "imagesTr" / _file_name(index), subject.image)
    write_labels(cohort / "labelsTr" / _file_name(index), subject.labels, "uint8")


def _write_table(cohort: Path) -> None:
    """The `dataset.json` of a folder; written last, so that a cohort that has one is whole."""
    images = sorted(path.name for path in (cohort / "imagesTr").glob("phantom_*.nii.gz"))
    names = {name: value for value, name in template.label_names().items()}
    thin = [s.label for s in template.STRUCTURES if s.thin]
    write_json(
        cohort / "dataset.json",
        {
            "name": "deepatlas phantom",
            "description": "drawn anatomy: deformed copies of one template",
            "licence": "CC0",
            "channel_names": {"0": "phantom"},
            "labels": {"background": 0, **names, "thin": thin},
            "file_ending": ".nii.gz",
            "numTraining": len(images),
            "training": [
                {"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"}
                for name in images
                if (cohort / "labelsTr" / name).exists()
            ],
        },
    )


def _clear(out: Path) -> None:
    """Make room: remove a phantom written before, and refuse any other content."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BadInput(f"{out}: is a file; choose a new folder for the phantom")
    if not any(out.iterdir()):
        return
    if not _is_ours(out):
        raise BadInput(f"{out}: holds other files and no phantom; choose a new or an empty folder")
    for cohort in (out, out / "truth", out / "test"):
        (cohort / "dataset.json").unlink(missing_ok=True)
        for folder in ("imagesTr", "labelsTr"):
            for path in (cohort / folder).glob("phantom_*.nii.gz"):
                path.unlink()


def _is_ours(out: Path) -> bool:
    try:
        return "phantom" in json.loads((out / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the disk knows no hard links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
