"""The layout of the Learn2Reg challenges: `NAME_dataset.json` beside `imagesTr/`, `labelsTr/`.

The JSON lists `training` scans (`{"image": ..., "label": ..., "mask": ...}`), pairs of them under
`registration_val` and `registration_test` (`{"fixed": ..., "moving": ...}`), `modality`, and
`labels` (`{"0": {"1": "Left-Cerebral-White-Matter"}}`). Of `NAME_0001_0002.nii.gz` the first number
is the subject, the second the modality or the time: another scan of that subject.

The scans of the pairs, and others of their subjects, are the test part: no network is trained on
them or chosen by them. `test` scans have no labels and take no part.

Source: https://learn2reg.grand-challenge.org (Hering et al., Learn2Reg, IEEE TMI 42(3), 2023).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepatlas.errors import BadInput
from deepatlas.io.images import ENDINGS, is_scan, scan_id
from deepatlas.io.layouts.names import LabelTable, label_table, read_json
from deepatlas.io.subject import Cohort, Subject

LOOKS_LIKE = "a Learn2Reg folder with NAME_dataset.json (or that file)"

_OWN_KEYS = {"registration_val", "registration_test", "training_paired_images", "tensorImageShape"}
_PAIRS = ("registration_val", "registration_test")


def matches(path: Path) -> bool:
    """Whether it is a JSON file, or a folder with a JSON of this kind."""
    return path.suffix.lower() == ".json" if path.is_file() else bool(_files(path))


def read(path: Path) -> Cohort:
    """The training scans that the JSON lists, its pairs, and the names of labels.

    Raises
    ------
    BadInput : several such files, or one that cannot be read or lists no training scan.
    """
    files = [path] if path.is_file() else _files(path)
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise BadInput(f"{path}: holds {listed}; give one of these files as the cohort")
    (file,) = files
    content = _content(file)
    faults: list[str] = []
    kind = _label_kind(content["training"])
    subjects: dict[str, Subject] = {}
    for number, entry in enumerate(content["training"], 1):
        subject = _subject(file, entry, kind, f"{file}, training scan {number}", faults)
        if subject is not None and subject.id in subjects:
            faults.append(f"{file}, training scan {number}: {subject.id} is listed twice; keep one")
        elif subject is not None:
            subjects[subject.id] = subject
    pairs = _pairs(content, file, subjects, faults)
    table = _label_table(content.get("labels"), file)
    persons = {subjects[identifier].person for pair in pairs for identifier in pair}
    held_out = {s.id for s in subjects.values() if s.person in persons}
    split = {
        "train": tuple(sorted(subjects.keys() - held_out)),
        "test": tuple(sorted(held_out)),
    }
    return Cohort(
        path,
        tuple(subjects.values()),
        table.names,
        table.groups,
        (*faults, *table.faults),
        ignored=table.ignored,
        split=split if held_out else None,
        pairs=pairs,
        notes=_notes(content, kind, held_out),
    )


def _files(root: Path) -> list[Path]:
    """JSON files of this kind in a folder: by their name, or by what `dataset.json` holds."""
    files = [path for path in sorted(root.glob("*_dataset.json")) if path.is_file()]
    if files:
        return files
    plain = root / "dataset.json"
    try:
        return [plain] if _OWN_KEYS & read_json(plain).keys() else []
    except (OSError, ValueError):
        return []


def _content(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise BadInput(f"{file}: not readable as a Learn2Reg JSON ({error}); mend it") from None
    if not isinstance(content.get("training"), list) or not content["training"]:
        raise BadInput(
            f'{file}: lists no training scan; expected "training": [{{"image": ..., "label": ...}}]'
        )
    return content


def _label_kind(training: list[Any]) -> str:
    """What labels a scan: "label", or "mask" where no scan has a label."""
    keys = {key for entry in training if isinstance(entry, Mapping) for key in entry}
    return "mask" if "mask" in keys and "label" not in keys else "label"


def _subject(file: Path, entry: Any, kind: str, where: str, faults: list[str]) -> Subject | None:
    """The scan of an entry; None, and a fault, where its image is not there."""
    entry = {"image": entry} if isinstance(entry, str) else entry
    image = entry.get("image") if isinstance(entry, Mapping) else None
    found = _file(file, image, where, "image", faults)
    if found is None:
        return None
    labels = entry.get(kind)
    identifier = scan_id(found)
    stem = found.name[: found.name.index(".")]
    numbered = re.fullmatch(r"(.*\d)_(\d{4})", stem)
    return Subject(
        identifier,
        found,
        _file(file, labels, where, kind, faults) if labels is not None else None,
        person=numbered[1] if numbered else "",
        session=numbered[2] if numbered else "",
    )


def _file(file: Path, value: Any, where: str, kind: str, faults: list[str]) -> Path | None:
    """The file that an entry names, or None, and a fault, where it is not there."""
    if not isinstance(value, str) or not value:
        faults.append(f'{where}: names no {kind}; expected {{"{kind}": "a path"}}: mend it')
        return None
    path = file.parent / value
    if not os.path.isfile(path):
        faults.append(f"{where}: there is no {kind} {path}; put it there or mend the JSON")
        return None
    if not is_scan(path):
        faults.append(f"{where}: {path.name} is not a scan by its name; expected one of {ENDINGS}")
        return None
    return path


def _pairs(
    content: Mapping[str, Any], file: Path, subjects: Mapping[str, Subject], faults: list[str]
) -> tuple[tuple[str, str], ...]:
    """(moving, fixed) of the pairs whose scans are both listed under `training`."""
    pairs: dict[tuple[str, str], None] = {}
    for key in _PAIRS:
        entries = content.get(key) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            try:
                pair = (scan_id(entry["moving"]), scan_id(entry["fixed"]))
            except (TypeError, KeyError):
                faults.append(f'{file}: {key} expects {{"fixed": path, "moving": path}}; mend it')
                break
            if subjects.keys() >= set(pair):
                pairs[pair] = None
    return tuple(pairs)


def _label_table(labels: Any, file: Path) -> LabelTable:
    """Names of label values: of one table, or of one for each modality with what they agree on."""
    if not labels:
        return LabelTable()
    if not isinstance(labels, dict) or not all(_is_table(value) for value in labels.values()):
        return label_table(labels, file)
    merged: dict[str, Any] = {}
    for table in labels.values():
        entries = table if isinstance(table, dict) else {str(i): n for i, n in enumerate(table)}
        for key, value in entries.items():
            if merged.setdefault(key, value) != value:
                fault = f"{file}: label {key} has two names, by modality; use one"
                return LabelTable(faults=(fault,))
    return label_table(merged, file)


def _is_table(value: Any) -> bool:
    """Whether it is a table of labels itself, or the list of their names from 0."""
    listed = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return isinstance(value, dict) or listed


def _notes(content: Mapping[str, Any], kind: str, held_out: set[str]) -> tuple[str, ...]:
    notes = []
    modality = content.get("modality")
    kinds = sorted({str(v) for v in modality.values()}) if isinstance(modality, Mapping) else []
    if len(kinds) > 1:
        notes.append(
            f"scans of several modalities ({', '.join(kinds)}) are in one cohort: losses that "
            "compare intensities expect one"
        )
    if kind == "mask":
        notes.append("no scan has labels: the masks are taken as label maps")
    if held_out:
        notes.append(
            f"{len(held_out)} scans of the subjects in registration pairs are the test part"
        )
    return tuple(notes)
