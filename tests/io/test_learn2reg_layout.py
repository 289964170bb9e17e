"""Learn2Reg's JSON: scans, subjects, pairs, names of labels, and what a damaged one is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.run.split import make_split

Write = Callable[..., Path]


def entry(name: str, *kinds: str) -> dict[str, str]:
    return {
        "image": f"./imagesTr/{name}.nii.gz",
        **{kind: f"./{kind}sTr/{name}.nii.gz" for kind in kinds},
    }


def pair(fixed: str, moving: str) -> dict[str, str]:
    return {"fixed": f"./imagesTr/{fixed}.nii.gz", "moving": f"./imagesTr/{moving}.nii.gz"}


def brains() -> dict[str, Any]:
    """As the brain task writes it: a subject a scan, labels and masks, pairs for validation."""
    names = [f"BRAIN_{number:04d}_0000" for number in range(1, 6)]
    return {
        "name": "BRAIN",
        "pairings": "unpaired",
        "modality": {"0": "MR"},
        "labels": {"0": {"0": "background", "1": "Left part", "2": "Right part"}},
        "tensorImageSize": {"0": "3D"},
        "tensorImageShape": {"0": [16, 20, 12]},
        "numTraining": 5,
        "training": [entry(name, "label", "mask") for name in names],
        "test": ["./imagesTs/BRAIN_0099_0000.nii.gz"],
        "numRegistration_val": 2,
        "registration_val": [pair(names[3], names[4]), pair(names[4], names[3])],
        "registration_test": [pair("BRAIN_0099_0000", "BRAIN_0098_0000")],
    }


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the JSON and (empty) files of all that it lists."""

    def build(content: Any, name: str = "BRAIN_dataset.json") -> Path:
        entries = content["training"] if isinstance(content, dict) else []
        for one in entries:
            for key in ("image", "label", "mask"):
                path = tmp_path / one.get(key, ".")
                if key in one and not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(b"")
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return tmp_path

    return build


@pytest.mark.parametrize("name", ["BRAIN_dataset.json", "dataset.json"])
def test_scans_labels_names_and_pairs(name: str, write: Write) -> None:
    root = write(brains(), name)
    cohort = read_cohort(root)
    assert cohort.faults == ()
    assert [s.id for s in cohort.subjects] == [f"BRAIN_{n:04d}" for n in range(1, 6)]
    first = cohort.subjects[0]
    assert (first.person, first.session) == ("BRAIN_0001", "0000")
    assert first.image == root / "imagesTr" / "BRAIN_0001_0000.nii.gz"
    assert first.labels == root / "labelsTr" / "BRAIN_0001_0000.nii.gz"
    assert cohort.label_names == {1: "Left part", 2: "Right part"}
    assert cohort.pairs == (("BRAIN_0005", "BRAIN_0004"), ("BRAIN_0004", "BRAIN_0005"))
    assert cohort.split == {
        "train": ("BRAIN_0001", "BRAIN_0002", "BRAIN_0003"),
        "test": ("BRAIN_0004", "BRAIN_0005"),
    }
    assert cohort.notes == ("2 scans of the subjects in registration pairs are the test part",)
    assert read_cohort(root / name).subjects == cohort.subjects
    split = make_split(cohort, split=None, labelled="all", seed=0)
    assert (split["test"], split["validation"]) == (["BRAIN_0004", "BRAIN_0005"], [])


def test_two_modalities_of_a_subject(write: Write) -> None:
    content = brains()
    content |= {
        "pairings": "paired",
        "modality": {"0": "MR", "1": "CT"},
        "labels": {"0": {"1": "Liver"}, "1": {"1": "Liver", "2": "Spleen"}},
        "training": [entry(f"AB_{n:04d}_{m:04d}", "label") for n in (1, 2) for m in (0, 1)],
        "registration_val": [pair("AB_0002_0000", "AB_0002_0001")],
    }
    cohort = read_cohort(write(content))
    assert [(s.id, s.person, s.session) for s in cohort.subjects] == [
        ("AB_0001", "AB_0001", "0000"), ("AB_0001_0001", "AB_0001", "0001"),
        ("AB_0002", "AB_0002", "0000"), ("AB_0002_0001", "AB_0002", "0001"),
    ]  # fmt: skip
    assert cohort.faults == ()
    assert cohort.label_names == {1: "Liver", 2: "Spleen"}
    assert cohort.pairs == (("AB_0002_0001", "AB_0002"),)
    assert "several modalities (CT, MR)" in cohort.notes[0]


