"""The phantom: known labels, known maps, and the difficulty that was fixed for it."""

from __future__ import annotations

import dataclasses
import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from deepatlas.data import phantom_template as template
from deepatlas.data.phantom import Phantom, smooth_field
from deepatlas.data.phantom_files import write_phantom
from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.jacobian import jacobian_determinant
from deepatlas.spatial.transform import resample

SPACE = Phantom(seed=3)
PLANE = Phantom(seed=3, shape=(64, 76))
UNEVEN = Phantom(seed=5, shape=(44, 30, 20), spacing_mm=(0.9, 1.6, 2.1))
ALL = [SPACE, PLANE, UNEVEN]
NAMES = ["3-D", "2-D", "anisotropic"]


@pytest.fixture(scope="module", params=ALL, ids=NAMES)
def phantom(request):
    return request.param


def dice(one, other):
    values = template.label_names()
    return [float(2 * ((one == v) & (other == v)).sum() / ((one == v).sum() + (other == v).sum()))
            for v in values]  # fmt: skip


def voxels_between(phantom, points_mm, others_mm):
    """The largest distance of two sets of points."""
    apart = (points_mm - others_mm) / torch.tensor(phantom.spacing, dtype=torch.float64)
    return float(apart.norm(dim=-1).max())


def test_subject_is_the_same_every_time_and_differs_from_others(phantom):
    one, again, other = phantom.subject(4), phantom.subject(4), phantom.subject(5)
    assert torch.equal(one.image.data, again.image.data)
    assert torch.equal(one.labels.data, again.labels.data)
    assert one.image.geometry.same_as(again.image.geometry)
    assert not one.image.geometry.same_as(other.image.geometry)
    assert (one.labels.data != other.labels.data).float().mean() > 0.05
    reseeded = dataclasses.replace(phantom, seed=phantom.seed + 1).subject(4)
    assert not torch.equal(one.labels.data, reseeded.labels.data)


def test_all_structures_are_there(phantom):
    subject = phantom.subject(0)
    assert set(subject.labels.data.unique().tolist()) == {0, *template.label_names()}
    assert subject.image.data.dtype == torch.float32
    assert subject.image.data.isfinite().all()


def test_labels_are_the_template_at_the_true_map(phantom):
    subject = phantom.subject(1)
    points = subject.to_template(subject.labels.geometry.points_mm())
    drawn = template.draw_labels(points / phantom.unit_mm)
    assert torch.equal(drawn, subject.labels.data)


def test_structures_have_their_intensities():
    """The image shows the structures of the label map, neighbours close to each other."""
    plain = dataclasses.replace(SPACE, bias=0.0, noise=0.0, texture=0.0, contrast=0.0).subject(2)
    for structure in template.STRUCTURES:
        if structure.label:
            inside = plain.image.data[plain.labels.data == structure.label]
            assert inside.median() == pytest.approx(structure.intensity, abs=0.03)
    assert plain.image.data[0, 0, 0] == 0


def test_true_map_carries_landmarks_and_labels(phantom):
    true_map = phantom.true_map(moving=1, fixed=0)
    moved = true_map(phantom.landmarks_mm(0))
    assert voxels_between(phantom, moved, phantom.landmarks_mm(1)) < 0.1
    fixed, moving = phantom.subject(0), phantom.subject(1)
    points = moving.to_template(true_map(fixed.labels.geometry.points_mm()))
    exact = template.draw_labels(points / phantom.unit_mm)  # no grid of the moving scan between
    assert min(dice(exact, fixed.labels.data)) > 0.97
    before = np.mean(dice(moving.labels.data, fixed.labels.data))
    carried = resample(moving.labels, fixed.labels.geometry, true_map, labels=True)
    assert np.mean(dice(carried.data, fixed.labels.data)) > 0.8 > before


