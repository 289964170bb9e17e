"""From label files to classes: groups of values, ignored voxels, and what was annotated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deepatlas.data.cache import cache_key, prepare_cohort
from deepatlas.data.check import check_cohort
from deepatlas.data.config import DataConfig
from deepatlas.data.label_notes import label_notes
from deepatlas.data.labels import LabelRule
from deepatlas.data.plan import Plan, make_plan
from deepatlas.errors import BadInput
from deepatlas.io.images import write_image, write_labels
from deepatlas.io.label_groups import LabelGroup
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort
from deepatlas.spatial.geometry import Geometry, Volume

GRID = Geometry.axis_aligned((9, 10, 8), (1.0, 1.5, 2.0))
GROUPS = (
    LabelGroup(7, "both", (2, 2**40)),
    LabelGroup(3, "one", (5,)),
    LabelGroup(300, "none of these", (4000,)),
)


def labels_of(name: str) -> torch.Tensor:
    labels = torch.zeros(GRID.shape, dtype=torch.int64)
    labels[1:3], labels[3:5, 2:], labels[5:7, :6], labels[7] = 2, 5, 2**40, 6
    if name == "b":
        labels[labels == 5] = 0
        labels[:, 8:] = -1
    return labels


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Three scans; in b there is no 5, and some voxels are -1."""
    for number, name in enumerate("abc"):
        image = torch.rand(GRID.shape, generator=torch.Generator().manual_seed(number))
        write_image(tmp_path / "images" / f"{name}.nii.gz", Volume(image, GRID))
        if name != "c":
            path = tmp_path / "labels" / f"{name}.nii.gz"
            write_labels(path, Volume(labels_of(name), GRID), "int64")
    return replace(read_cohort(tmp_path), ignored=(-1,))


def said(cohort: Cohort, **annotated: tuple[int, ...]) -> Cohort:
    subjects = (replace(s, annotated=annotated.get(s.id)) for s in cohort.subjects)
    return replace(cohort, subjects=tuple(subjects))


def test_a_rule_of_groups() -> None:
    labels = torch.tensor([[0, 2, 5], [2**40, 2**40 + 1, -3], [9, 4, -9]])
    members = {7: (2, 2**40), 3: (5, -3)}
    found, where = LabelRule(members, (9, -9))(labels)
    assert found.tolist() == [[0, 7, 3], [7, 0, 3], [0, 0, 0]]
    assert where is not None
    assert where.tolist() == [[False] * 3, [False] * 3, [True, False, True]]
    found, where = LabelRule()(labels)
    assert found is labels
    assert where is None
    assert LabelRule(members, (9,)).structures([5, 9, 8, 0]) == (3,)
    assert LabelRule(ignored=(9,)).structures([5, 9, 0, 2]) == (2, 5)


def test_a_group_was_annotated_where_all_its_values_were() -> None:
    rule = LabelRule({7: (2, 4), 3: (5,)})
    assert rule.annotated(None) is None
    assert rule.annotated((2, 5)) == (3,)
    assert rule.annotated((2, 4)) == (7,)
    assert LabelRule().annotated((2, 4)) == (2, 4)


def test_groups_are_the_structures_of_a_plan(cohort: Cohort) -> None:
    plan = make_plan(cohort, DataConfig(label_groups=GROUPS))
    assert plan.label_values == (3, 7, 300)
    assert plan.class_names == ("one", "both", "none of these")
    assert plan.groups == {"one": (3,), "both": (7,), "none of these": (300,)}
    assert plan.label_dtype == "uint16"
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    scans = prepare_cohort(said(cohort, b=(2, 2**40)), plan)
    raw = labels_of("b")
    expected = torch.zeros_like(raw)
    for index, values in enumerate([(5,), (2, 2**40), (4000,), (-1,)], 1):
        expected[torch.isin(raw, torch.tensor(values))] = index
    found = scans["b"].labels
    assert found is not None
    for value in (1, 2, 3, 4):
        assert int((found == value).sum()) == int((expected == value).sum())
    assert scans["a"].present.tolist() == [True] * 3
    assert scans["b"].present.tolist() == [False, True, False]


def test_values_are_the_structures_of_a_plan_without_groups(cohort: Cohort) -> None:
    plan = make_plan(cohort, DataConfig(ignore_value=6))
    assert plan.label_values == (2, 5, 2**40)
    assert plan.ignored == (-1, 6)
    scan = prepare_cohort(said(cohort, a=(2,)), plan)["a"]
    assert scan.present.tolist() == [True, False, False]
    assert scan.labels is not None
    assert int((scan.labels == 4).sum()) == int((labels_of("a") == 6).sum())


