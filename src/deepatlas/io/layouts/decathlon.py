"""The layout of the Medical Segmentation Decathlon and of nnU-Net (versions 1 and 2).

`imagesTr/` and `labelsTr/` hold the scans and label maps (an nnU-Net image ends in `_0000`),
`dataset.json` the names of the labels: `{"1": "Anterior"}` or, in nnU-Net version 2,
`{"Anterior": 1}`, where several values make a group: `{"Hippocampus": [1, 2]}`.
`imagesTs/` is a test set without labels and takes no part in training.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from deepatlas.io.images import scan_id
from deepatlas.io.layouts.folder import pair_up
from deepatlas.io.subject import Cohort, Subject

LOOKS_LIKE = "a Decathlon or nnU-Net folder with dataset.json, imagesTr/ and labelsTr/"

Names = tuple[dict[int, str], dict[str, tuple[int, ...]], list[str]]


def matches(root: Path) -> bool:
    """Whether `root` has the folder `imagesTr`."""
    return (root / "imagesTr").is_dir()


def read(root: Path) -> Cohort:
    """The scans of `root`, with the names and groups of labels of its `dataset.json`."""
    subjects, faults = pair_up(root / "imagesTr", root / "labelsTr")
    names, groups, name_faults = _label_names(root / "dataset.json")
    return Cohort(
        root, subjects, names, groups, (*faults, *_channel_faults(subjects), *name_faults)
    )


def _channel_faults(subjects: tuple[Subject, ...]) -> list[str]:
    """nnU-Net scans of several channels: x_0000 and x_0001 are one scan, not two."""
    ids = {subject.id for subject in subjects}
    faults = []
    for subject in subjects:
        channel = re.fullmatch(r"(.+)_000[1-9]", scan_id(subject.image))
        if channel and channel[1] in ids:
            faults.append(
                f"{subject.image}: a further channel of scan '{channel[1]}'; a scan has one "
                "channel here: keep one file of each scan"
            )
    return faults


def _label_names(path: Path) -> Names:
    """Names of label values, groups of them, and faults, from a `dataset.json`."""
    if not path.is_file():
        return {}, {}, []
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        table = content.get("labels", {})
        entries = table.items()
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        return {}, {}, [f"{path}: not readable as a Decathlon dataset.json ({error}); mend it"]
    names: dict[int, str] = {}
    groups: dict[str, tuple[int, ...]] = {}
    faults = []
    for key, value in entries:
        try:
            name, values = _entry(key, value)
        except (TypeError, ValueError):
            faults.append(
                f"{path}: the label entry {json.dumps({key: value})} is neither "
                '{"value": "name"} nor {"name": value} nor {"name": [values]}; mend it'
            )
            continue
        if name.lower() == "ignore":
            faults.append(
                f"{path}: an `ignore` label ({values[0]}) is not supported; "
                "remove it from dataset.json and from the label maps"
            )
        elif len(values) > 1:
            groups[name] = values
        elif values[0] != 0:
            names[values[0]] = name
    return names, groups, faults


def _entry(key: str, value: Any) -> tuple[str, tuple[int, ...]]:
    """Name and label values of one entry of `labels`, in either style."""
    if isinstance(value, str):
        return value, (int(key),)
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(v, bool) or int(v) != v for v in values):
        raise ValueError("label values are integers")
    return key, tuple(sorted(int(v) for v in values))
