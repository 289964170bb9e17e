"""Figures of numbers: training curves from the log, histograms of folds and determinants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from deepatlas.report.drawing import INK, LINES, Array, sheet

Series = dict[str, tuple[list[float], list[float]]]  # name -> steps, values
Span = tuple[str, float, float]  # stage, first step, last step
_BINS = 160  # most points of a line over the whole run
_COLUMNS = 3


def training_curves(log: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel per loss term and network, then the validation scores, over the step of the run.

    Parameters
    ----------
    log : the lines of log.jsonl; unknown events are passed over, and an empty log gives a figure
        that says so.

    Notes
    -----
    Stages are shaded in turn and numbered above each panel. Where a line has more than a few
    hundred steps, the means of bins are drawn, and a band from the 10th to the 90th percentile.
    """
    panels = {**_losses(log), **_scores(log)}
    if not panels:
        figure, axes = sheet(8.0, 1.2)
        axes[0].set_axis_off()
        axes[0].text(0.5, 0.5, "no step has been logged yet", ha="center", va="center", color=INK)
        return figure
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = sheet(3.4 * columns, 2.1 * rows + 0.15, rows, columns)
    stages = stage_spans(log)
    for ax, (title, series) in zip(axes, panels.items(), strict=False):
        _panel(ax, title, series, stages)
        _shade(ax, stages)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax in axes[len(panels) - columns : len(panels)]:
        ax.set_xlabel("step")
    return figure


def stage_spans(log: Iterable[Mapping[str, Any]]) -> list[Span]:
    """(name, first step, last step) of every stage that the log knows, in order."""
    spans: dict[str, list[float]] = {}
    for line in log:
        name = line.get("stage")
        step = line.get("step", line.get("from"))
        if name is None or step is None:
            continue
        spans.setdefault(str(name), []).append(float(step))
    return [(name, min(steps), max(steps)) for name, steps in spans.items()]


def fold_histogram(voxels: Sequence[float], *, unit: str = "folded voxels per pair") -> Figure:
    """How many pairs have how many folds: one bar for none, and bins of equal ratio beyond it."""
    counts = np.asarray([v for v in voxels if np.isfinite(v)], dtype=np.float64)
    figure, axes = sheet(5.0, 2.5)
    ax = axes[0]
    some = counts[counts > 0]
    edges = _ratio_edges(some)
    heights = [int((counts <= 0).sum()), *np.histogram(some, edges)[0].tolist()]
    names = ["0", *[_between(low, high) for low, high in pairwise(edges)]]
    reds = ["#d7263d"] * (len(heights) - 1)
    ax.bar(range(len(heights)), heights, width=0.82, color=[LINES[2], *reds])
    for x, height in enumerate(heights):
        if height:
            ax.annotate(
                str(height), (x, height), (0, 2), textcoords="offset points",
                ha="center", va="bottom", fontsize=8, color=INK,
            )  # fmt: skip
    ax.set_xticks(range(len(names)), names)
    if len(names) > 6:
        ax.tick_params(axis="x", rotation=35)
    ax.set_xlabel(unit)
    ax.set_ylabel("pairs")
    ax.margins(y=0.15)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return figure


def determinant_histogram(determinants: Mapping[str, Array]) -> Figure:
    """Distribution of the Jacobian determinant of each named map, on a log scale around 1."""
    figure, axes = sheet(5.0, 2.5)
    ax = axes[0]
    edges = np.linspace(-3.0, 3.0, 97)
    for colour, (name, values) in zip(LINES, determinants.items(), strict=False):
        positive = values[values > 0].astype(np.float64)
        heights, _ = np.histogram(np.log2(positive), edges)
        share = 100 * heights / max(values.size, 1)
        ax.stairs(share, edges, color=colour, linewidth=1.6, label=name)
    ax.axvline(0.0, color=INK, alpha=0.35, linewidth=0.8)
    ticks = range(-3, 4)
    ax.set_xticks(ticks, [f"{2.0**t:.3g}" for t in ticks])
    ax.set_xlabel("Jacobian determinant")
    ax.set_ylabel("voxels (%)")
    _legend(ax)
    return figure


