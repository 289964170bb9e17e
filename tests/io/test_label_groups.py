"""Files of label groups, in each of their forms."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from deepatlas.errors import BadInput
from deepatlas.io.label_groups import LabelGroup, read_label_groups

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DEEPATLAS_DATA", ROOT / "../shared/data"))

LIST = [{"id": 4, "name": "Liver", "values": [6, 1]}, {"id": 2, "name": "Spleen", "values": [5]}]
GROUPS = (LabelGroup(4, "Liver", (1, 6)), LabelGroup(2, "Spleen", (5,)))


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_one_set_in_either_form(tmp_path: Path) -> None:
    assert read_label_groups(write(tmp_path / "list.json", LIST)) == GROUPS
    simple = write(tmp_path / "simple.json", {"Liver": [1, 6], "Spleen": [5]})
    assert read_label_groups(simple) == (
        LabelGroup(1, "Liver", (1, 6)),
        LabelGroup(2, "Spleen", (5,)),
    )


def test_one_of_several_sets(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "groups.json", {"organs": LIST, "all": {"Everything": [1, 5, 6]}})
    assert read_label_groups(f"{path}:all") == (LabelGroup(1, "Everything", (1, 5, 6)),)
    caplog.set_level(logging.INFO, logger="deepatlas")
    assert not caplog.records
    assert read_label_groups(path) == GROUPS
    assert "the set 'organs' are taken; for others write groups.json:all" in caplog.text
    with pytest.raises(BadInput, match="no set of groups 'none'; its sets are organs, all"):
        read_label_groups(f"{path}:none")
    with pytest.raises(BadInput, match="it holds one set"):
        read_label_groups(f"{write(tmp_path / 'one.json', LIST)}:all")


def test_a_path_with_a_colon(tmp_path: Path) -> None:
    assert read_label_groups(write(tmp_path / "a:b.json", LIST)) == GROUPS


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{broken", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON (nested without end)"),
        ({}, "holds no group"),
        ([], "holds no group"),
        ({"ignore": [3]}, "holds no group"),
        (3, "expected groups"),
        ({"a": 1}, "expected groups"),
        ({"a": ["x"]}, "'x' is no integer"),
        ({"a": [True]}, "True is no integer"),
        ({"a": [2**63]}, "9223372036854775808 is no integer of 64 bits"),
        ([{"name": "a"}], "expected groups"),
        ([{"id": "1", "name": "a", "values": [1]}], "'1' is no integer"),
        ({"a": []}, "group 'a': expected label values other than 0"),
        ({"a": [0, 1]}, "group 'a': expected label values other than 0"),
        ([{"id": 0, "name": "a", "values": [1]}], "its id is 0"),
        ({"a": [1, 2], "b": [2]}, "the label value 2 stands in two groups"),
        ([LIST[0], {"id": 4, "name": "b", "values": [2]}], "the id 4 stands in two groups"),
        ([LIST[0], {"id": 5, "name": "Liver", "values": [2]}], "the name Liver stands in two"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, content: object, why: str) -> None:
    with pytest.raises(BadInput, match=r"g\.json") as caught:
        read_label_groups(write(tmp_path / "g.json", content))
    assert why in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.json:coarse: cannot be read"):
        read_label_groups(f"{tmp_path / 'none.json'}:coarse")


@pytest.mark.skipif(not (DATA / "brain").is_dir(), reason=f"no folder {DATA / 'brain'}")
def test_the_brain_file_as_it_is() -> None:
    path = DATA / "brain" / "label_groups.json"
    coarse = read_label_groups(path)
    assert coarse == read_label_groups(f"{path}:coarse")
    assert (len(coarse), coarse[0]) == (31, LabelGroup(1, "3rd Ventricle", (4,)))
    cortical = read_label_groups(f"{path}:cortical")
    assert (len(cortical), cortical[0]) == (49, LabelGroup(1, "ACgG", (100, 101)))
