"""Folders of scans become cohorts; what is wrong with a folder is told in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deepatlas.errors import BadInput
from deepatlas.io.layouts import LAYOUTS, read_cohort

FOLDERS = {"decathlon": ("imagesTr", "labelsTr"), "plain": ("images", "labels")}

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a folder with (empty) image and label files of these names."""

    def build(
        layout: str, images: list[str], labels: list[str] = (), dataset: object = None
    ) -> Path:
        for folder, names in zip(FOLDERS[layout], (images, labels), strict=True):
            (tmp_path / folder).mkdir(exist_ok=True)
            for name in names:
                (tmp_path / folder / name).write_bytes(b"")
        if dataset is not None:
            text = dataset if isinstance(dataset, str) else json.dumps(dataset)
            (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
        return tmp_path

    return build


@pytest.mark.parametrize("layout", sorted(FOLDERS))
def test_contract_ids_are_sorted_and_labels_belong_to_their_image(make: Make, layout: str) -> None:
    root = make(layout, ["b.nii.gz", "a.nii", "c.NII.GZ"], ["c.nii.gz", "a.nii.gz"])
    cohort = read_cohort(root)
    images, labels = FOLDERS[layout]
    assert [s.id for s in cohort.subjects] == ["a", "b", "c"]
    assert [s.id for s in cohort.labelled] == ["a", "c"]
    assert cohort.by_id("c").image == root / images / "c.NII.GZ"
    assert cohort.by_id("c").labels == root / labels / "c.nii.gz"
    assert cohort.by_id("b").labels is None
    assert cohort.root == root
    assert cohort.faults == ()


@pytest.mark.parametrize("layout", sorted(FOLDERS))
def test_contract_hidden_files_and_companions_are_ignored(make: Make, layout: str) -> None:
    root = make(
        layout, ["a.nii.gz", "._a.nii.gz", ".DS_Store", "a.json", "README.md"], ["._b.nii.gz"]
    )
    (root / FOLDERS[layout][0] / "folder.nii.gz").mkdir()
    cohort = read_cohort(str(root))
    assert [s.id for s in cohort.subjects] == ["a"]
    assert cohort.faults == ()


@pytest.mark.parametrize("layout", sorted(FOLDERS))
def test_contract_all_faults_of_a_folder_are_kept(make: Make, layout: str) -> None:
    root = make(layout, ["a.nii", "a.nii.gz", "b.xyz"], ["a.nii", "a_0000.nii.gz", "lost.nii"])
    faults = read_cohort(root).faults
    assert len(faults) == 4
    for name, why in [
        ("a.nii.gz", "second image of scan 'a'"),
        ("b.xyz", "not a scan by its name"),
        ("a_0000.nii.gz", "second label map"),
        ("lost.nii", "a label map without image"),
    ]:
        assert [f for f in faults if name in f.split(":")[0] and why in f], (name, why)


@pytest.mark.parametrize("layout", sorted(FOLDERS))
def test_contract_no_image_is_refused_at_once(make: Make, layout: str) -> None:
    with pytest.raises(BadInput, match="holds no image; put scans"):
        read_cohort(make(layout, []))
    with pytest.raises(BadInput, match=r"what lies there: a\.xyz") as caught:
        read_cohort(make(layout, ["a.xyz"], ["a.nii.gz"]))
    assert len(caught.value.faults) == 3


def test_a_missing_or_unknown_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such folder"):
        read_cohort(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(BadInput, match="no known layout") as caught:
            read_cohort(path)
        for layout in LAYOUTS.values():
            assert layout.looks_like in str(caught.value)


def test_nnunet_suffix_and_test_images(make: Make) -> None:
    root = make("decathlon", ["x_0000.nii.gz", "y_0000.nii.gz"], ["y.nii.gz"], {"labels": {}})
    (root / "imagesTs").mkdir()
    (root / "imagesTs" / "z_0000.nii.gz").write_bytes(b"")
    cohort = read_cohort(root)
    assert [s.id for s in cohort.subjects] == ["x", "y"]
    assert cohort.by_id("y").labels == root / "labelsTr" / "y.nii.gz"


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".png", ".tif"])
def test_nnunet_raw_in_any_format(make: Make, ending: str) -> None:
    dataset = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "Anterior": 1},
        "numTraining": 2,
        "file_ending": ending,
    }
    images = [f"x_0000{ending}", f"y_0000{ending}"]
    cohort = read_cohort(make("decathlon", images, [f"x{ending}"], dataset))
    assert [s.id for s in cohort.subjects] == ["x", "y"]
    assert [s.labels and s.labels.name for s in cohort.subjects] == [f"x{ending}", None]
    assert cohort.label_names == {1: "Anterior"}
    assert (cohort.faults, cohort.split, cohort.notes) == ((), None, ())


