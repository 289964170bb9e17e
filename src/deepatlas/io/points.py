"""Landmarks from and to CSV: columns x, y[, z] in mm, and any others, which are kept."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_text
from deepatlas.io.nifti import read_content

Axes = Literal["RAS", "LPS"]
_NAMES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class Points:
    """Landmarks and the table they came in.

    Attributes
    ----------
    mm : (n, d) float64, RAS.
    rows : the table's rows by column name, all columns as text.
    columns : the names of its columns.
    """

    mm: Tensor
    rows: tuple[dict[str, str], ...]
    columns: tuple[str, ...]


def read_points(path: Path, axes: Axes = "RAS") -> Points:
    """The landmarks of a CSV file.

    Parameters
    ----------
    axes : what x and y mean in the file: to the right and front (RAS, as in NIfTI), or to the left
        and back (LPS, as in ITK, ANTs and DICOM).

    Raises
    ------
    BadInput : the file cannot be read, or a row has no number in one of these columns.
    """
    try:
        table = csv.DictReader(io.StringIO(read_content(path).decode("utf-8-sig")))
        numbered = [(table.line_num, row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: not a CSV file in UTF-8 ({error}); export it again") from None
    names = [name for name in _NAMES if name in (table.fieldnames or [])]
    if names not in (["x", "y"], ["x", "y", "z"]):
        raise BadInput(
            f"{path}: its columns are {', '.join(table.fieldnames or ['none'])}; expected x, y and "
            "(in space) z, in mm"
        )
    values = [[_number(row.get(name), name, line, path) for name in names]
              for line, row in numbered]  # fmt: skip
    mm = torch.tensor(values, dtype=torch.float64).reshape(len(values), len(names))
    rows = tuple({k: v for k, v in row.items() if isinstance(k, str)} for _, row in numbered)
    return Points(mm * _signs(axes, len(names)), rows, tuple(table.fieldnames or ()))


def write_points(path: Path, points: Points, axes: Axes = "RAS") -> None:
    """Write landmarks with the columns that they came with.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    """
    d = points.mm.shape[1]
    values = (points.mm * _signs(axes, d)).tolist()
    out = io.StringIO()
    writer = csv.DictWriter(out, points.columns, lineterminator="\n")
    writer.writeheader()
    for row, value in zip(points.rows, values, strict=True):
        place = {name: f"{number:.6f}" for name, number in zip(_NAMES[:d], value, strict=True)}
        writer.writerow({**row, **place})
    write_text(path, out.getvalue())


def moved(points: Points, mm: Tensor) -> Points:
    """The same table at other places."""
    return replace(points, mm=mm)


def _number(text: str | None, name: str, line: int, path: Path) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{path}: line {line}: {text!r} in column {name} is no number; mend it")
    return value


def _signs(axes: Axes, d: int) -> Tensor:
    turn = -1.0 if axes == "LPS" else 1.0
    return torch.tensor([turn, turn, 1.0][:d], dtype=torch.float64)
