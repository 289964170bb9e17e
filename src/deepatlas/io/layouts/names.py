"""What the layouts with a `dataset.json` share: the file, and the names of labels in it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepatlas.io.json_file import load_json
from deepatlas.io.label_groups import LARGEST


@dataclass(frozen=True)
class LabelTable:
    """What a `dataset.json` says about label values: their names, named sets, ignored values."""

    names: dict[int, str] = field(default_factory=dict)
    groups: dict[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: tuple[int, ...] = ()
    faults: tuple[str, ...] = ()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; OSError or ValueError where there is none."""
    content = load_json(path)
    if not isinstance(content, dict):
        raise ValueError('expected an object {"labels": ...}')
    return content


def label_table(table: Any, path: Path) -> LabelTable:
    """The `labels` of the JSON `path`.

    Entries are `{"1": "Anterior"}` or `{"Anterior": 1}`; several values make a group. The one named
    `ignore` marks voxels that count nowhere.
    """
    if not isinstance(table, dict):
        fault = f'{path}: `labels` are not readable; expected {{"value": "name"}}: mend it'
        return LabelTable(faults=(fault,))
    names: dict[int, str] = {}
    groups: dict[str, tuple[int, ...]] = {}
    ignored: tuple[int, ...] = ()
    faults = []
    for key, value in table.items():
        try:
            name, values = _entry(key, value)
        except (TypeError, ValueError, OverflowError):
            faults.append(
                f"{path}: the label entry {json.dumps({key: value})} is neither "
                '{"value": "name"} nor {"name": value} nor {"name": [values]}; mend it'
            )
            continue
        if name.lower() == "ignore" and 0 in values:
            faults.append(
                f"{path}: the `ignore` label is 0, which is the background; give it another value"
            )
        elif name.lower() == "ignore":
            ignored = values
        elif len(values) > 1:
            groups[name] = values
        elif values[0] != 0:
            names[values[0]] = name
    return LabelTable(names, groups, ignored, tuple(faults))


def _entry(key: str, value: Any) -> tuple[str, tuple[int, ...]]:
    """Name and label values of one entry of `labels`, in either style."""
    name, values = (value, [int(key)]) if isinstance(value, str) else (key, value)
    values = values if isinstance(values, list) else [values]
    if not values or any(isinstance(v, bool) or int(v) != v or abs(v) > LARGEST for v in values):
        raise ValueError("label values are integers")
    return name, tuple(sorted(int(v) for v in values))
