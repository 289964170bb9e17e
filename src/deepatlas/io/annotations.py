"""Which structures were annotated in which scan: `annotations.json` in the cohort.

    {"case_03": ["Liver"], "case_04": [1, 5]}

The file lies beside the scans' folders, or beside the table that lists the scans. It has a scan's
id, and the values or names of the structures that were annotated in it. A scan that is not
named has them all: nothing is guessed from a structure that does not occur, because it may be
absent indeed. Names are those of `dataset.json`; the name of a group there stands for its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepatlas.errors import BadInput
from deepatlas.io.json_file import load_json
from deepatlas.io.subject import Cohort

FILE = "annotations.json"


def with_annotations(cohort: Cohort, path: Path | None = None) -> Cohort:
    """The cohort with what `path`, by default its own `annotations.json`, says of its scans.

    Single entries that are wrong are added to `Cohort.faults`.

    Raises
    ------
    BadInput : a file that is given and cannot be read, or holds no JSON object.
    """
    if path is None:
        root = cohort.root
        path = (root if root.is_dir() else root.parent) / FILE
        if not path.is_file():
            return cohort
    known = {subject.id: subject for subject in cohort.subjects}
    faults = []
    for identifier, entries in _read(path).items():
        subject = known.get(identifier)
        if subject is None:
            faults.append(
                f"{path}: names {identifier!r}, and there is no such scan; expected a file name "
                f"without its ending, such as {next(iter(known))!r}: correct it, or take it out"
            )
            continue
        try:
            values = annotated_values(entries, cohort)
        except ValueError as error:
            faults.append(f"{path}: {identifier}: {error}")
            continue
        known[identifier] = replace(subject, annotated=values)
    return replace(cohort, subjects=tuple(known.values()), faults=(*cohort.faults, *faults))


def annotated_values(entries: Any, cohort: Cohort) -> tuple[int, ...]:
    """Label values, ascending, of a list of values and names; ValueError says what is wrong."""
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            "expected a list of the values or names of the structures annotated in this scan, "
            f"got {entries!r}; a scan of which none was annotated has no label map"
        )
    named: dict[str, Sequence[int]] = {name: (v,) for v, name in cohort.label_names.items()}
    named |= cohort.groups
    found: set[int] = set()
    for entry in entries:
        if isinstance(entry, str) and entry in named:
            found.update(named[entry])
        elif isinstance(entry, str) and not entry.isdecimal():
            names = ", ".join(named) or "no names are known"
            raise ValueError(
                f"no structure is called {entry!r}; give its value, or its name as in "
                f"dataset.json ({names})"
            )
        elif isinstance(entry, bool) or not isinstance(entry, int | str) or not int(entry):
            raise ValueError(f"{entry!r} is no label value; give integers other than 0, or names")
        else:
            found.add(int(entry))
    return tuple(sorted(found))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error}); mend it") from None
    if not isinstance(content, dict):
        raise BadInput(f'{path}: expected {{"scan id": [values or names], ...}}')
    return content
