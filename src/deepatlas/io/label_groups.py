"""Named groups of label values, from a JSON file: what is learnt in place of single values.

A file holds one set of groups or several by name, of which one is taken:

    {"Hippocampus": [17, 53], "Caudate": [11, 50]}
    [{"id": 4, "name": "Hippocampus", "values": [17, 53]}, ...]
    {"coarse": <a set in one of these forms>, "cortical": <another>}

Without `id` groups are numbered from 1 in their order. A group named `ignore` marks voxels of which
nothing is known; values in no group are background.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepatlas.errors import BadInput
from deepatlas.io.json_file import load_json

IGNORE = "ignore"
LARGEST = 2**63 - 1
"""The largest label value: label maps are int64 here."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelGroup:
    """Label values that make one structure.

    Parameters
    ----------
    id : its value in label maps that are written, 1 or more.
    name : its name, unlike that of any other group.
    values : of label maps that are read, other than 0.
    """

    id: int
    name: str
    values: tuple[int, ...]


def read_label_groups(source: Path | str) -> tuple[LabelGroup, ...]:
    """The groups of a file: `groups.json`, or `groups.json:NAME` for one of its sets.

    Of a file with several sets the first one is taken where none is named, and the log says so.

    Raises
    ------
    BadInput : a file that cannot be read, no set of that name, or faults of groups, all together.
    """
    path, name = _path_and_set(str(source))
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error}); mend it") from None
    sets = _sets(content)
    if name and name not in sets:
        has = f"its sets are {', '.join(sets)}" if sets else "it holds one set, without a name"
        raise BadInput(f"{path}: has no set of groups {name!r}; {has}")
    if not name and len(sets) > 1:
        name, *others = sets
        _log.info("%s: groups of the set %r are taken; for others write %s", path, name,
                  ", ".join(f"{path.name}:{other}" for other in others))  # fmt: skip
    chosen = sets[name or next(iter(sets))] if sets else content
    try:
        groups = _groups(chosen)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadInput(
            f'{path}: expected groups {{"name": [values], ...}} or [{{"id": 1, "name": "...", '
            f'"values": [...]}}, ...], or named sets of such ({error})'
        ) from None
    faults = group_faults(groups)
    if faults:
        raise BadInput([f"{path}: {fault}" for fault in faults])
    return groups


def group_faults(groups: Sequence[LabelGroup]) -> list[str]:
    """What is wrong with a set of groups, a sentence each."""
    faults = []
    if not any(group.name != IGNORE for group in groups):
        faults.append("holds no group; expected at least one")
    for what, found in (
        ("the id", Counter(group.id for group in groups)),
        ("the name", Counter(group.name for group in groups)),
        ("the label value", Counter(value for group in groups for value in group.values)),
    ):
        doubled = [thing for thing, count in found.items() if count > 1]
        if doubled:
            shown = ", ".join(str(thing) for thing in doubled[:5])
            faults.append(f"{what} {shown} stands in two groups; groups of a set are disjoint")
    for group in groups:
        if not group.values or 0 in group.values:
            faults.append(f"group {group.name!r}: expected label values other than 0")
        if group.id < 1:
            faults.append(f"group {group.name!r}: its id is {group.id}; expected 1 or more")
    return faults


def _path_and_set(source: str) -> tuple[Path, str]:
    """The file and the name of a set, "" for none; a path may itself hold a colon."""
    path, colon, name = source.rpartition(":")
    if colon and path and not Path(source).is_file() and Path(path).is_file():
        return Path(path), name
    return Path(source), ""


def _sets(content: Any) -> dict[str, Any]:
    """The named sets of a file; empty where it is one set without a name."""
    if isinstance(content, dict) and all(
        isinstance(one, dict) or (isinstance(one, list) and one and isinstance(one[0], dict))
        for one in content.values()
    ):
        return content
    return {}


def _groups(content: Any) -> tuple[LabelGroup, ...]:
    """The groups of one set in either form; several exceptions where it has neither."""
    if isinstance(content, dict):
        content = [{"name": name, "values": values} for name, values in content.items()]
    return tuple(
        LabelGroup(
            id=_whole(entry.get("id", number)),
            name=str(entry["name"]),
            values=tuple(sorted(_whole(value) for value in entry["values"])),
        )
        for number, entry in enumerate(content, 1)
    )


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise ValueError(f"{value!r} is no integer of 64 bits")
    return value
