"""Rows, tables and summaries: misses lower scores and are counted, seen rows stay out of means."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from deepatlas.evaluation.comparison import compare_tables, comparison_table
from deepatlas.evaluation.folding import Folding
from deepatlas.evaluation.scores import Scores, score_labels
from deepatlas.evaluation.statistics import benjamini_hochberg, interval
from deepatlas.evaluation.summary import summarise, summarise_groups, summarise_structures
from deepatlas.evaluation.tables import Row, csv_table, flatten, pair_row, scan_row

GROUPS = {"both": (1, 2), "second": (2,)}
TARGET = np.zeros((6, 5, 4), int)
TARGET[1:3, 1:4, 1:3] = 1
TARGET[3:5, 1:4, 1:3] = 2


def scored(prediction: np.ndarray, **options: object) -> Scores:
    return score_labels(
        prediction, TARGET, values=(1, 2, 9), spacing_mm=(1, 2, 3), groups=GROUPS, **options
    )


def row(scan: str, prediction: np.ndarray, seen: str = "", seconds: float = 1.0) -> Row:
    return scan_row(scan=scan, seen=seen, scores=scored(prediction), seconds=seconds)


WITHOUT_2 = np.where(TARGET == 2, 0, TARGET)
WITH_9 = TARGET.copy()
WITH_9[0, 0, 0] = 9


def test_a_missed_structure_lowers_the_score_and_is_counted() -> None:
    perfect, missed = scored(TARGET), scored(WITHOUT_2)
    assert (perfect.mean_dice, perfect.missed, perfect.mean_hd95_mm) == (1, (), 0)
    assert missed.mean_dice == 0.5
    assert (missed.missed, missed.spurious) == ((2,), ())
    assert missed.mean_hd95_mm == 0
    assert missed.diagonal_mm == math.hypot(6, 10, 12)
    assert missed.mean_hd95_mm_with_misses == missed.diagonal_mm / 2
    assert missed.groups == {"both": pytest.approx(2 / 3), "second": 0}
    assert missed.missed_groups == ("second",)


def test_a_spurious_structure_lowers_the_score_and_is_no_miss() -> None:
    found = scored(WITH_9)
    assert found.mean_dice == pytest.approx(2 / 3)
    assert (found.missed, found.spurious) == ((), (9,))
    assert found.mean_hd95_mm_with_misses == found.diagonal_mm / 3


def test_structures_that_were_not_annotated_are_not_scored() -> None:
    found = scored(WITHOUT_2, annotated=(1,))
    assert found.mean_dice == 1
    assert math.isnan(found.dice[2])
    assert math.isnan(found.hd95_mm[2])
    assert found.missed == ()
    assert all(map(math.isnan, found.groups.values()))


def test_background_is_never_scored_and_distances_can_be_left_out() -> None:
    found = score_labels(TARGET, TARGET, values=(0, 1), spacing_mm=(1, 1, 1), distances=False)
    assert list(found.dice) == [1]
    assert found.hd95_mm == {}
    assert math.isnan(found.mean_hd95_mm)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_scans_csv() -> None:
    text = csv_table([row("a", TARGET), row("b", WITHOUT_2, seen="train", seconds=2.25)])
    assert text.splitlines()[0] == (
        "scan,seen,dice,hd95_mm,misses,seconds,hd95_mm_with_misses,spurious,"
        "dice_1,hd95_mm_1,dice_2,hd95_mm_2,dice_9,hd95_mm_9,dice_group_both,dice_group_second"
    )
    first, second = read(text)
    assert (first["scan"], first["seen"], first["dice"], first["dice_9"]) == ("a", "", "1", "")
    assert (second["seen"], second["dice"], second["misses"]) == ("train", "0.5", "1")
    assert (second["dice_2"], second["hd95_mm_2"], second["seconds"]) == ("0", "inf", "2.25")


def pair(moving: str, fixed: str, prediction: np.ndarray, seen: str = "") -> Row:
    return pair_row(
        moving=moving,
        fixed=fixed,
        seen=seen,
        align="centre",
        before=scored(WITHOUT_2, distances=False),
        scores=scored(prediction),
        folding=Folding(0.25, 0.5, math.nan, 7, 0.02),
        seconds=0.5,
    )


def test_pairs_csv() -> None:
    found = read(csv_table([pair("a", "b", TARGET)]))[0]
    assert list(found)[:13] == [
        *("moving", "fixed", "seen", "align", "dice_before", "dice", "hd95_mm", "misses"),
        *("folds_percent", "fold_cells_percent", "sdlogj", "sdlogj_learn2reg", "seconds"),
    ]
    assert (found["moving"], found["fixed"], found["align"]) == ("a", "b", "centre")
    assert (found["dice_before"], found["dice"], found["sdlogj"]) == ("0.5", "1", "")
    assert (found["folds_percent"], found["left_out"]) == ("0.25", "7")


def test_summary_by_hand() -> None:
    rows = [row("a", TARGET), row("b", WITHOUT_2, seconds=3), row("c", 0 * TARGET, seen="train")]
    found = summarise(rows, np.random.default_rng(0))
    assert list(found) == ["dice", "hd95_mm", "seconds", "hd95_mm_with_misses"]
    assert found["dice"]["mean"] == 0.75
    assert found["dice"]["std"] == pytest.approx(np.std([1, 0.5], ddof=1))
    assert (found["dice"]["n"], found["dice"]["misses"], found["dice"]["spurious"]) == (2, 1, 0)
    expected = interval([1, 0.5], [("a",), ("b",)], np.random.default_rng(0))
    assert found["dice"]["interval"] == list(expected)
    assert found["hd95_mm"]["misses"] == 1
    assert found["seconds"] == {
        "mean": 2, "std": pytest.approx(2**0.5), "interval": [1, 3], "n": 2, "misses": 0,
    }  # fmt: skip


def test_a_scan_without_any_structure_found_leaves_the_first_mean_but_not_the_second() -> None:
    rows = [row("a", TARGET), row("b", 0 * TARGET)]
    found = summarise(rows, np.random.default_rng(0))
    assert (found["hd95_mm"]["mean"], found["hd95_mm"]["n"], found["hd95_mm"]["misses"]) == (
        0,
        1,
        2,
    )
    diagonal = math.hypot(6, 10, 12)
    assert found["hd95_mm_with_misses"]["mean"] == pytest.approx(diagonal / 2)
    assert found["hd95_mm_with_misses"]["n"] == 2
    assert found["dice"]["mean"] == 0.5


def test_summary_of_pairs_counts_what_each_measure_lacks() -> None:
    found = summarise([pair("a", "b", TARGET), pair("b", "a", WITH_9)], np.random.default_rng(0))
    assert (found["dice_before"]["mean"], found["dice_before"]["misses"]) == (0.5, 2)
    assert (found["dice"]["misses"], found["dice"]["spurious"]) == (0, 1)
    lacking = found["sdlogj"]
    assert (lacking["mean"], lacking["n"], lacking["misses"], lacking["left_out"]) == (
        None,
        0,
        2,
        14,
    )
    assert found["folds_percent"]["mean"] == 0.25
    assert found["folds_percent"]["interval"] is None


def test_only_seen_rows_give_no_mean() -> None:
    found = summarise([row("a", TARGET, seen="validation")], np.random.default_rng(0))
    assert found["dice"] == {
        "mean": None, "std": None, "interval": None, "n": 0, "misses": 0, "spurious": 0,
    }  # fmt: skip
    assert summarise([], np.random.default_rng(0)) == {}


def test_structures_and_groups() -> None:
    rows = [row("a", TARGET), row("b", WITHOUT_2), row("c", WITHOUT_2, seen="train")]
    found = summarise_structures(rows, {1: "one"}, np.random.default_rng(0))
    assert list(found) == ["1", "2", "9"]
    assert (found["1"]["name"], found["1"]["dice"]["mean"]) == ("one", 1)
    assert (found["2"]["name"], found["2"]["dice"]["mean"]) == ("2", 0.5)
    assert (found["2"]["dice"]["misses"], found["2"]["hd95_mm"]["n"]) == (1, 1)
    assert (found["9"]["dice"]["mean"], found["9"]["dice"]["n"]) == (None, 0)
    groups = summarise_groups(rows, np.random.default_rng(0))
    assert (groups["second"]["dice"]["mean"], groups["second"]["dice"]["misses"]) == (0.5, 1)
    assert (groups["both"]["dice"]["n"], groups["both"]["dice"]["misses"]) == (2, 0)


def many(quality: float, seen: str = "") -> list[Row]:
    """Ten scans whose structure 2 is cut back by more the lower the quality."""
    rng = np.random.default_rng(round(1000 * quality))
    return [
        row(f"{i}", np.where(rng.random(TARGET.shape) < quality, TARGET, 0), seen=seen)
        for i in range(10)
    ]


def test_comparisons_are_paired_and_corrected_together() -> None:
    ours = {"segmentation": many(0.9)}
    others = {"weak": {"segmentation": many(0.4)}, "same": ours}
    found = compare_tables(ours, others, np.random.default_rng(0))
    assert [(r["against"], r["measure"]) for r in found] == [
        ("weak", "segmentation.dice"),
        ("weak", "segmentation.hd95_mm_with_misses"),
        ("same", "segmentation.dice"),
        ("same", "segmentation.hd95_mm_with_misses"),
    ]
    dice, distance, same, _ = found
    assert (dice["n"], same["difference"], same["wilcoxon_p"]) == (10, 0, 1)
    assert 0 < dice["interval"][0] < dice["difference"] < dice["interval"][1]
    assert dice["difference"] == pytest.approx(dice["mean"] - dice["mean_against"])
    assert distance["difference"] < 0
    for test in ("mann_whitney_p", "wilcoxon_p"):
        assert [r[f"{test}_adjusted"] for r in found] == benjamini_hochberg(
            [r[test] for r in found]
        )
    table = read(comparison_table(found))
    assert float(table[0]["low"]) == pytest.approx(dice["interval"][0], rel=1e-5)
    assert table[0]["against"] == "weak"


def test_comparisons_use_rows_that_neither_run_saw() -> None:
    theirs = [*many(0.4)[:6], *many(0.4, seen="train")[6:9]]
    ours = [*many(0.9, seen="validation")[:1], *many(0.9)[1:]]
    found = compare_tables(
        {"segmentation": ours, "registration": []},
        {"other": {"segmentation": theirs}},
        np.random.default_rng(0),
    )
    assert {record["n"] for record in found} == {5}
    assert {record["measure"].split(".")[0] for record in found} == {"segmentation"}


def test_flatten_gives_plain_keys_and_values() -> None:
    rows = [row("a", TARGET), row("b", WITHOUT_2)]
    rng = np.random.default_rng(0)
    summary = {
        "segmentation": summarise(rows, rng),
        "registration": summarise([pair("a", "b", TARGET)], rng),
        "labels_seen": "5 + 10",
        "align": "centre",
        "groups": {"segmentation": {"left side": summarise_groups(rows, rng)["both"]}},
        "comparisons": compare_tables({"segmentation": rows}, {"x y": {"segmentation": rows}}, rng),
    }
    plain = flatten(summary)
    assert plain == flatten(json.loads(json.dumps(summary)))
    assert all(len(f"{key} {value}".split()) == 2 for key, value in plain.items())
    assert plain["segmentation.dice"] == "0.7500"
    assert plain["segmentation.dice.interval"] == "0.5000,1.0000"
    assert (plain["segmentation.dice.n"], plain["segmentation.dice.misses"]) == ("2", "1")
    assert (plain["labels_seen"], plain["align"]) == ("5+10", "centre")
    assert plain["registration.sdlogj"] == "nan"
    assert plain["registration.folds_percent"] == "0.2500"
    assert plain["groups.segmentation.left_side.dice"] == "0.8333"
    assert plain["comparisons.x_y.segmentation.dice.difference"] == "0.0000"
    assert list(plain)[-1].startswith("registration.")
