"""The layout of the Medical Segmentation Decathlon and of nnU-Net (versions 1 and 2).

`imagesTr/` and `labelsTr/` hold the scans and label maps, in any format that is read here (an
nnU-Net image ends in `_0000`), `dataset.json` the names of the labels: `{"1": "Anterior"}` or, in
nnU-Net version 2, `{"Anterior": 1}`, where several values make a group: `{"Hippocampus": [1, 2]}`.
Voxels with the value of the label named `ignore` count nowhere.
`imagesTs/` is a test set without labels and takes no part in training.
"""

from __future__ import annotations

import re
from pathlib import Path

from deepatlas.errors import Fault
from deepatlas.io.layouts.folder import pair_up
from deepatlas.io.layouts.names import LabelTable, label_table, read_json
from deepatlas.io.subject import Cohort, Subject

LOOKS_LIKE = "a Decathlon or nnU-Net folder with dataset.json, imagesTr/ and labelsTr/"


def matches(root: Path) -> bool:
    """Whether `root` has the folder `imagesTr`."""
    return (root / "imagesTr").is_dir()


def read(root: Path) -> Cohort:
    """The scans of `root`, with the names, groups and `ignore` label of its `dataset.json`."""
    subjects, faults = pair_up(root / "imagesTr", root / "labelsTr")
    table = _label_table(root / "dataset.json")
    faults = (*faults, *_channel_faults(subjects), *table.faults)
    return Cohort(root, subjects, table.names, table.groups, faults, ignored=table.ignored)


def _channel_faults(subjects: tuple[Subject, ...]) -> list[str]:
    """nnU-Net scans of several channels: x_0000 and x_0001 are one scan, not two.

    Numbered scans look alike; but one of them has labels of its own, which no channel has.
    """
    ids = {subject.id for subject in subjects}
    channels: dict[str, list[Subject]] = {}
    for subject in subjects:
        channel = re.fullmatch(r"(.+)_000[1-9]", subject.id)
        if channel and channel[1] in ids:
            channels.setdefault(channel[1], []).append(subject)
    return [
        Fault(
            f"{subject.image}: a further channel of scan '{scan}'; a scan has one channel here: "
            "keep one file of each scan",
            "several-channels",
        )
        for scan, others in channels.items()
        if all(subject.labels is None for subject in others)
        for subject in others
    ]


def _label_table(path: Path) -> LabelTable:
    """The label table of a `dataset.json`; empty where there is no such file."""
    if not path.is_file():
        return LabelTable()
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        fault = f"{path}: not readable as a Decathlon dataset.json ({error}); mend it"
        return LabelTable(faults=(fault,))
    return label_table(content.get("labels", {}), path)
