"""One row per scan or pair, the CSV tables of them, and a summary as plain text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepatlas.evaluation.folding import Folding
from deepatlas.evaluation.scores import Scores


@dataclass(frozen=True)
class Row:
    """One scan or pair.

    Parameters
    ----------
    texts : the columns that are not numbers: names of the scan or scans, `seen`, `align`.
    numbers : column -> value, in the order of the table; nan where there is none.
    scores : the measures per structure.
    subjects : the scan, or both scans of the pair; rows that share one are not independent.
    misses : measure -> structures that it missed, for measures of label maps.
    """

    texts: dict[str, str]
    numbers: dict[str, float]
    scores: Scores
    subjects: tuple[str, ...]
    misses: dict[str, int]

    @property
    def seen(self) -> bool:
        """Whether the run saw a scan of this row in training or in choosing the model."""
        return bool(self.texts["seen"])


def scan_row(*, scan: str, seen: str, scores: Scores, seconds: float) -> Row:
    """The row of one segmented scan; `seen` is "train", "validation" or ""."""
    return Row(
        texts={"scan": scan, "seen": seen},
        numbers={
            "dice": scores.mean_dice,
            "hd95_mm": scores.mean_hd95_mm,
            "misses": len(scores.missed),
            "seconds": seconds,
            "hd95_mm_with_misses": scores.mean_hd95_mm_with_misses,
            "spurious": len(scores.spurious),
        },
        scores=scores,
        subjects=(scan,),
        misses=dict.fromkeys(("dice", "hd95_mm", "hd95_mm_with_misses"), len(scores.missed)),
    )


def pair_row(
    *,
    moving: str,
    fixed: str,
    seen: str,
    align: str,
    before: Scores,
    scores: Scores,
    folding: Folding,
    seconds: float,
) -> Row:
    """The row of one registered pair; `before` scores the alignment alone."""
    missed = dict.fromkeys(("dice", "hd95_mm", "hd95_mm_with_misses"), len(scores.missed))
    return Row(
        texts={"moving": moving, "fixed": fixed, "seen": seen, "align": align},
        numbers={
            "dice_before": before.mean_dice,
            "dice": scores.mean_dice,
            "hd95_mm": scores.mean_hd95_mm,
            "misses": len(scores.missed),
            "folds_percent": folding.folds_percent,
            "fold_cells_percent": folding.cells_percent,
            "sdlogj": folding.sdlogj,
            "sdlogj_learn2reg": folding.sdlogj_learn2reg,
            "seconds": seconds,
            "hd95_mm_with_misses": scores.mean_hd95_mm_with_misses,
            "spurious": len(scores.spurious),
            "left_out": folding.left_out,
        },
        scores=scores,
        subjects=(moving, fixed),
        misses={"dice_before": len(before.missed), **missed},
    )


def csv_table(rows: Sequence[Row]) -> str:
    """A table with a header line; nothing where a measure has no value, inf where it has no bound.

    After the columns of the row come `dice_<value>`, `hd95_mm_<value>` of every structure and
    `dice_group_<name>` of every group; where there is any, `not_annotated` (the structures that
    were not, in this row) and `ignored_voxels` (their number).
    """
    records = [_record(row) for row in rows]
    columns = list(dict.fromkeys(column for record in records for column in record))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(row: Row) -> dict[str, str]:
    scores = row.scores
    record = dict(row.texts)
    record.update({name: number(value) for name, value in row.numbers.items()})
    for value, overlap in scores.dice.items():
        record[f"dice_{value}"] = number(overlap)
        record[f"hd95_mm_{value}"] = number(scores.hd95_mm.get(value, math.nan))
    record.update({f"dice_group_{name}": number(x) for name, x in scores.groups.items()})
    if scores.not_annotated:
        record["not_annotated"] = " ".join(str(value) for value in scores.not_annotated)
    if scores.ignored_voxels:
        record["ignored_voxels"] = str(scores.ignored_voxels)
    return record


def number(value: float) -> str:
    """A number as a table holds it: six digits, nothing for nan."""
    return "" if math.isnan(value) else f"{value:.6g}"


def flatten(summary: Mapping[str, Any]) -> dict[str, str]:
    """The summary as plain text by key, which is the path in it; no value holds a space.

    The mean stands at the measure's own key (`segmentation.dice`), and below it `.interval` as
    low,high, `.n`, `.misses` and the other counts. Structures are left to the tables.
    """
    plain: dict[str, str] = {}
    for key in ("align", "labels_seen"):
        if summary.get(key) is not None:
            plain[key] = str(summary[key]).replace(" ", "")
    for record in summary.get("comparisons", ()):
        plain.update(_flat_comparison(record))
    for part, groups in summary.get("groups", {}).items():
        for name, group in groups.items():
            plain.update(_flat_measure(f"groups.{part}.{_key(name)}.dice", group["dice"]))
    for part in ("segmentation", "registration"):
        for name, values in summary.get(part, {}).items():
            plain.update(_flat_measure(f"{part}.{name}", values))
    return plain


def _flat_measure(key: str, values: Mapping[str, Any]) -> dict[str, str]:
    counts = [name for name in values if name not in ("mean", "std", "interval")]
    return {
        key: _short(values["mean"]),
        f"{key}.interval": _bounds(values["interval"]),
        **{f"{key}.{name}": str(values[name]) for name in counts},
    }


def _flat_comparison(record: Mapping[str, Any]) -> dict[str, str]:
    key = f"comparisons.{_key(record['against'])}.{record['measure']}"
    return {
        f"{key}.difference": _short(record["difference"]),
        f"{key}.interval": _bounds(record["interval"]),
        f"{key}.n": str(record["n"]),
        f"{key}.mann_whitney_p_adjusted": _short(record["mann_whitney_p_adjusted"]),
        f"{key}.wilcoxon_p_adjusted": _short(record["wilcoxon_p_adjusted"]),
    }


def _key(name: str) -> str:
    return "_".join(name.split())


def _bounds(bounds: Sequence[float | None] | None) -> str:
    return ",".join(_short(bound) for bound in bounds or (None, None))


def _short(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "nan"
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"