def test_many_structures_and_ignored_voxels(tmp_path: Path) -> None:
    """255 structures fill uint8; one index more is needed for what is ignored."""
    labels = torch.arange(9 * 10 * 8).reshape(GRID.shape) % 257
    write_image(tmp_path / "images" / "a.nii.gz", Volume(torch.rand(GRID.shape), GRID))
    write_labels(tmp_path / "labels" / "a.nii.gz", Volume(labels, GRID), "int16")
    cohort = replace(read_cohort(tmp_path), ignored=(256,))
    plan = make_plan(cohort, DataConfig())
    scan = prepare_cohort(cohort, plan)["a"]
    assert plan.classes == 256
    assert scan.labels is not None
    assert int((scan.labels == 256).sum()) == int((labels == 256).sum())


def test_plans_of_before_and_caches_of_before_stay_good(cohort: Cohort) -> None:
    plan = make_plan(replace(cohort, ignored=()), DataConfig(), survey_of(cohort))
    content = plan.to_json()
    assert not {"members", "ignored"} & set(plan.preparing())
    del content["members"], content["ignored"]
    assert Plan.from_json(content) == plan
    keys = {
        cache_key(one, "image", "labels")
        for one in (plan, replace(plan, ignored=(9,)), replace(plan, members={2: (2,)}))
    }
    assert len(keys) == 3


def survey_of(cohort: Cohort):  # type: ignore[no-untyped-def]
    return check_cohort(cohort, needs_labels=True, needs_pairs=True)


def test_ignored_values_are_no_structures_and_no_faults(cohort: Cohort) -> None:
    facts = survey_of(cohort)
    assert facts["b"].labels is not None
    assert facts["b"].labels.values == (2, 6, 2**40)
    with pytest.raises(BadInput, match=r"b\.nii\.gz: negative label values"):
        survey_of(replace(cohort, ignored=()))


def test_an_empty_map_is_no_fault_where_it_is_said_what_was_annotated(cohort: Cohort) -> None:
    path = cohort.by_id("b").labels
    assert path is not None
    write_labels(path, Volume(torch.zeros(GRID.shape, dtype=torch.int64), GRID), "int64")
    with pytest.raises(BadInput, match="no voxel is labelled"):
        survey_of(cohort)
    survey_of(said(cohort, b=(5,)))


def test_settings_are_checked() -> None:
    with pytest.raises(BadInput, match="ignore_value: 0 is the background"):
        DataConfig(ignore_value=0)
    with pytest.raises(BadInput, match=r"ignore_value: \d+ is the background or beyond 64"):
        DataConfig(ignore_value=10**30)
    with pytest.raises(BadInput, match=r"data\.label_groups: the label value 5 stands in two"):
        DataConfig(label_groups=(*GROUPS, LabelGroup(9, "again", (5,))))


def test_a_group_may_be_ignored(cohort: Cohort) -> None:
    config = DataConfig(label_groups=(*GROUPS, LabelGroup(9, "ignore", (6,))))
    plan = make_plan(cohort, config)
    assert plan.ignored == (-1, 6)
    assert plan.label_values == (3, 7, 300)


def test_notes_say_what_is_not_everywhere(cohort: Cohort) -> None:
    plain = make_plan(cohort, DataConfig())
    (rare,) = label_notes(cohort, survey_of(cohort), plain)
    assert rare.startswith("does not occur in every label map, and is taken as absent there")
    assert "label 5 (1 of 2)" in rare
    assert "annotations.json" in rare
    told = said(cohort, b=(2, 6))
    partly, strange = label_notes(told, survey_of(told), plain)
    assert partly.endswith(f"label 5 (1 of 2), label {2**40} (1 of 2)")
    assert strange.endswith("not learnt: b")
    grouped = make_plan(cohort, DataConfig(label_groups=GROUPS))
    notes = label_notes(cohort, survey_of(cohort), grouped)
    assert notes[0].endswith("say so in annotations.json")
    assert "one (1 of 2), none of these (0 of 2)" in notes[0]
    assert notes[1] == "label values in no group, which are background: 6"
    everything = replace(cohort, subjects=(cohort.by_id("a"), cohort.by_id("c")))
    assert label_notes(everything, survey_of(everything), make_plan(everything, DataConfig())) == []


def test_classes_are_exact_for_any_integer(cohort: Cohort) -> None:
    values = np.array([2**53, 2**53 + 1, -(2**53), 7])
    rule = LabelRule({1: (2**53,), 2: (-(2**53),)}, (7,))
    found, where = rule(torch.from_numpy(values))
    assert found.tolist() == [1, 0, 2, 0]
    assert where is not None
    assert where.tolist() == [False, False, False, True]
