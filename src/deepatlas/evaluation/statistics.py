"""Intervals over subjects and tests between runs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Alternative = Literal["two-sided", "less", "greater"]
Members = tuple[Hashable, ...]

LEVEL = 0.95
"""Coverage that intervals aim at."""

DRAWS = 2000
"""Resamples of a bootstrap."""

FEWEST_FAMILIES = 10
"""Pairs that fall into fewer unconnected families than this are resampled by scan instead."""


def mann_whitney(a: ArrayLike, b: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """p value of the Mann-Whitney U test (the DeepAtlas paper's); nan if a side has no value.

    `greater` asks whether `a` tends to be larger than `b`. The pairing of the values is not used.
    """
    first, second = _finite(a), _finite(b)
    if not len(first) or not len(second):
        return math.nan
    return float(stats.mannwhitneyu(first, second, alternative=alternative).pvalue)


def wilcoxon(a: ArrayLike, b: ArrayLike, alternative: Alternative = "two-sided") -> float:
    """p value of the Wilcoxon signed-rank test of paired values; 1 if all are equal, nan if none.

    `greater` asks whether `a` tends to be larger than `b`. Pairs with a nan are left out.
    """
    difference = _finite(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    if not len(difference):
        return math.nan
    if not difference.any():
        return 1.0
    return float(stats.wilcoxon(difference, alternative=alternative).pvalue)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for the false discovery rate; a nan stays nan and does not count."""
    p = np.asarray(p_values, np.float64)
    tested = np.isfinite(p)
    adjusted = np.full(p.shape, math.nan)
    if tested.any():
        adjusted[tested] = stats.false_discovery_control(p[tested], method="bh")
    return [float(value) for value in adjusted]


def interval(
    values: ArrayLike,
    clusters: Sequence[Hashable | Members],
    rng: np.random.Generator,
    level: float = LEVEL,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean, resampling subjects instead of values.

    Parameters
    ----------
    values : one number per row; rows of nan are left out.
    clusters : the subject of each row, or a tuple of its subjects (for a pair: both scans).
        A subject may have several rows.
    rng : draws the resamples.
    level : coverage that is aimed at.
    draws : number of resamples.

    Rows of one subject come and go together. Pairs are linked where they share a scan:

    - Where the pairs fall into at least 10 unconnected families (fixed ascending against moving
      descending: the pairs i, j and j, i are one family), the families are independent and are
      resampled with replacement.
    - Otherwise the scans are resampled with replacement, and a pair weighs the product of how often
      its two scans were drawn (the pigeonhole bootstrap, Owen 2007; vertex bootstrap of a graph).
      This errs on the wide side.

    Returns (nan, nan) if fewer than two subjects or families are left.
    """
    numbers = np.asarray(values, np.float64)
    members = [_members(cluster) for cluster in clusters]
    if numbers.shape != (len(members),):
        raise ValueError(f"{numbers.shape} values cannot belong to {len(members)} clusters")
    kept = np.isfinite(numbers)
    numbers = numbers[kept]
    members = [row for row, keep in zip(members, kept, strict=True) if keep]
    weights = _resamples(members, rng, draws)
    if weights is None:
        return math.nan, math.nan
    total = weights.sum(axis=1)
    means = (weights @ numbers)[total > 0] / total[total > 0]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    return array[np.isfinite(array)]


def _members(cluster: Hashable | Members) -> Members:
    return cluster if isinstance(cluster, tuple) else (cluster,)


def _resamples(
    members: list[Members], rng: np.random.Generator, draws: int
) -> NDArray[np.float64] | None:
    """Weight (draws, rows) of each row in each resample; None with fewer than two units."""
    family = _families(members)
    families = sorted(set(family))
    single = all(len(set(row)) == 1 for row in members)
    if single or len(families) >= FEWEST_FAMILIES:
        if len(families) < 2:
            return None
        return _multinomial(len(families), rng, draws)[:, family]
    scans = {scan: i for i, scan in enumerate(dict.fromkeys(s for row in members for s in row))}
    if len(scans) < 3:
        return None
    counts = _multinomial(len(scans), rng, draws)
    weights = np.ones((draws, len(members)))
    for place in range(max(len(row) for row in members)):
        column = [scans[row[place]] for row in members]
        weights *= counts[:, column]
    return weights


def _multinomial(n: int, rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def _families(members: list[Members]) -> list[int]:
    """Number of the connected component of each row, rows that share a subject being connected."""
    parent: dict[Hashable, Hashable] = {}

    def root(subject: Hashable) -> Hashable:
        while parent.setdefault(subject, subject) != subject:
            subject = parent[subject]
        return subject

    for first, *others in members:
        for other in others:
            parent[root(other)] = root(first)
    roots = [root(row[0]) for row in members]
    number = {r: i for i, r in enumerate(dict.fromkeys(roots))}
    return [number[r] for r in roots]


@dataclass(frozen=True)
class Comparison:
    """Two runs on the same scans or pairs: `a` minus `b`.

    Parameters
    ----------
    n : rows that both have.
    difference : mean of the paired differences; nan without rows.
    interval : bootstrap interval of that mean over subjects.
    mann_whitney_p, wilcoxon_p : not yet corrected for the number of comparisons.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    mann_whitney_p: float
    wilcoxon_p: float


def compare(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable | Members],
    rng: np.random.Generator,
    *,
    level: float = LEVEL,
    draws: int = DRAWS,
    alternative: Alternative = "two-sided",
) -> Comparison:
    """Compare two runs on the same rows; rows where either has no value are left out of all.

    Parameters
    ----------
    a, b : one number per scan or pair, in the same order.
    clusters, rng, level, draws : see `interval`; a subject's rows are resampled together in both.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.shape != (len(clusters),):
        raise ValueError(
            f"paired rows are needed; got {first.shape}, {second.shape}, {len(clusters)} clusters"
        )
    both = np.isfinite(first) & np.isfinite(second)
    first, second = first[both], second[both]
    kept = [cluster for cluster, keep in zip(clusters, both, strict=True) if keep]
    if not len(first):
        nan = math.nan
        return Comparison(0, nan, nan, nan, (nan, nan), nan, nan)
    difference = first - second
    return Comparison(
        n=len(first),
        mean_a=float(first.mean()),
        mean_b=float(second.mean()),
        difference=float(difference.mean()),
        interval=interval(difference, kept, rng, level, draws),
        mann_whitney_p=mann_whitney(first, second, alternative),
        wilcoxon_p=wilcoxon(first, second, alternative),
    )