def _losses(log: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Panels "network: term"; the total only where it is not the single term."""
    terms: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in log:
        if line.get("event") != "train" or "step" not in line:
            continue
        values = {str(name): value for name, value in (line.get("terms") or {}).items()}
        if len(values) != 1 and "total" in line:
            values["total"] = line["total"]
        group = terms.setdefault(str(line.get("group", "loss")), {})
        for name, value in values.items():
            _append(group, name, line["step"], value)
    panels: dict[str, Series] = {}
    for name, found in sorted(terms.items()):
        ordered = sorted(found.items(), key=lambda item: item[0] == "total")
        panels |= {f"{name}: {term}": {"": points} for term, points in ordered}
    return panels


def _scores(log: Sequence[Mapping[str, Any]]) -> dict[str, Series]:
    """Panels "validation: measure", with a line per network."""
    panels: dict[str, Series] = {}
    for line in log:
        if line.get("event") != "validation" or "step" not in line:
            continue
        for key, value in (line.get("scores") or {}).items():
            prefix, _, measure = str(key).rpartition(".")
            title = f"validation: {(measure or prefix).replace('_', ' ')}"
            _append(panels.setdefault(title, {}), prefix, line["step"], value)
    return panels


def _append(series: Series, name: str, step: Any, value: Any) -> None:
    if isinstance(value, (int, float)) and np.isfinite(value):
        steps, values = series.setdefault(name, ([], []))
        steps.append(float(step))
        values.append(float(value))


def _panel(ax: Axes, title: str, series: Series, stages: Sequence[Span]) -> None:
    validation = title.startswith("validation")
    for colour, (name, (steps, values)) in zip(LINES, sorted(series.items()), strict=False):
        x, y = np.asarray(steps), np.asarray(values)
        if validation:
            colour = {"segmentation": LINES[2], "registration": LINES[1]}.get(name, colour)
            ax.plot(x, y, color=colour, marker="o", markersize=2.6, linewidth=1.4, label=name)
            continue
        length = max(stages[-1][2] - stages[0][1], 1.0) if stages else 1.0
        for _, first, last in stages:  # a network may pause for a stage: no line across it
            part = (x >= first) & (x <= last)
            bins = max(8, int(_BINS * (last - first) / length))
            middle, mean, low, high = _binned(x[part], y[part], bins)
            ax.fill_between(middle, low, high, color=colour, alpha=0.18, linewidth=0)
            ax.plot(middle, mean, color=colour, linewidth=1.4)
    if "folds" in title:
        ax.set_ylim(bottom=0.0)
    ax.set_title(title, fontsize=9.5, color=INK, loc="left", pad=13)
    if len(series) > 1:
        _legend(ax)


def _legend(ax: Axes) -> None:
    ax.legend(fontsize=8, frameon=False, labelcolor=INK, handlelength=1.4)


def _binned(
    steps: NDArray[np.float64], values: NDArray[np.float64], bins: int
) -> tuple[NDArray[np.float64], ...]:
    """At most `bins` points: step, mean, 10th and 90th percentile of as many values each."""
    order = np.argsort(steps, kind="stable")  # a resumed run logs some steps twice
    steps, values = steps[order], values[order]
    if len(steps) <= bins:
        return steps, values, values, values
    parts = np.array_split(np.arange(len(steps)), bins)
    return (
        np.array([steps[p].mean() for p in parts]),
        np.array([values[p].mean() for p in parts]),
        np.array([np.percentile(values[p], 10) for p in parts]),
        np.array([np.percentile(values[p], 90) for p in parts]),
    )


def _shade(ax: Axes, stages: Sequence[Span]) -> None:
    """The steps of the whole run, and where its stages begin, by number."""
    if stages:
        ax.set_xlim(stages[0][1], max(stages[-1][2], stages[0][1] + 1))
    if len(stages) < 2:
        return
    for index, (_, first, last) in enumerate(stages):
        if index % 2:
            ax.axvspan(first, last, color=INK, alpha=0.05, linewidth=0)
        if index:
            ax.axvline(first, color=INK, alpha=0.45, linewidth=0.8, linestyle=(0, (3, 3)))
        ax.annotate(
            str(index + 1), ((first + last) / 2, 1.0), (0, 2), ha="center",
            xycoords=("data", "axes fraction"), textcoords="offset points",
            fontsize=7.5, color=INK, alpha=0.7,
        )  # fmt: skip


def _ratio_edges(values: NDArray[np.float64]) -> list[float]:
    """Bin edges 1, 2, 5, 10, ... (or lower, for shares) that hold all values; none without any."""
    if not len(values):
        return []
    low, high = float(values.min()), float(values.max())
    decades = range(int(np.floor(np.log10(low))), int(np.floor(np.log10(high))) + 2)
    edges = [m * 10.0**e for e in decades for m in (1, 2, 5)]
    first = max(i for i, edge in enumerate(edges) if edge <= low)
    last = min(i for i, edge in enumerate(edges) if edge > high)
    return edges[first : last + 1]


def _between(low: float, high: float) -> str:
    """A bin in words: whole voxels as "2-4", shares as "0.02-"."""
    if low >= 1:
        last = int(high) - 1
        return f"{int(low)}" if last == int(low) else f"{int(low)}–{last}"
    return f"{low:g}–{high:g}"
