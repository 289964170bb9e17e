"""What the linked evaluations hold: their tables, their summaries and the rows worth a picture."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, str]

NETWORKS = ("segmentation", "registration")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the run.

    Parameters
    ----------
    folder : where its tables lie.
    cohort : the folder of scans that was scored, or None if unknown.
    summary : as in summary.json.
    scans, pairs : rows of scans.csv and pairs.csv.
    fault : what is missing, as a sentence; None if all is there.
    """

    folder: Path
    cohort: Path | None
    summary: Mapping[str, Any]
    scans: tuple[Row, ...] = ()
    pairs: tuple[Row, ...] = ()
    fault: str | None = None

    @property
    def title(self) -> str:
        """Cohort and evaluation folder by name."""
        return f"{self.cohort.name}, {self.folder.name}" if self.cohort else self.folder.name


def read_evaluation(entry: Mapping[str, Any], run: Path) -> Evaluation:
    """The evaluation that an entry of evaluations.json names; never fails on what is missing.

    Relative paths count from the folder `run`.
    """
    folder = run / str(entry.get("out", ""))
    cohort = run / str(entry["cohort"]) if entry.get("cohort") else None
    summary = entry.get("summary")
    fault = None
    if not folder.is_dir():
        fault = f"The evaluation folder {folder} is no longer there: its tables cannot be read."
    elif not isinstance(summary, Mapping):
        summary = _read_json(folder / "summary.json")
    return Evaluation(
        folder=folder,
        cohort=cohort,
        summary=summary if isinstance(summary, Mapping) else {},
        scans=tuple(_read_csv(folder / "scans.csv")),
        pairs=tuple(_read_csv(folder / "pairs.csv")),
        fault=fault,
    )


def value(row: Mapping[str, Any], name: str) -> float:
    """The number in the column `name`; NaN if there is none."""
    try:
        return float(row.get(name) or math.nan)
    except (TypeError, ValueError):
        return math.nan


def is_seen(row: Mapping[str, str]) -> bool:
    """Whether the run saw a scan of the row in training or validation: then it is in no mean."""
    return bool((row.get("seen") or "").strip())


def unseen(rows: Sequence[Row]) -> list[Row]:
    """The rows that count in means."""
    return [row for row in rows if not is_seen(row)]


def extremes(rows: Sequence[Row], name: str) -> list[tuple[str, Row]]:
    """("worst", row), ("median", row), ("best", row) by the column `name`; fewer if rows are few.

    Rows without a finite number and rows seen in training are left out; the largest is the best.
    """
    scored = [row for row in unseen(rows) if math.isfinite(value(row, name))]
    scored.sort(key=lambda row: value(row, name))
    if len(scored) < 3:
        return list(zip(("worst", "best") if len(scored) > 1 else ("only",), scored, strict=False))
    return [("worst", scored[0]), ("median", scored[(len(scored) - 1) // 2]), ("best", scored[-1])]


def part(summary: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at a path of the summary; empty if there is none."""
    found: Any = summary
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _read_csv(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [dict(row) for row in csv.DictReader(file)]
    except (OSError, csv.Error, UnicodeDecodeError):
        return []


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
