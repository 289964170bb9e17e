"""Curves and histograms: what the log holds is drawn, stage by stage."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_run import some_log

from deepatlas.report.curves import (
    determinant_histogram,
    fold_histogram,
    stage_spans,
    training_curves,
)
from deepatlas.report.drawing import svg_text


def titles(figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes if ax.axison]


def test_a_panel_for_every_term_of_each_network_and_for_every_score():
    found = titles(training_curves(some_log()))
    assert "registration: similarity" in found
    assert "segmentation: supervised" in found
    assert "registration: total" in found
    assert found[-2:] == ["validation: dice", "validation: folds percent"]


def test_stages_span_the_run_in_their_order():
    spans = stage_spans(some_log())
    assert [name for name, *_ in spans] == ["segmentation", "registration", "joint"]
    assert spans[0][1:] == (0, 60)
    assert spans[-1][2] == 300


def test_all_panels_share_the_steps_of_the_whole_run_and_mark_stage_borders():
    for ax in training_curves(some_log()).axes:
        if ax.axison:
            assert ax.get_xlim() == (0, 300)
            upright = [line for line in ax.lines if len(set(line.get_xdata())) == 1]
            assert {line.get_xdata()[0] for line in upright} == {60, 150}


def test_no_line_crosses_a_stage_in_which_the_network_paused():
    figure = training_curves(some_log())
    ax = next(a for a in figure.axes if a.get_title(loc="left") == "segmentation: supervised")
    lines = [np.asarray(line.get_xdata()) for line in ax.lines if len(set(line.get_xdata())) > 1]
    for steps in lines:
        assert not ((steps.min() < 60) and (steps.max() > 151))


def test_many_steps_are_gathered_without_losing_the_level():
    rng = np.random.default_rng(0)
    log = [
        {"event": "train", "stage": "one", "step": n, "group": "segmentation",
         "terms": {"dice": 0.5 + 0.1 * rng.normal()}, "total": 1.0}
        for n in range(5000)
    ]  # fmt: skip
    ax = training_curves(log).axes[0]
    values = np.asarray(ax.lines[0].get_ydata())
    assert len(values) <= 200
    assert values.mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "log",
    [
        [],
        [{"event": "note", "text": "resumed"}],
        [{"event": "train", "step": 1, "group": "g", "stage": "s", "terms": {"a": float("nan")}}],
        [
            {
                "event": "train",
                "step": 1,
                "group": "g",
                "stage": "s",
                "terms": {"a": None},
                "total": 2,
            }
        ],
        [{"event": "validation", "stage": "s", "step": 3, "scores": {"segmentation.dice": 0.5}}],
    ],
    ids=["empty", "notes only", "nan", "none", "scores only"],
)
def test_short_and_broken_logs_still_give_a_figure(log):
    assert "<svg" in svg_text(training_curves(log), label="x", name="x")


def test_fold_histogram_counts_pairs_without_folds_apart():
    figure = fold_histogram([0, 0, 0, 1, 3, 3, 40, 2000])
    ax = figure.axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    names = [tick.get_text() for tick in ax.get_xticklabels()]
    found = {name: height for name, height in zip(names, heights, strict=True) if height}
    assert found == {"0": 3, "1": 1, "2–4": 2, "20–49": 1, "2000–4999": 1}


def test_fold_histogram_without_any_fold_is_one_bar():
    bars = fold_histogram([0.0] * 7).axes[0].patches
    assert [bar.get_height() for bar in bars] == [7]


def test_determinants_are_shares_of_all_voxels():
    half = np.array([1.0, 1.0, -1.0, 0.0])
    stairs = determinant_histogram({"a": half}).axes[0].patches[0]
    assert stairs.get_data().values.sum() == pytest.approx(50.0)
