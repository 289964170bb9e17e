"""How many times longer the peers take, as bars, with the goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw(path: Path, rows: Sequence[Mapping[str, Any]], whole: Mapping[str, Any] | None) -> None:
    """Write a PNG; nothing without a ratio to show."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bars = [
        (f"{row['title']}\n{entry['name']}", entry["ratio"], row["goals"].get(entry["name"]))
        for row in rows
        for entry in row["candidates"]
        if "ratio" in entry and entry["size"] is None and not entry["name"].startswith("ours")
    ]
    if whole is not None:
        value = whole["ratio"]
        bars.insert(0, ("MONAI tutorial, a round", dict(median=value, low=value, high=value), 8.0))
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(bars) + 1.2), layout="constrained")
    for place, (_, ratio, goal) in enumerate(bars):
        reached = goal is None or ratio["median"] >= goal
        axes.barh(place, ratio["median"], color="#0b6e74" if reached else "#9cc7c9")
        axes.plot([ratio["low"], ratio["high"]], [place, place], color="black", linewidth=1.5)
        axes.text(ratio["high"] * 1.05, place, f"{ratio['median']:.1f}", va="center", fontsize=8)
        if goal is not None:
            axes.plot([goal, goal], [place - 0.4, place + 0.4], color="#b42335", linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times as long as ours (bars: medians; lines: quartiles; red: goals)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