def test_several_channels_are_a_fault(make: Make) -> None:
    root = make("decathlon", ["x_0000.nii.gz", "x_0001.nii.gz"])
    (fault,) = read_cohort(root).faults
    assert "x_0001.nii.gz" in fault
    assert "further channel of scan 'x'" in fault


def test_numbered_scans_are_no_channels(make: Make) -> None:
    names = [f"x_000{n}.nii.gz" for n in range(4)]
    cohort = read_cohort(make("decathlon", names, names[:2]))
    assert (len(cohort.labelled), cohort.faults) == (2, ())


def test_label_names_of_the_decathlon(make: Make) -> None:
    labels = {"0": "background", "2": "Posterior", "1": "Anterior", "40000000": "Far"}
    cohort = read_cohort(make("decathlon", ["a.nii"], dataset={"labels": labels}))
    assert cohort.label_names == {1: "Anterior", 2: "Posterior", 40000000: "Far"}
    assert cohort.groups == {}


def test_label_names_and_groups_of_nnunet(make: Make) -> None:
    labels = {"background": 0, "whole": [2, 1], "Anterior": 1, "Posterior": [2]}
    cohort = read_cohort(make("decathlon", ["a.nii"], dataset={"labels": labels}))
    assert cohort.label_names == {1: "Anterior", 2: "Posterior"}
    assert cohort.groups == {"whole": (1, 2)}


@pytest.mark.parametrize("labels", [{"a": 1, "ignore": 7}, {"1": "a", "7": "Ignore"}])
def test_the_ignore_label_is_no_structure(make: Make, labels: object) -> None:
    cohort = read_cohort(make("decathlon", ["a.nii"], dataset={"labels": labels}))
    assert cohort.ignored == (7,)
    assert cohort.label_names == {1: "a"}
    assert cohort.faults == ()


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        ("{broken", "not readable"),
        ("[" * 100_000, "not readable"),
        ("[1, 2]", "not readable"),
        ({"labels": ["a", "b"]}, "not readable"),
        ({"labels": {"a": 1.5}}, "the label entry"),
        ({"labels": {"a": []}}, "the label entry"),
        ({"labels": {"a": None}}, "the label entry"),
        ({"labels": {"one": "a"}}, "the label entry"),
        ({"labels": {"ignore": 10**30}}, "the label entry"),
        ({"labels": {"a": 1, "ignore": 0}}, "`ignore` label is 0"),
    ],
)
def test_a_strange_dataset_json_is_a_fault(make: Make, dataset: object, why: str) -> None:
    (fault,) = read_cohort(make("decathlon", ["a.nii"], dataset=dataset)).faults
    assert "dataset.json" in fault
    assert why in fault


def test_dataset_json_may_be_missing_or_begin_with_a_mark(make: Make) -> None:
    root = make("decathlon", ["a.nii"])
    assert read_cohort(root).label_names == {}
    (root / "dataset.json").write_text('{"labels": {"1": "Ä"}}', encoding="utf-8-sig")
    assert read_cohort(root).label_names == {1: "Ä"}


def test_the_decathlon_comes_first(make: Make) -> None:
    make("plain", ["p.nii"])
    assert [s.id for s in read_cohort(make("decathlon", ["d.nii"])).subjects] == ["d"]
