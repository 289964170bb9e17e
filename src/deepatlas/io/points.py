"""Landmarks from and to CSV: columns x, y[, z] in mm, and any others, which are kept.

Files as `io.rows` reads them, with commas, semicolons or tabs; written are commas.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_text
from deepatlas.io.rows import read_rows

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
    columns, numbered = read_rows(path, keep_names=True)
    names = _places(columns)
    if [name.lower() for name in names] not in (["x", "y"], ["x", "y", "z"]):
        raise BadInput(
            f"{path}: its columns are {', '.join(columns or ['none'])}; expected x, y and "
            "(in space) z, in mm"
        )
    values = [[_number(row[name], name, line, path) for name in names] for line, row in numbered]
    mm = torch.tensor(values, dtype=torch.float64).reshape(len(values), len(names))
    rows = tuple(row for _, row in numbered)
    return Points(mm * _signs(axes, len(names)), rows, tuple(columns))


def write_points(path: Path, points: Points, axes: Axes = "RAS") -> None:
    """Write landmarks with the columns that they came with.

    Raises
    ------
    DeepAtlasError : no room or no right to write there.
    """
    names = _places(points.columns)
    values = (points.mm * _signs(axes, len(names))).tolist()
    out = io.StringIO()
    writer = csv.DictWriter(out, points.columns, lineterminator="\n")
    writer.writeheader()
    for row, value in zip(points.rows, values, strict=True):
        place = {name: f"{number:.6f}" for name, number in zip(names, value, strict=True)}
        writer.writerow({**row, **place})
    write_text(path, out.getvalue())


def moved(points: Points, mm: Tensor) -> Points:
    """The same table at other places."""
    return replace(points, mm=mm)


def _places(columns: Sequence[str]) -> list[str]:
    """The names of the columns of x, y and z, in this order, as far as they are there."""
    return sorted((name for name in columns if name.lower() in _NAMES), key=str.lower)


def _number(text: str, name: str, line: int, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{path}: line {line}: {text!r} in column {name} is no number; mend it")
    return value


def _signs(axes: Axes, d: int) -> Tensor:
    turn = -1.0 if axes == "LPS" else 1.0
    return torch.tensor([turn, turn, 1.0][:d], dtype=torch.float64)
