"""One plan for a cohort: grid, intensities and labels, the same for the same files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from deepatlas.data.check import check_cohort
from deepatlas.data.config import DataConfig
from deepatlas.data.plan import Plan, make_plan
from deepatlas.data.working_grid import axis_order, bounds_mm, working_grid
from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort
from deepatlas.spatial.geometry import Geometry


def affine_of(spacing: tuple[float, ...], origin: tuple[float, ...] = (0, 0, 0)) -> np.ndarray:
    affine = np.diag([*spacing, *[1] * (4 - len(spacing))]).astype(float)
    affine[: len(origin), 3] = origin
    return affine


def save(root: Path, name: str, shape: tuple[int, ...], affine: np.ndarray, labels: Any) -> None:
    """A scan, and its label map of the given values and type if there are any."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(exist_ok=True)
    image = np.random.default_rng(len(name)).random(shape).astype("f4")
    nib.Nifti1Image(image, affine).to_filename(root / "images" / f"{name}.nii")
    if labels is not None:
        values = np.resize(np.array(labels), shape)
        nib.Nifti1Image(values, affine, dtype=values.dtype).to_filename(
            root / "labels" / f"{name}.nii"
        )


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Spacings 1, 1.2 and 2 mm along R; the second scan is stored with its axes in order SRA."""
    save(tmp_path, "a", (20, 30, 11), affine_of((1, 1.5, 2), (5, 0, 0)), np.array([0, 4], "u1"))
    turned = np.array([[0, -1.2, 0, 60], [0, 0, 1.5, -10], [2, 0, 0, 3], [0, 0, 0, 1.0]])
    save(tmp_path, "b", (13, 35, 27), turned, np.array([0, 300, 4], "i2"))
    save(tmp_path, "c", (10, 20, 9), affine_of((2, 1.5, 2)), None)
    return read_cohort(tmp_path)


def test_spacing_is_the_median_and_the_grid_holds_the_largest_scan(cohort: Cohort) -> None:
    plan = make_plan(cohort, DataConfig())
    np.testing.assert_allclose(plan.spacing_mm, (1.2, 1.5, 2), rtol=1e-6)
    # 35 x 1.2 = 42 mm is 35 voxels; 30 voxels; 13 voxels
    assert plan.shape == (40, 32, 16)
    assert plan.centre_mm == (0, 0, 0)
    assert plan.notes == ()
    assert plan.geometry.shape == plan.shape
    np.testing.assert_allclose(plan.geometry.centre_mm, (0, 0, 0), atol=1e-9)


def test_labels_are_those_that_occur_in_a_type_that_holds_them(cohort: Cohort) -> None:
    plan = make_plan(cohort, DataConfig())
    assert plan.label_values == (4, 300)
    assert plan.classes == 3
    assert plan.label_dtype == "int16"
    assert plan.class_names == ("label 4", "label 300")
    named = Cohort(cohort.root, cohort.subjects, {4: "Thalamus", 9: "Nowhere"}, {"all": (4, 300)})
    plan = make_plan(named, DataConfig())
    assert plan.label_names == {4: "Thalamus"}
    assert plan.class_names == ("Thalamus", "label 300")
    assert plan.groups == {"all": (4, 300)}


def test_no_labels_at_all(cohort: Cohort) -> None:
    plan = make_plan(Cohort(cohort.root, cohort.subjects[2:]), DataConfig())
    assert (plan.label_values, plan.classes, plan.label_dtype) == ((), 1, "uint8")


def test_what_is_given_counts(cohort: Cohort) -> None:
    config = DataConfig(spacing_mm=(2, 2, 2), shape=(24, 24, 16), percentiles=(1, 99))
    plan = make_plan(cohort, config)
    assert (plan.spacing_mm, plan.shape, plan.percentiles) == ((2, 2, 2), (24, 24, 16), (1, 99))
    assert plan.notes == ()
    (note,) = make_plan(cohort, DataConfig(spacing_mm=(2, 2, 2), shape=(16, 24, 16))).notes
    assert "16 x 24 x 16" in note
    assert "cropped" in note


def test_the_world_grid_holds_every_scan_where_it_is(cohort: Cohort) -> None:
    plan = make_plan(cohort, DataConfig(align="world"))
    low, high = bounds_mm(plan.geometry)
    centres = []
    for subject in cohort.subjects:
        facts = check_cohort(cohort, needs_labels=False, needs_pairs=False)[subject.id].image
        assert facts.geometry is not None
        scan_low, scan_high = bounds_mm(facts.geometry)
        assert (low <= scan_low + 1e-6).all()
        assert (high >= scan_high - 1e-6).all()
        centres.append(facts.geometry.centre_mm.numpy())
    off = np.array(plan.centre_mm) - np.mean(centres, axis=0)
    assert (np.abs(off) <= np.array(plan.spacing_mm) / 2 + 1e-6).all()
    assert all(n % 8 == 0 for n in plan.shape)


def test_the_world_grid_holds_every_scan_after_its_shift_onto_the_lattice() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        grids = []
        for _ in range(int(random.integers(1, 5))):
            affine = torch.eye(3, dtype=torch.float64)
            affine[:2, 2] = torch.from_numpy(random.uniform(-9, 9, 2))
            grids.append(Geometry(tuple(random.integers(6, 17, 2)), affine))
        shape, spacing, centre, _ = working_grid(grids, DataConfig(align="world"))
        low, high = bounds_mm(Geometry.axis_aligned(shape, spacing, centre))
        for grid in grids:
            assert (bounds_mm(grid)[0] >= low - 1e-6).all()
            assert (bounds_mm(grid)[1] <= high + 1e-6).all()


def test_scans_of_one_lattice_are_not_interpolated_in_the_world(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path, f"s{n}", (9 + n, 10, 11), affine_of((1, 1, 1), (0.3 + n, 0.3, 5.3)), None)
    plan = make_plan(read_cohort(tmp_path), DataConfig(align="world"))
    index = plan.geometry.to_index(torch.tensor([0.3, 0.3, 5.3]))
    np.testing.assert_allclose(index, index.round(), atol=1e-5)


def test_too_many_voxels_make_the_grid_coarser(cohort: Cohort) -> None:
    config = DataConfig(max_voxels=8 * 1024)
    plan, free = make_plan(cohort, config), make_plan(cohort, DataConfig())
    assert math.prod(plan.shape) <= config.max_voxels < math.prod(free.shape)
    assert all(n % 8 == 0 for n in plan.shape)
    ratio = np.array(plan.spacing_mm) / free.spacing_mm
    np.testing.assert_allclose(ratio, ratio[0])
    extent = np.array(plan.shape) * plan.spacing_mm
    assert (extent >= (42 - 1e-2, 45 - 1e-2, 26 - 1e-2)).all()
    (note,) = plan.notes
    assert "40 x 32 x 16 voxels of 1.2 x 1.5 x 2 mm are more than max_voxels" in note
    with pytest.raises(BadInput, match="give a coarser spacing"):
        make_plan(cohort, DataConfig(max_voxels=8 * 1024, spacing_mm=(1, 1, 1)))
    same = make_plan(cohort, DataConfig(max_voxels=8 * 1024, shape=(40, 32, 16)))
    assert (same.shape, same.notes) == ((40, 32, 16), ())


def test_the_histogram_is_that_of_a_scan_which_may_be_looked_at(cohort: Cohort) -> None:
    config = DataConfig(match_histograms=True)
    alone = Cohort(cohort.root, (cohort.by_id("c"),))
    assert (
        make_plan(cohort, config, references=["c"]).histogram == make_plan(alone, config).histogram
    )
    assert make_plan(cohort, config).histogram != make_plan(alone, config).histogram


def test_json_and_hash(cohort: Cohort) -> None:
    named = Cohort(cohort.root, cohort.subjects, {4: "Thalamus"}, {"all": (4, 300)})
    plan = make_plan(named, DataConfig(match_histograms=True, max_voxels=9999))
    back = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert back == plan
    assert hash(back) == hash(plan)
    assert plan.histogram is not None
    assert plan.notes
    assert make_plan(named, DataConfig(match_histograms=True, max_voxels=9999)) == plan
    other = Plan(plan.shape, plan.spacing_mm, plan.centre_mm)
    assert other != plan
    assert other.preparing() != plan.preparing()
    for broken in ({}, {**plan.to_json(), "version": 0}, {**plan.to_json(), "shape": None}):
        with pytest.raises(ValueError, match="not a plan of this version"):
            Plan.from_json(broken)


def test_names_and_notes_do_not_change_how_scans_are_prepared(cohort: Cohort) -> None:
    plan = make_plan(cohort, DataConfig())
    named = make_plan(Cohort(cohort.root, cohort.subjects, {4: "Thalamus"}), DataConfig())
    assert named != plan
    assert named.preparing() == plan.preparing()


def test_what_check_found_gives_the_same_plan(cohort: Cohort) -> None:
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    assert make_plan(cohort, DataConfig(), facts) == make_plan(cohort, DataConfig())


def test_slices(tmp_path: Path) -> None:
    save(tmp_path, "a", (20, 30), affine_of((1, 1.5)), np.array([0, 1], "u1"))
    save(tmp_path, "b", (33, 10, 1), affine_of((1, 1.5, 7)), None)
    plan = make_plan(read_cohort(tmp_path), DataConfig())
    assert plan.shape == (40, 32)
    assert plan.spacing_mm == (1, 1.5)
    with pytest.raises(BadInput, match=r"data\.shape: the scans are 2-D; expected 2 values"):
        make_plan(read_cohort(tmp_path), DataConfig(shape=(8, 8, 8)))


def test_faults_are_raised(tmp_path: Path, cohort: Cohort) -> None:
    (tmp_path / "images" / "a.nii").write_bytes(b"")
    (tmp_path / "labels" / "b.nii").write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        make_plan(cohort, DataConfig())
    assert len(caught.value.faults) == 2
    with pytest.raises(BadInput, match="holds no scan"):
        make_plan(Cohort(tmp_path, ()), DataConfig())
    save(tmp_path, "a", (8, 9), affine_of((1, 1)), None)
    with pytest.raises(BadInput, match="2-D"):
        make_plan(Cohort(tmp_path, cohort.subjects[::2]), DataConfig())


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ({"align": "center"}, "align"),
        ({"spacing_mm": (1, 0, 1)}, "spacing_mm"),
        ({"spacing_mm": (1, math.nan, 1)}, "spacing_mm"),
        ({"shape": (4, 64, 64)}, "shape"),
        ({"percentiles": (99, 1)}, "percentiles"),
        ({"max_voxels": 0}, "max_voxels"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], word: str) -> None:
    with pytest.raises(BadInput, match=rf"data\.{word}: expected"):
        DataConfig(**setting)


def test_the_configuration_can_be_read_from_yaml() -> None:
    config = TypeAdapter(DataConfig).validate_python({"spacing_mm": [1, 1, 2], "shape": None})
    assert config == DataConfig(spacing_mm=(1, 1, 2))


@pytest.mark.parametrize(
    ("columns", "order"),
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], (0, 1, 2)),
        ([[0, 0, -1], [1, 0, 0], [0, 1, 0]], (2, 0, 1)),
        ([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -3]], (0, 1, 2)),
        ([[0.6, 0.8, 0], [0.8, -0.6, 0], [0, 0, 3]], (1, 0, 2)),
        # both leading axes run most nearly along R; the stronger has it
        ([[0.75, 0.8, 0], [0.66, -0.6, 0.1], [0, 0, 3]], (1, 0, 2)),
    ],
)
def test_axis_order(columns: list[list[float]], order: tuple[int, ...]) -> None:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = torch.tensor(columns)
    assert axis_order(Geometry((3, 4, 5), affine)) == order
