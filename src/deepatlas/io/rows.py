"""Rows of a table in a text file: CSV as people and spreadsheets write it, and TSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from deepatlas.errors import BadInput

_DELIMITERS = ",;\t"


def read_rows(
    path: Path, *, keep_names: bool = False
) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names in lower case, and each row that is not empty with the line it ends in.

    Cells lie between commas, semicolons (as spreadsheets write CSV in many countries) or tabs,
    whichever the header has most of; they lose the white space around them, and a row that ends
    early has empty cells. A column without a name is left out.

    Parameters
    ----------
    keep_names : names stay as they are written, and so does a column without one.

    Raises
    ------
    BadInput : not UTF-8 text, a quote that is not closed, two columns of one name, or a row
        that is longer than the header.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
        header = text.lstrip().partition("\n")[0]
        delimiter = max(_DELIMITERS, key=header.count)
        lines = io.StringIO(text, newline="")
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is no UTF-8 text; save it as `CSV UTF-8`") from None
    except (OSError, csv.Error) as error:
        raise BadInput(f"{path}: cannot be read as CSV ({error}); mend it") from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        return [], []
    columns = rows[0][1] if keep_names else [name.lower() for name in rows[0][1]]
    named = [name for name in columns if name or keep_names]
    lower = [name.lower() for name in columns if name]
    faults = [f"{path}: two columns are called {n!r}; leave one" for n in _doubled(lower)]
    for line, cells in rows[1:]:
        if any(cells[len(columns) :]):
            faults.append(
                f"{path}, line {line}: has {len(cells)} cells, and the header {len(columns)}; "
                "put cells that hold the delimiter into quotes"
            )
    if faults:
        raise BadInput(faults)
    padding, known = [""] * len(columns), set(named)

    def row(cells: list[str]) -> dict[str, str]:
        pairs = zip(columns, cells + padding, strict=False)
        return {name: cell for name, cell in pairs if name in known}

    return named, [(line, row(cells)) for line, cells in rows[1:]]


def _doubled(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
