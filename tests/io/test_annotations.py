"""`annotations.json` says what was annotated where, in any layout; mistakes in it are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort

DATASET = {"labels": {"background": 0, "Liver": 1, "Spleen": 5, "both": [1, 5], "ignore": 9}}


@pytest.fixture(params=["decathlon", "plain"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three scans, two with label maps."""
    end = "Tr" if request.param == "decathlon" else ""
    for folder, names in ((f"images{end}", "abc"), (f"labels{end}", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.nii.gz").touch()
    return tmp_path


def say(path: Path, what: object) -> Path:
    path.write_text(what if isinstance(what, str) else json.dumps(what), encoding="utf-8")
    return path


def test_the_folders_own_file_is_found(root: Path) -> None:
    assert [s.annotated for s in read_cohort(root).subjects] == [None] * 3
    say(root / "annotations.json", {"b": [5, 1]})
    cohort = read_cohort(root)
    assert [s.annotated for s in cohort.subjects] == [None, (1, 5), None]
    assert cohort.faults == ()
    other = say(root / "elsewhere.json", {"a": ["5"]})
    assert [s.annotated for s in read_cohort(root, other).subjects] == [(5,), None, None]


def test_names_and_groups_of_dataset_json(root: Path) -> None:
    if not (root / "imagesTr").is_dir():
        pytest.skip("plain folders have no dataset.json")
    say(root / "dataset.json", DATASET)
    say(root / "annotations.json", {"a": ["Spleen"], "b": ["both", 7]})
    assert [s.annotated for s in read_cohort(root).subjects] == [(5,), (1, 5, 7), None]


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([], "expected a list"),
        ("Liver", "expected a list"),
        ([0], "0 is no label value"),
        ([1.5], "1.5 is no label value"),
        ([True], "True is no label value"),
        ([None], "None is no label value"),
        (["Heart"], "no structure is called 'Heart'"),
    ],
)
def test_wrong_entries_are_faults_of_the_cohort(root: Path, entries: object, why: str) -> None:
    say(root / "annotations.json", {"a": entries, "z": [1], "b": [1]})
    cohort = read_cohort(root)
    first, second = cohort.faults
    assert first.startswith(f"{root / 'annotations.json'}: a: ")
    assert why in first
    assert "names 'z', and there is no such scan; expected a file name" in second
    assert cohort.by_id("b").annotated == (1,)


@pytest.mark.parametrize("content", ["{broken", "[1]", '"text"', "[" * 100_000])
def test_a_file_that_cannot_be_read_is_refused(root: Path, content: str) -> None:
    say(root / "annotations.json", content)
    with pytest.raises(BadInput, match=r"annotations\.json: (cannot be read|expected)"):
        read_cohort(root)
    with pytest.raises(BadInput, match=r"none\.json: cannot be read"):
        read_cohort(root, root / "none.json")
