"""Which scans and pairs are scored, and which of them a run has seen."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from ideal_run import SPLIT, cohort, write_pairs

from deepatlas.data.survey import survey
from deepatlas.errors import BadInput
from deepatlas.inference.selection import choose_pairs, default_pairs, read_pairs
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort, Subject
from deepatlas.run.seen import scans_seen

__all__ = ["cohort"]  # a fixture


def test_default_pairs() -> None:
    assert default_pairs(["2", "1", "3", "4"], 4) == [
        ("4", "1"),
        ("3", "2"),
        ("2", "3"),
        ("1", "4"),
    ]
    assert default_pairs(["1", "2", "3"], 40) == [
        ("3", "1"), ("1", "3"), ("2", "1"), ("1", "2"), ("3", "2"), ("2", "3"),
    ]  # fmt: skip
    assert default_pairs(["1"], 40) == []
    many = [f"{i:06d}" for i in range(100_000)]  # of which there are too many pairs to list
    assert default_pairs(many, 2) == [("099999", "000000"), ("099998", "000001")]
    many = default_pairs([f"{i:03d}" for i in range(40)], 100)
    assert len(set(many)) == len(many) == 100
    assert many[:40] == [(f"{39 - i:03d}", f"{i:03d}") for i in range(40)]


def test_default_pairs_are_of_two_persons() -> None:
    persons = {"1": "x", "2": "x", "3": "y", "4": "y"}
    pairs = default_pairs(list(persons), 40, persons)
    assert sorted(pairs) == [
        ("1", "3"), ("1", "4"), ("2", "3"), ("2", "4"), ("3", "1"), ("3", "2"), ("4", "1"),
        ("4", "2"),
    ]  # fmt: skip
    assert len(default_pairs(["1", "2"], 40, persons)) == 2  # of one person: all there is


def test_the_cohorts_own_pairs_come_first() -> None:
    scans = tuple(Subject(name, Path(name), Path(name)) for name in "abcd")
    own = (("a", "b"), ("c", "d"), ("b", "a"))
    cohort = Cohort(Path(), scans, pairs=own)
    assert choose_pairs(cohort, scans, 40) == list(own)
    assert choose_pairs(cohort, scans, 2) == list(own[:2])
    assert choose_pairs(cohort, scans[:2], 40) == [("a", "b"), ("b", "a")]
    assert choose_pairs(cohort, scans[1:3], 40) == [("c", "b"), ("b", "c")]


def test_a_scan_of_a_person_that_was_seen_is_seen(cohort: Path) -> None:
    scans = read_cohort(cohort)
    twins = tuple(replace(s, person="x") if s.id in "ad" else s for s in scans.subjects)
    found = survey(scans)
    split = {**SPLIT, "test": [], "cohort": str(cohort)}
    seen = scans_seen(split, replace(scans, subjects=twins), found)
    assert seen == {"a": "train", "b": "", "c": "", "d": "train"}
    assert scans_seen(split, scans, found)["d"] == ""


def test_a_copy_of_a_scan_that_was_seen_is_seen(cohort: Path) -> None:
    copied = (cohort / "images" / "a.nii.gz").read_bytes()
    (cohort / "images" / "d.nii.gz").write_bytes(copied)
    scans = read_cohort(cohort)
    found = survey(scans)
    content = {name: facts.image.digest for name, facts in found.items()}
    split = {**SPLIT, "test": [], "cohort": str(cohort), "content": content}
    assert scans_seen(split, scans, found) == {"a": "train", "b": "", "c": "", "d": "train"}


def test_faults_of_a_pairs_file_are_listed_together(tmp_path: Path, cohort: Path) -> None:
    scans = read_cohort(cohort)
    path = write_pairs(tmp_path / "p.csv", "moving,fixed\na,b\nz,b\na,u\nc,c\na,b\nd\n")
    with pytest.raises(BadInput) as caught:
        read_pairs(path, scans)
    lines = [fault.split(": ", 1)[0] for fault in caught.value.faults]
    assert lines == [f"{path}, line {n}" for n in (3, 4, 5, 6, 7)]
    expected = ["no scan 'z'", "'u' has no label map", "itself", "line 2 already", "no scan ''"]
    for fault, part in zip(caught.value.faults, expected, strict=True):
        assert part in fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nc,d\n", "no column moving and no column fixed"),
        ("", "an empty file"),
        ("moving,fixed\n", "has no pairs"),
    ],
)
def test_a_file_that_holds_no_pairs(tmp_path: Path, cohort: Path, text: str, message: str) -> None:
    path = write_pairs(tmp_path / "p.csv", text)
    with pytest.raises(BadInput, match=message):
        read_pairs(path, read_cohort(cohort))


def test_a_pairs_file_that_is_not_there(tmp_path: Path, cohort: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.csv: cannot be read"):
        read_pairs(tmp_path / "none.csv", read_cohort(cohort))
