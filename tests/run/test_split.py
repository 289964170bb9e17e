"""Which scans train, validate and test, and whose labels training may see."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepatlas.errors import BadInput
from deepatlas.io.subject import Cohort, Subject
from deepatlas.run.lineage import labels_seen
from deepatlas.run.split import make_split

IDS = [f"s{index:02d}" for index in range(20)]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Twenty scans, the first sixteen of them labelled."""
    labels = {name: Path(f"{name}.nii.gz") for name in IDS[:16]}
    subjects = tuple(Subject(name, Path(f"{name}.nii.gz"), labels.get(name)) for name in IDS)
    return Cohort(tmp_path, subjects)


def split_file(folder: Path, content: Any) -> Path:
    path = folder / "split.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_without_a_file_nothing_is_set_aside(cohort: Cohort) -> None:
    split = make_split(cohort, split=None, labelled="all", seed=0)
    assert (split["train"], split["labelled"]) == (IDS, IDS[:16])
    assert split["validation"] == split["test"] == split["unused"] == []
    assert split["cohort"] == str(cohort.root.resolve())
    assert labels_seen([split]) == "16 + 0"


def test_a_file_says_it_all(cohort: Cohort, tmp_path: Path) -> None:
    parts = {"train": ["s09", "s01", "s17"], "validation": ["s03", "s02"], "test": ["s05"]}
    split = make_split(cohort, split=split_file(tmp_path, parts), labelled="all", seed=0)
    assert (split["train"], split["validation"], split["test"]) == (
        ["s01", "s09", "s17"], ["s02", "s03"], ["s05"],
    )  # fmt: skip
    assert split["labelled"] == ["s01", "s09"]
    assert split["unused"] == [n for n in IDS if n not in {*parts["train"], "s02", "s03", "s05"}]
    assert labels_seen([split]) == "2 + 2"


@pytest.mark.parametrize("seed", range(5))
def test_subsets_are_nested(seed: int, cohort: Cohort, tmp_path: Path) -> None:
    parts = {"train": IDS[2:], "validation": IDS[:2]}
    path = split_file(tmp_path, parts)
    chosen = [
        set(make_split(cohort, split=path, labelled=count, seed=seed)["labelled"])
        for count in range(1, 15)
    ]
    assert [len(names) for names in chosen] == list(range(1, 15))
    assert all(small < large for small, large in itertools.pairwise(chosen))
    assert chosen[-1] == set(IDS[2:16])
    assert chosen[4] == set(make_split(cohort, split=path, labelled="5", seed=seed)["labelled"])


def test_the_seed_draws_the_subset(cohort: Cohort) -> None:
    drawn = {
        tuple(make_split(cohort, split=None, labelled=3, seed=seed)["labelled"])
        for seed in range(8)
    }
    assert len(drawn) > 4


def test_a_file_names_the_labelled_scans(cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("\ufeffs07\n  s02 \n\ns07\n", encoding="utf-8")
    split = make_split(cohort, split=None, labelled=path, seed=0)
    assert split["labelled"] == ["s02", "s07"]
    assert split["train"] == IDS


def test_ids_may_hold_spaces(tmp_path: Path) -> None:
    subjects = (Subject("scan 1", Path("a"), Path("b")), Subject("scan 2", Path("c"), Path("d")))
    path = tmp_path / "ids.txt"
    path.write_text("scan 2\n")
    split = make_split(Cohort(tmp_path, subjects), split=None, labelled=path, seed=0)
    assert split["labelled"] == ["scan 2"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"split\.json: cannot be read"),
        ("{", r"split\.json: cannot be read as JSON"),
        ("[" * 100_000, r"split\.json: cannot be read as JSON"),
        ("[]", r"expected \{\"train\""),
        ({"validation": ["s01"]}, r"at least one of them in train"),
        ({"train": []}, r"at least one of them in train"),
        ({"train": "s01"}, r"with lists of scan ids"),
        ({"train": [1, 2]}, r"with lists of scan ids"),
        ({"train": ["s01"], "tset": ["s02"]}, r"expected \{\"train\""),
        ({"train": ["s01", "s99"]}, r"train names 's99', and there is no such scan"),
        ({"train": ["s01"], "test": ["s01"]}, r"'s01' is in train and in test"),
        ({"train": ["s01", "s01"]}, r"'s01' is twice in train"),
        ({"train": ["s01"], "validation": ["s18"]}, r"validation scans need labels, and s18"),
    ],
)
def test_a_faulty_split_file(content: Any, says: str, cohort: Cohort, tmp_path: Path) -> None:
    path = tmp_path / "split.json" if content is None else split_file(tmp_path, content)
    with pytest.raises(BadInput, match=says):
        make_split(cohort, split=path, labelled="all", seed=0)


