"""What a table comes to: each measure's mean, interval, n and misses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from deepatlas.evaluation.statistics import interval
from deepatlas.evaluation.tables import Row

SHOWN = 5  # structures that a note names

COUNTS = ("misses", "spurious", "left_out")
"""Columns that count; their totals stand beside the means, they have no mean of their own."""

BESIDE = {"dice": "spurious", "sdlogj": "left_out"}
"""Counts that the summary gives beside a measure's mean, as totals over its rows."""


def measure(
    values: Sequence[float], rows: Sequence[Row], misses: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Mean, standard deviation, bootstrap interval over subjects, n, and misses beside them.

    Values that are not finite are left out and not in n; what is undefined is None.
    """
    finite = [value if math.isfinite(value) else math.nan for value in values]
    kept = [value for value in finite if not math.isnan(value)]
    low, high = interval(finite, [row.subjects for row in rows], rng)
    return {
        "mean": math.fsum(kept) / len(kept) if kept else None,
        "std": float(np.std(kept, ddof=1)) if len(kept) > 1 else None,
        "interval": None if math.isnan(low) else [low, high],
        "n": len(kept),
        "misses": misses,
    }


def summarise(rows: Sequence[Row], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Every measure of a table over the rows that the run had not seen.

    `misses` are structures for measures of label maps, and rows without a value for the others;
    Dice has the number of spurious structures beside it, SDlogJ the voxels that it left out.
    """
    unseen = [row for row in rows if not row.seen]
    names = [name for name in (rows[0].numbers if rows else ()) if name not in COUNTS]
    summary = {}
    for name in names:
        values = [row.numbers[name] for row in unseen]
        if name in rows[0].misses:
            misses = sum(row.misses[name] for row in unseen)
        else:
            misses = sum(not math.isfinite(value) for value in values)
        summary[name] = measure(values, unseen, misses, rng)
    for name, count in BESIDE.items():
        if name in summary and count in rows[0].numbers:
            summary[name][count] = int(sum(row.numbers[count] for row in unseen))
    return summary


def summarise_structures(
    rows: Sequence[Row], names: Mapping[int, str], rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """Dice and HD95 of each structure over the unseen rows, by label value as text.

    Rows in which it was not annotated are not in n; where there are such, they are counted beside.
    """
    unseen = [row for row in rows if not row.seen]
    summary: dict[str, dict[str, Any]] = {}
    for value in rows[0].scores.dice if rows else ():
        missed = sum(value in row.scores.missed for row in unseen)
        unknown = _unknown(value in row.scores.not_annotated for row in unseen)
        overlaps = [row.scores.dice[value] for row in unseen]
        distances = [row.scores.hd95_mm.get(value, math.nan) for row in unseen]
        summary[str(value)] = {
            "name": names.get(value, str(value)),
            "dice": measure(overlaps, unseen, missed, rng) | unknown,
            "hd95_mm": measure(distances, unseen, missed, rng) | unknown,
        }
    return summary


def summarise_groups(rows: Sequence[Row], rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """Dice of each named group over the unseen rows."""
    unseen = [row for row in rows if not row.seen]
    summary: dict[str, dict[str, Any]] = {}
    for name in rows[0].scores.groups if rows else ():
        values = [row.scores.groups[name] for row in unseen]
        missed = sum(name in row.scores.missed_groups for row in unseen)
        unknown = _unknown(name in row.scores.not_annotated_groups for row in unseen)
        summary[name] = {"dice": measure(values, unseen, missed, rng) | unknown}
    return summary


def left_out_notes(rows: Sequence[Row], names: Mapping[int, str]) -> list[str]:
    """What was not annotated, or ignored, in the scans or pairs of a table; told in words."""
    notes = []
    missing = Counter(value for row in rows for value in row.scores.not_annotated)
    if missing:
        listed = ", ".join(
            f"{names.get(value, value)} (in {count} of {len(rows)})"
            for value, count in missing.most_common(SHOWN)
        )
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        notes.append(f"not annotated everywhere, and left out of means and n: {listed}{more}")
    ignored = sum(row.scores.ignored_voxels > 0 for row in rows)
    if ignored:
        notes.append(
            f"voxels marked as ignored are left out of both label maps, in {ignored} of {len(rows)}"
        )
    return notes


def _unknown(rows: Iterable[bool]) -> dict[str, int]:
    """How many rows say nothing because it was not annotated; empty where there are none."""
    count = sum(rows)
    return {"not_annotated": count} if count else {}