def test_other_scans_of_held_out_subjects_are_held_out_too(write: Write) -> None:
    content = brains()
    content["training"] += [entry("BRAIN_0004_0001"), entry("BRAIN_0001_0001")]
    cohort = read_cohort(write(content))
    assert cohort.faults == ()
    split = make_split(cohort, split=None, labelled="all", seed=0)
    assert split["test"] == ["BRAIN_0004", "BRAIN_0004_0001", "BRAIN_0005"]
    assert "BRAIN_0001_0001" in split["train"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({}, {}),
        ({"0": "background", "1": "Lung"}, {1: "Lung"}),
        ({"0": ["background", "Lung"]}, {1: "Lung"}),
        ({"Lung": 1}, {1: "Lung"}),
    ],
)
def test_label_tables(labels: Any, names: dict[int, str], write: Write) -> None:
    cohort = read_cohort(write({**brains(), "labels": labels}))
    assert (cohort.label_names, cohort.faults) == (names, ())


def test_masks_where_no_scan_has_labels(write: Write) -> None:
    content = brains()
    content["training"] = [entry(f"LUNG_{n:04d}_0000", "mask") for n in (1, 2)]
    content["registration_val"] = []
    cohort = read_cohort(write(content))
    assert all(s.labels and s.labels.parent.name == "masksTr" for s in cohort.subjects)
    assert cohort.notes == ("no scan has labels: the masks are taken as label maps",)
    assert cohort.split is None


def test_several_files_are_a_choice(write: Write) -> None:
    write(brains())
    root = write(brains(), "OTHER_dataset.json")
    with pytest.raises(BadInput, match=r"holds BRAIN_dataset\.json, OTHER_dataset\.json; give one"):
        read_cohort(root)
    assert len(read_cohort(root / "OTHER_dataset.json").subjects) == 5


def test_a_decathlon_json_is_none_of_it(write: Write) -> None:
    content = {k: brains()[k] for k in ("name", "modality", "training")}
    root = write({**content, "labels": {"1": "Left"}, "tensorImageSize": "3D"}, "dataset.json")
    assert [s.session for s in read_cohort(root).subjects] == [""] * 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{broken", "not readable as a Learn2Reg JSON"),
        ("[1, 2]", "not readable as a Learn2Reg JSON"),
        ("[" * 100_000, "not readable as a Learn2Reg JSON"),
        ("{}", "lists no training scan"),
        ('{"training": {"a": 1}}', "lists no training scan"),
        ('{"training": [3]}', "training scan 1: names no image"),
        ('{"training": ["gone.nii.gz"]}', r"training scan 1: there is no image .*gone\.nii\.gz"),
    ],
)
def test_what_is_no_dataset(content: str, says: str, write: Write) -> None:
    path = write(content) / "BRAIN_dataset.json"
    with pytest.raises(BadInput, match=says) as caught:
        read_cohort(path)
    assert str(path) in str(caught.value)


def test_all_faults_come_together(write: Write, tmp_path: Path) -> None:
    content = brains()
    content["training"].append(dict(content["training"][0]))
    content["labels"] = {"0": {"1": "a"}, "1": {"1": "b"}}
    content["registration_val"] = [{"fixed": 3}]
    root = write(content)
    (root / "imagesTr" / "BRAIN_0002_0000.nii.gz").unlink()
    (root / "labelsTr" / "BRAIN_0003_0000.nii.gz").unlink()
    faults = read_cohort(root).faults
    assert len(faults) == 5
    for part in ("scan 2: there is no image", "scan 3: there is no label", "scan 6: BRAIN_0001 is",
                 "registration_val expects", "label 1 has two names"):  # fmt: skip
        assert [fault for fault in faults if part in fault], part


def faults_of(path: Path) -> list[str]:
    """What is wrong with a cohort; anything but faults is raised."""
    try:
        return list(read_cohort(path).faults)
    except BadInput as error:
        return error.faults


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_json_is_never_a_traceback(seed: int, write: Write) -> None:
    """Any value of the JSON exchanged for another: a cohort, or a BadInput that names the file."""
    root, content, draw = write(brains()), brains(), random.Random(seed)
    values: list[Any] = [None, 3, 1e400, -1, True, "x", "", "\0", [], {}, [1], {"a": 1}, [["a"]]]

    def damage(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
            damage(node[key])
        else:
            node[key] = draw.choice(values)

    for _ in range(draw.randint(1, 3)):
        damage(content)
    path = root / "BRAIN_dataset.json"
    path.write_text(json.dumps(content))
    assert all(str(path) in fault for fault in faults_of(root))
