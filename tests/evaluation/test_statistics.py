"""Intervals: coverage in simulations; tests: SciPy and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deepatlas.evaluation.statistics import (
    benjamini_hochberg,
    compare,
    interval,
    mann_whitney,
    wilcoxon,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("alternative", ["two-sided", "less", "greater"])
def test_tests_equal_scipy(alternative: str) -> None:
    a, b = rng().normal(size=(2, 25))
    a += 0.3
    reference = stats.mannwhitneyu(a, b, alternative=alternative).pvalue
    assert mann_whitney(a, b, alternative) == pytest.approx(reference)
    reference = stats.wilcoxon(a, b, alternative=alternative).pvalue
    assert wilcoxon(a, b, alternative) == pytest.approx(reference)


def test_greater_means_the_first_is_larger() -> None:
    b = rng().normal(size=20)
    a = b + 1
    assert wilcoxon(a, b, "greater") < 0.01 < 0.9 < wilcoxon(a, b, "less")
    assert mann_whitney(a, b, "greater") < 0.01 < 0.9 < mann_whitney(a, b, "less")


def test_missing_and_equal_values() -> None:
    a = np.array([0.1, 0.2, math.nan, 0.4])
    assert wilcoxon(a, a) == 1
    assert wilcoxon(a, [0.0, 0.1, 0.5, math.nan]) == wilcoxon(a[:2], [0.0, 0.1])
    assert mann_whitney(a, [0.3, math.nan]) == mann_whitney([0.1, 0.2, 0.4], [0.3])
    assert math.isnan(wilcoxon([math.nan], [1.0]))
    assert math.isnan(mann_whitney([math.nan], [1.0]))


def test_benjamini_hochberg_by_hand() -> None:
    # sorted: 0.01 * 4 / 1, 0.02 * 4 / 2, 0.04 * 4 / 3, 0.5 * 4 / 4, each at most its successor
    found = benjamini_hochberg([0.04, 0.01, math.nan, 0.5, 0.02])
    assert found[:2] == pytest.approx([0.16 / 3, 0.04])
    assert math.isnan(found[2])
    assert found[3:] == pytest.approx([0.5, 0.04])
    assert benjamini_hochberg([]) == []


def test_interval_of_single_scans_equals_scipy() -> None:
    values = rng().normal(5, 2, 30)
    reference = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(1)
    ).confidence_interval
    found = interval(values, range(30), rng(2), draws=20_000)
    assert found == pytest.approx((reference.low, reference.high), abs=0.03)


def test_interval_repeats_with_its_generator_and_narrows_with_its_level() -> None:
    values = rng().normal(size=20)
    wide, again = (interval(values, range(20), rng(3)) for _ in range(2))
    narrow = interval(values, range(20), rng(3), level=0.5)
    assert wide == again != interval(values, range(20), rng(4))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_rows_of_one_subject_are_no_new_evidence() -> None:
    values = rng().normal(size=15)
    once = interval(values, range(15), rng(5))
    twice = interval(np.repeat(values, 2), np.repeat(range(15), 2).tolist(), rng(5))
    assert twice == pytest.approx(once)


def test_nan_rows_are_left_out_and_too_few_subjects_give_none() -> None:
    values = rng().normal(size=12)
    padded = interval([*values, math.nan], [*range(12), 99], rng(6))
    assert padded == interval(values, range(12), rng(6))
    assert all(map(math.isnan, interval([1.0, 2.0], ["a", "a"], rng())))
    assert all(map(math.isnan, interval([1.0, 2.0], [("a", "b"), ("b", "a")], rng())))
    assert all(map(math.isnan, interval([], [], rng())))


def opposite(scans: list[str], rounds: int) -> list[tuple[str, str]]:
    """Fixed ascending against moving descending, one place further in every round."""
    n = len(scans)
    places = [(n - 1 - k - turn, k) for turn in range(rounds) for k in range(n)]
    return [(scans[m % n], scans[f]) for m, f in places if m % n != f]


def coverage(pairs: list[tuple[str, str]], scans: list[str], *, naive: bool) -> float:
    """How often the interval holds the true mean 0, scores being made of scans and of couples."""
    draw = rng(7)
    hits = 0
    for _ in range(300):
        of_scan = dict(zip(scans, draw.normal(size=len(scans)), strict=True))
        of_couple = {frozenset(pair): draw.normal() for pair in pairs}
        values = [
            of_scan[moving] + of_scan[fixed] + of_couple[frozenset((moving, fixed))]
            + 0.3 * draw.normal()
            for moving, fixed in pairs
        ]  # fmt: skip
        clusters = range(len(pairs)) if naive else pairs
        low, high = interval(values, clusters, draw, draws=300)
        hits += low <= 0 <= high
    return hits / 300


def test_coverage_on_the_default_pairs() -> None:
    scans = [f"{i:02d}" for i in range(40)]
    pairs = opposite(scans, 1)
    assert 0.88 <= coverage(pairs, scans, naive=False) <= 0.97
    assert coverage(pairs, scans, naive=True) < 0.87


def test_coverage_on_linked_pairs_errs_on_the_wide_side() -> None:
    scans = [f"{i:02d}" for i in range(30)]
    pairs = opposite(scans, 3)
    assert coverage(pairs, scans, naive=False) >= 0.93
    assert coverage(pairs, scans, naive=True) < 0.87


def test_compare_uses_the_pairing() -> None:
    b = rng().normal(0.8, 0.1, 40)
    a = b + rng(1).normal(0.01, 0.01, 40)
    found = compare([*a, math.nan], [*b, 0.5], range(41), rng(2))
    assert found.n == 40
    assert found.difference == pytest.approx(np.mean(a - b))
    assert found.mean_a - found.mean_b == pytest.approx(found.difference)
    assert found.interval == interval(a - b, range(40), rng(2))
    assert 0 < found.interval[0] < found.difference < found.interval[1] < 0.02
    assert found.wilcoxon_p < 0.001 < found.mann_whitney_p
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_compare_without_common_rows() -> None:
    found = compare([math.nan], [1.0], ["a"], rng())
    assert found.n == 0
    assert math.isnan(found.difference)
    with pytest.raises(ValueError, match="paired rows"):
        compare([1.0], [1.0, 2.0], ["a"], rng())