def test_true_map_and_its_inverse_cancel(phantom):
    true_map = phantom.true_map(moving=1, fixed=0)
    points = phantom.geometry(0).points_mm()
    assert voxels_between(phantom, true_map.inverse()(true_map(points)), points) < 0.1
    other_way = phantom.true_map(moving=0, fixed=1)
    assert voxels_between(phantom, other_way(true_map(points)), points) < 0.1


def test_maps_do_not_fold(phantom):
    for index in range(3):
        displacement = phantom.to_template(index).displacement(phantom.geometry(index))
        assert jacobian_determinant(displacement[None]).min() > 0.25


@pytest.mark.parametrize("population", [SPACE, PLANE], ids=NAMES[:2])
def test_dice_before_registration_is_as_fixed(population):
    """0.5 to 0.65, mean over structures and pairs, centres of the fields of view together."""
    labels = [population.subject(index).labels.data for index in range(6)]
    means = [np.mean(dice(a, b)) for a, b in itertools.combinations(labels, 2)]
    assert 0.5 < np.mean(means) < 0.65


def test_smooth_field_is_a_function_of_position_with_unit_variance():
    axes = [np.linspace(-60, 60, 25), np.linspace(-80, 80, 31), np.linspace(-50, 50, 21)]
    field = smooth_field(np.random.default_rng(0), axes, 5.0, 3)
    assert field.shape == (3, 25, 31, 21)
    assert field.std(axis=(1, 2, 3)) == pytest.approx(1.0, abs=0.2)
    fewer = smooth_field(np.random.default_rng(0), [a[3::2] for a in axes], 5.0, 3)
    np.testing.assert_allclose(fewer, field[:, 3::2, 3::2, 3::2], atol=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"shape": (9,)}, {"shape": (30, 4)}, {"spacing_mm": (1.0, 1.0)}, {"seed": -1}]
)
def test_impossible_phantom_is_refused(wrong):
    with pytest.raises(BadInput):
        Phantom(**wrong)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_phantom(
        tmp_path_factory.mktemp("phantom") / "here", subjects=3, labelled=2, seed=3, test_subjects=1
    )


def test_written_cohort_is_read_back(written):
    cohort = read_cohort(written)
    assert [s.id for s in cohort.subjects] == [f"phantom_00{k}" for k in range(3)]
    assert [s.id for s in cohort.labelled] == ["phantom_000", "phantom_001"]
    assert cohort.label_names == template.label_names()
    assert cohort.groups == {"thin": (2, 11, 20)}
    assert not cohort.faults
    assert len(read_cohort(written / "truth").labelled) == 3
    assert [s.id for s in read_cohort(written / "test").labelled] == ["phantom_1000"]


def test_written_scan_is_the_subject(written):
    subject = SPACE.subject(1)
    image = nib.load(written / "imagesTr/phantom_001.nii.gz")
    labels = nib.load(written / "labelsTr/phantom_001.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), subject.image.data.numpy())
    np.testing.assert_array_equal(np.asarray(labels.dataobj), subject.labels.data.numpy())
    assert labels.get_data_dtype() == np.uint8
    written_grid = Geometry(image.shape, torch.from_numpy(image.affine))
    assert written_grid.same_as(subject.image.geometry)
    record = json.loads((written / "phantom.json").read_text())
    assert Phantom(**{**record["phantom"], "shape": tuple(record["phantom"]["shape"])}) == SPACE


def test_phantom_is_replaced_but_nothing_else(tmp_path):
    out = tmp_path / "plane"
    write_phantom(out, subjects=3, labelled=3, ndim=2, test_subjects=0)
    write_phantom(out, subjects=2, labelled=0, ndim=2, test_subjects=2)
    cohort = read_cohort(out)
    assert len(cohort.subjects) == 2
    assert not cohort.labelled
    assert len(read_cohort(out / "truth").labelled) == 2
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    with pytest.raises(BadInput, match="taken"):
        write_phantom(taken, subjects=2, labelled=1, ndim=2)
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"]
    with pytest.raises(BadInput, match="labelled"):
        write_phantom(tmp_path / "new", subjects=2, labelled=5)
    assert not (tmp_path / "new").exists()
