"""A run against other runs on the same scans and pairs, corrected for the number of comparisons."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deepatlas.evaluation.statistics import benjamini_hochberg, compare
from deepatlas.evaluation.tables import Row, number

MEASURES = ("dice", "hd95_mm_with_misses")
"""What is compared; HD95 with its misses, or a run could gain by missing the hard structures."""

Tables = Mapping[str, Sequence[Row]]


def compare_tables(
    ours: Tables, others: Mapping[str, Tables], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Every comparison as a record; a difference is this run minus the other.

    Parameters
    ----------
    ours : rows of the tables "segmentation" and "registration", as far as the run has them.
    others : name of another run -> its rows.
    rng : draws the bootstrap resamples.

    Rows count where both runs have them and neither saw them. `_adjusted` p values are those of
    Benjamini and Hochberg over all records, each test for itself.
    """
    records = [
        _record(name, part, column, ours[part], theirs[part], rng)
        for name, theirs in others.items()
        for part in ours
        if part in theirs
        for column in MEASURES
    ]
    for test in ("mann_whitney_p", "wilcoxon_p"):
        adjusted = benjamini_hochberg([record[test] for record in records])
        for record, p in zip(records, adjusted, strict=True):
            record[f"{test}_adjusted"] = p
    return records


def _record(
    name: str,
    part: str,
    column: str,
    ours: Sequence[Row],
    theirs: Sequence[Row],
    rng: np.random.Generator,
) -> dict[str, Any]:
    partner = {row.subjects: row for row in theirs if not row.seen}
    rows = [row for row in ours if not row.seen and row.subjects in partner]
    found = compare(
        [row.numbers[column] for row in rows],
        [partner[row.subjects].numbers[column] for row in rows],
        [row.subjects for row in rows],
        rng,
    )
    return {
        "against": name,
        "measure": f"{part}.{column}",
        "n": found.n,
        "mean": found.mean_a,
        "mean_against": found.mean_b,
        "difference": found.difference,
        "interval": list(found.interval),
        "mann_whitney_p": found.mann_whitney_p,
        "wilcoxon_p": found.wilcoxon_p,
    }


def comparison_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records as CSV, the interval in the columns `low` and `high`."""
    text = io.StringIO()
    rows = []
    for record in records:
        row = {key: value for key, value in record.items() if key != "interval"}
        row["low"], row["high"] = record["interval"]
        rows.append({key: _text(value) for key, value in row.items()})
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