def test_the_split_of_a_run_is_a_split_file(cohort: Cohort, tmp_path: Path) -> None:
    given = split_file(tmp_path, {"train": ["s01", "s02"], "test": ["s03"]})
    made = make_split(cohort, split=given, labelled=1, seed=0)
    again = make_split(cohort, split=split_file(tmp_path, made), labelled=1, seed=0)
    assert again == made


def test_all_faults_of_a_split_file_come_together(cohort: Cohort, tmp_path: Path) -> None:
    path = split_file(tmp_path, {"train": ["x", "s01"], "test": ["y", "s01"]})
    with pytest.raises(BadInput) as caught:
        make_split(cohort, split=path, labelled="all", seed=0)
    assert len(caught.value.faults) == 3


@pytest.mark.parametrize("labelled", [0, 17, "17"])
def test_an_impossible_number(labelled: int | str, cohort: Cohort) -> None:
    with pytest.raises(BadInput, match=r"has 16 labelled scans; give a number from 1"):
        make_split(cohort, split=None, labelled=labelled, seed=0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"s01\ns18\nx\n", r"'s18' is not among the labelled training scans"),
        (b"\n\n", "names no scan"),
        (b"\xff\xfe\x00", "it is no text"),
        (None, "give a number, all, or a text file"),
    ],
)
def test_a_faulty_file_of_ids(
    content: bytes | None, says: str, cohort: Cohort, tmp_path: Path
) -> None:
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=says):
        make_split(cohort, split=None, labelled=path, seed=0)


# --- several scans of one person ----------------------------------------------------------------


@pytest.fixture
def visits(tmp_path: Path) -> Cohort:
    """Two labelled visits of four persons, with a split of the cohort's own."""
    ids = [f"sub-{n}_ses-{m}_T1w" for n in range(4) for m in "ab"]
    subjects = tuple(Subject(name, Path(name), Path(name)) for name in ids)
    own = {"train": tuple(ids[:4]), "validation": tuple(ids[4:6]), "test": tuple(ids[6:])}
    return Cohort(tmp_path, subjects, split=own)


def test_the_cohorts_own_split_holds_where_none_is_given(visits: Cohort, tmp_path: Path) -> None:
    split = make_split(visits, split=None, labelled="all", seed=0)
    assert {part: tuple(split[part]) for part in visits.split} == visits.split
    assert split["labelled"] == split["train"]
    given = split_file(tmp_path, {"train": split["test"]})
    split = make_split(visits, split=given, labelled="all", seed=0)
    assert (len(split["train"]), split["validation"], split["test"]) == (2, [], [])


def test_scans_of_a_person_in_two_parts_are_refused(visits: Cohort, tmp_path: Path) -> None:
    parts = {
        "train": ["sub-0_ses-a_T1w", "sub-1_ses-a_T1w", "sub-2_ses-a_T1w"],
        "validation": ["sub-0_ses-b_T1w", "sub-3_ses-a_T1w"],
        "test": ["sub-2_ses-b_T1w"],
    }
    path = split_file(tmp_path, parts)
    with pytest.raises(BadInput) as caught:
        make_split(visits, split=path, labelled="all", seed=0)
    assert caught.value.faults == [
        f"{path}: sub-{n}_ses-b_T1w is of the subject sub-{n}, as sub-{n}_ses-a_T1w, and the split "
        f"puts one into {part} and the other into train; expected them in one part: move one"
        for n, part in ((0, "validation"), (2, "test"))
    ]
    own = replace(visits, split={part: tuple(ids) for part, ids in parts.items()})
    with pytest.raises(BadInput, match="is of the subject sub-0"):
        make_split(own, split=None, labelled="all", seed=0)


def test_a_visit_may_be_left_out_and_labels_count_scans(visits: Cohort, tmp_path: Path) -> None:
    path = split_file(tmp_path, {"train": ["sub-0_ses-a_T1w", "sub-1_ses-a_T1w"]})
    assert make_split(visits, split=path, labelled="all", seed=0)["train"] == [
        "sub-0_ses-a_T1w", "sub-1_ses-a_T1w",
    ]  # fmt: skip
    assert len(make_split(visits, split=None, labelled=3, seed=0)["labelled"]) == 3


def test_an_own_split_that_trains_nothing(visits: Cohort) -> None:
    bare = replace(visits, split={"test": visits.split["test"]}, faults=("a fault",))
    with pytest.raises(BadInput, match="no scan is in the part train") as caught:
        make_split(bare, split=None, labelled="all", seed=0)
    assert caught.value.faults[0] == "a fault"
