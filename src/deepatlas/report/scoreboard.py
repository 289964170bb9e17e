"""The section of tables: every measure, structure, group and comparison of the evaluations."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deepatlas.report import markup
from deepatlas.report.results import NETWORKS, Evaluation, part

MEASURES = {
    "dice_before": "Dice before registration",
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "hd95_mm_with_misses": "HD95 (mm), a miss as the image diagonal",
    "folds_percent": "Folds (% of voxels)",
    "fold_cells_percent": "Folds (% of cells, one-sided)",
    "sdlogj": "SDlogJ",
    "sdlogj_learn2reg": "SDlogJ, Learn2Reg’s form",
    "seconds": "Seconds per case",
}
FILES = ("scans.csv", "pairs.csv", "summary.json", "comparisons.csv")
_STATISTICS = ("mean", "95 % interval", "n", "misses")
_LONG = 14  # rows of a table before it is folded away


def tables_section(evaluations: Sequence[Evaluation], page: Path) -> str:
    """All tables of all linked evaluations; links are relative to the folder of `page`."""
    if not evaluations:
        nothing = markup.note("No evaluation is linked to this run yet; see the summary.")
        return markup.section("tables", "Tables", nothing)
    about = (
        "<p>Means over test scans or pairs that were not seen in training. Intervals are bootstrap "
        "intervals over subjects; misses count structures that were not found at all.</p>"
    )
    parts = [_evaluation(evaluation, page) for evaluation in reversed(evaluations)]
    return markup.section("tables", "Tables", about, *parts)


def _evaluation(evaluation: Evaluation, page: Path) -> str:
    summary = evaluation.summary
    seen, align = summary.get("labels_seen"), summary.get("align")
    told = [f"{seen} labels seen" if seen else "", f"aligned by {align}" if align else ""]
    parts = [
        f"<h3>{markup.text(evaluation.title)}</h3>",
        f'<p class="about">{markup.text(", ".join(t for t in told if t))}</p>' if any(told) else "",
        _links(evaluation, page),
        markup.note(evaluation.fault) if evaluation.fault else "",
        *[markup.note(f"{remark[:1].upper()}{remark[1:]}.") for remark in _remarks(evaluation)],
    ]
    for network in NETWORKS:
        title = network.capitalize()
        parts.append(_measures(title, part(summary, network)))
        parts.append(_named(f"{title}: groups", part(summary, "groups", network)))
        parts.append(_named(f"{title}: structures", part(summary, "per_structure", network)))
    parts.append(_comparisons(summary.get("comparisons")))
    return "".join(parts)


def _remarks(evaluation: Evaluation) -> list[str]:
    """What the evaluation says about itself, and how many rows are not in its means."""
    notes = evaluation.summary.get("notes")
    remarks = [str(note) for note in notes] if isinstance(notes, list) else []
    for network, kind in zip(NETWORKS, ("scans", "pairs"), strict=True):
        seen = part(evaluation.summary, "seen").get(network)
        if seen:
            remarks.append(f"{seen} {kind} were seen in training and are not in the means")
    return remarks


def _links(evaluation: Evaluation, page: Path) -> str:
    """Relative links to the files of the evaluation that are there."""
    found = [name for name in FILES if (evaluation.folder / name).is_file()]
    if not found:
        return ""
    try:
        near = Path(os.path.relpath(evaluation.folder.resolve(), page.resolve().parent)).as_posix()
    except ValueError:  # another drive: no relative path leads there
        return ""
    links = [f'<a href="{quote(f"{near}/{name}")}">{name}</a>' for name in found]
    return f'<p class="about">Files: {" · ".join(links)}</p>'


def _measures(title: str, measures: Mapping[str, Any]) -> str:
    known = [key for key in MEASURES if key in measures]
    others = [key for key in measures if key not in MEASURES]
    rows = [
        (markup.text(MEASURES.get(key, key)), *_statistic(measures[key]))
        for key in (*known, *others)
        if isinstance(measures[key], Mapping)
    ]
    return markup.table(title, ("measure", *_STATISTICS), rows, words=(0,)) if rows else ""


def _named(title: str, members: Mapping[str, Any]) -> str:
    """Dice, and the mean HD95 beside it, of each structure or group."""
    rows = [
        (markup.text(values.get("name", key)), *_statistic(dice), *_distance(values))
        for key, values in members.items()
        if isinstance(values, Mapping) and (dice := part(values, "dice"))
    ]
    if not rows:
        return ""
    has_distance = any(len(row) > 1 + len(_STATISTICS) for row in rows)
    head = ("name", "Dice", *_STATISTICS[1:], *(("HD95 (mm)",) if has_distance else ()))
    body = markup.table(title, head, rows, words=(0,))
    return body if len(rows) <= _LONG else markup.folded(f"{title} ({len(rows)})", body)


def _statistic(values: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        markup.number(values.get("mean")),
        markup.interval(values.get("interval")),
        markup.number(values.get("n")),
        markup.number(values.get("misses")),
    )


def _distance(values: Mapping[str, Any]) -> tuple[str, ...]:
    distance = part(values, "hd95_mm")
    return (markup.number(distance.get("mean"), 2),) if distance else ()


def _comparisons(records: Any) -> str:
    """This run against others: means, difference, and both tests with corrected p values."""
    listed = [r for r in records if isinstance(r, Mapping)] if isinstance(records, list) else []
    if not listed:
        return ""
    head = (
        "measure", "against", "this run", "other", "difference", "95 % interval", "n",
        "Mann-Whitney p", "corrected", "Wilcoxon p", "corrected",
    )  # fmt: skip
    table = markup.table("Comparisons", head, list(map(_comparison, listed)), words=(0, 1))
    about = (
        '<p class="about">A difference is this run minus the other, on the same scans or pairs. '
        "Corrected: Benjamini and Hochberg over all comparisons of the table. The Mann-Whitney U "
        "test is the DeepAtlas paper’s; Wilcoxon’s signed-rank test uses the pairing.</p>"
    )
    return table + about


def _comparison(record: Mapping[str, Any]) -> tuple[str, ...]:
    network, _, key = str(record.get("measure", "")).rpartition(".")
    measure = f"{network.capitalize()}: {MEASURES.get(key, key)}" if network else key
    tests = ("mann_whitney_p", "mann_whitney_p_adjusted", "wilcoxon_p", "wilcoxon_p_adjusted")
    return (
        markup.text(measure),
        markup.text(record.get("against", "")),
        markup.number(record.get("mean")),
        markup.number(record.get("mean_against")),
        _signed(record.get("difference")),
        markup.interval(record.get("interval")),
        markup.number(record.get("n")),
        *_p_values(record, tests),
    )


def _signed(value: Any) -> str:
    shown = markup.number(value)
    return f"+{shown}" if isinstance(value, (int, float)) and value > 0 else shown


def _p_values(record: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        p = record.get(name)
        if not isinstance(p, (int, float)) or not math.isfinite(p):
            yield markup.DASH
        else:
            yield "&lt; 0.0001" if p < 1e-4 else f"{p:.4f}"
