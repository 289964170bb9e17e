"""A CSV table as the cohort: a row a scan, `image,labels,subject,session,split`.

Only `image` is needed. Paths are relative to the table; a scan without labels has an empty cell.
Commas, semicolons and tabs are read. A scan's id is its file name or, where two files have one
name, its path below the folder that all of them share: `p1_t1` for `p1/t1.nii.gz`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepatlas.errors import BadInput
from deepatlas.io.images import ENDINGS, is_scan, scan_id
from deepatlas.io.rows import read_rows
from deepatlas.io.subject import Cohort, Subject

COLUMNS = ("image", "labels", "subject", "session", "split")
LOOKS_LIKE = f"a CSV file with the columns {','.join(COLUMNS)}"

_OTHER_NAMES = {"label": "labels"}
_PARTS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class _Row:
    """A row whose image is there."""

    where: str
    image: Path
    cells: dict[str, str]


def matches(path: Path) -> bool:
    """Whether it is a .csv or .tsv file."""
    return path.is_file() and path.suffix.lower() in {".csv", ".tsv"}


def read(path: Path) -> Cohort:
    """The scans that the table lists, with its split where it has that column.

    Raises
    ------
    BadInput : no table, no column `image`, or no row.
    """
    columns, lines = read_rows(path)
    named = [_OTHER_NAMES.get(name, name) for name in columns]
    if "image" not in named:
        raise BadInput(
            f"{path}: has no column image; expected the header {','.join(COLUMNS)} (all but image "
            f"may be left out) and got {','.join(columns) or 'an empty file'}"
        )
    if len(set(named)) < len(named):
        raise BadInput(f"{path}: has the columns label and labels; leave one")
    if not lines:
        raise BadInput(f"{path}: lists no scan; add a row for each below the header")
    faults: list[str] = []
    rows = []
    for line, cells in lines:
        cells = {_OTHER_NAMES.get(name, name): cell for name, cell in cells.items()}
        where = f"{path}, line {line}"
        image = _file(path.parent, cells["image"], where, "image", faults)
        if image is not None:
            rows.append(_Row(where, image, cells))
    faults += _doubled([(row.where, row.image) for row in rows], "image")
    labels = {
        row.where: _file(path.parent, row.cells["labels"], row.where, "label map", faults)
        for row in rows
        if row.cells.get("labels")
    }
    faults += _doubled([(where, file) for where, file in labels.items() if file], "label map")
    ids = _ids(rows, faults)
    subjects = tuple(
        Subject(
            identifier,
            row.image,
            labels.get(row.where),
            person=row.cells.get("subject", ""),
            session=row.cells.get("session", ""),
        )
        for identifier, row in ids.items()
    )
    split = _split(ids, faults)
    others = [name for name in named if name not in COLUMNS]
    notes = (f"columns that are not read: {', '.join(others)}",) if others else ()
    return Cohort(path, subjects, faults=tuple(faults), split=split, notes=notes)


def _file(folder: Path, cell: str, where: str, kind: str, faults: list[str]) -> Path | None:
    """The file, or DICOM folder, that a cell names; None, and a fault, where there is none."""
    if not cell:
        faults.append(f"{where}: names no {kind}; give its path, or remove the row")
        return None
    path = folder / cell
    if not os.path.exists(path):  # unlike Path.exists, False for a name that cannot be one
        faults.append(
            f"{where}: there is no {kind} {path}; paths are relative to the table's folder: "
            "check this one"
        )
        return None
    if not is_scan(path):
        what = "a folder without DICOM files" if path.is_dir() else "not a scan by its name"
        faults.append(
            f"{where}: {path.name} is {what}; expected one of {ENDINGS}, or the folder of a DICOM "
            "series: convert it"
        )
        return None
    return path


def _doubled(files: Sequence[tuple[str, Path]], kind: str) -> list[str]:
    """Files that two rows name."""
    first: dict[Path, str] = {}
    faults = []
    for where, path in files:
        before = first.setdefault(path.resolve(), where)
        if before != where:
            line = before.rpartition(", ")[2]
            faults.append(f"{where}: {path.name} is the {kind} of {line} too; keep one of the rows")
    return faults


def _ids(rows: Sequence[_Row], faults: list[str]) -> dict[str, _Row]:
    """Rows by scan id; two rows of one id are a fault."""
    names = [scan_id(row.image) for row in rows]
    if len(set(names)) < len(names):
        folders = [Path(os.path.abspath(row.image.parent)) for row in rows]
        shared = os.path.commonpath(folders)
        names = [
            "_".join((*folder.relative_to(shared).parts, name))
            for folder, name in zip(folders, names, strict=True)
        ]
    ids: dict[str, _Row] = {}
    for name, row in zip(names, rows, strict=True):
        if name not in ids:
            ids[name] = row
        elif ids[name].image.resolve() != row.image.resolve():  # else it is said already
            line = ids[name].where.rpartition(", ")[2]
            faults.append(
                f"{row.where}: {row.image} and the image of {line} would both be called "
                f"{name!r}; rename one"
            )
    return ids


def _split(rows: dict[str, _Row], faults: list[str]) -> dict[str, tuple[str, ...]] | None:
    """Ids by part, or None without a column `split` or with nothing in it."""
    if not any(row.cells.get("split") for row in rows.values()):
        return None
    parts: dict[str, list[str]] = {part: [] for part in ("train", "validation", "test")}
    for identifier, row in rows.items():
        part = _PARTS.get(row.cells["split"].lower())
        if part is None:
            faults.append(
                f"{row.where}: split is {row.cells['split']!r}; expected train, validation or test"
            )
        else:
            parts[part].append(identifier)
    return {part: tuple(ids) for part, ids in parts.items()}
