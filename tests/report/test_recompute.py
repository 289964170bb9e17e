"""Recomputed examples: the arrays on the page have the scores that the tables say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_run import NAMES, anatomy, pulled, scanned, smooth_field

from deepatlas.data.plan import Plan
from deepatlas.errors import BadInput
from deepatlas.evaluation.scores import score_labels
from deepatlas.inference.scoring import evaluate
from deepatlas.io.images import write_image, write_labels
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.report.page import write_report
from deepatlas.report.recompute import Recomputed, near_ras
from deepatlas.report.results import Evaluation, read_evaluation
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.training.recipe import load_recipe

SHAPE, SPACING = (9, 20, 26), (3.0, 1.5, 1.5)
TILT = 0.15


def oblique(shape: tuple[int, ...]) -> Geometry:
    """Axes stored as superior, left, anterior with their spacings, tilted and off centre."""
    directions = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    c, s = np.cos(TILT), np.sin(TILT)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ directions @ np.diag(SPACING)
    affine[:3, 3] = (30.0, -80.0, 12.0)
    return Geometry(shape, torch.from_numpy(affine))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Evaluation]:
    """A run with networks of random weights, evaluated on three scans of an oblique grid."""
    root = tmp_path_factory.mktemp("world")
    template, grid = anatomy(SHAPE, SPACING), oblique(SHAPE)
    for n in range(3):
        labels = pulled(template, smooth_field(SHAPE, 2.0, n), 0)
        image = Volume(torch.from_numpy(scanned(labels, n)), grid)
        write_image(root / "cohort" / "images" / f"s{n}.nii.gz", image)
        volume = Volume(torch.from_numpy(labels), grid)
        write_labels(root / "cohort" / "labels" / f"s{n}.nii.gz", volume, "int16")
    run = RunFolder(root / "run")
    recipe = load_recipe("baseline")
    run.write_config(recipe)
    plan = Plan(
        (24, 24, 16), (1.5, 1.5, 2.0), (0.0, 0.0, 0.0), label_values=tuple(NAMES), label_names=NAMES
    )
    run.write("plan.json", plan.to_json())
    ids = {"train": ["a"], "labelled": ["a"], "validation": [], "test": ["s0", "s1", "s2"]}
    run.write("split.json", {**ids, "cohort": str(root / "cohort")})
    run.write("state.json", {"finished": True, "step": 1})
    torch.manual_seed(0)
    networks: dict[str, Any] = {
        "segmentation": build_segmentation(recipe.networks["segmentation"], ndim=3, classes=5),
        "registration": build_registration(recipe.networks["registration"], ndim=3),
    }
    for name, network in networks.items():
        weights = {
            key: value + 0.05 * torch.randn(value.shape)
            for key, value in network.state_dict().items()
        }
        run.write_network(name, weights, recipe)
    evaluate(run, root / "cohort", root / "evaluation", n_pairs=3)
    return run, read_evaluation(run.evaluations()[-1], run.path)


def mean_dice(prediction: np.ndarray, target: np.ndarray, spacing: tuple[float, ...]) -> float:
    return score_labels(
        prediction, target, values=list(NAMES), spacing_mm=spacing, distances=False
    ).mean_dice


def test_near_ras_keeps_every_voxel_at_its_place():
    rng = torch.Generator().manual_seed(0)
    volume = Volume(torch.rand((4, 5, 6), generator=rng), oblique((4, 5, 6)))
    turned = near_ras(volume)
    assert turned.geometry.shape == (5, 6, 4)
    assert turned.geometry.spacing_mm == pytest.approx((1.5, 1.5, 3.0))
    assert (torch.diagonal(turned.geometry.affine)[:3] > 0).all()
    index = turned.geometry.to_index(volume.geometry.points_mm()).round().long()
    assert torch.equal(turned.data[tuple(index.unbind(-1))], volume.data)


def test_near_ras_of_a_slice():
    affine = torch.tensor([[0.0, -2.0, 5.0], [1.0, 0.0, 3.0], [0.0, 0.0, 1.0]])
    turned = near_ras(Volume(torch.arange(6).reshape(2, 3), Geometry((2, 3), affine)))
    assert turned.geometry.spacing_mm == pytest.approx((2.0, 1.0))
    assert turned.data.tolist() == [[2, 5], [1, 4], [0, 3]]


def test_segmentations_have_the_dice_of_the_table(world):
    run, evaluation = world
    examples = Recomputed().scans(run, evaluation)
    assert [e.rank for e in examples] == ["worst", "median", "best"]
    assert examples[0].dice <= examples[1].dice <= examples[2].dice
    for e in examples:
        assert e.image.shape == (20, 26, 9)
        assert mean_dice(e.predicted, e.manual, e.spacing_mm) == pytest.approx(e.dice, abs=1e-5)


def test_registrations_have_the_dice_and_the_folds_of_the_table(world):
    run, evaluation = world
    rows = {(row["moving"], row["fixed"]): row for row in evaluation.pairs}
    examples = Recomputed().pairs(run, evaluation)
    assert len(examples) == 3
    for e in examples:
        assert e.moved_labels is not None
        assert e.moving_labels is not None
        assert e.fixed_labels is not None
        before = mean_dice(e.moving_labels, e.fixed_labels, e.spacing_mm)
        after = mean_dice(e.moved_labels, e.fixed_labels, e.spacing_mm)
        assert before == pytest.approx(e.dice_before, abs=1e-5)
        assert after == pytest.approx(e.dice, abs=1e-5)
        folds = int((~(e.determinant[1:-1, 1:-1, 1:-1] > 0)).sum())
        assert folds == int(rows[e.moving_scan, e.fixed_scan]["left_out"])
        # the network's part alone: the scans' grids lie 80 mm from the plan's
        assert 0.05 < np.abs(e.displacement).max() < 20


def test_page_of_a_real_run(world):
    run, evaluation = world
    for name in ("scans.csv", "pairs.csv"):  # one scan and one pair are enough here
        lines = (evaluation.folder / name).read_text().splitlines()[:2]
        (evaluation.folder / name).write_text("\n".join(lines) + "\n")
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("<img ") == 4
    assert "No examples" not in page


def test_a_scan_that_has_gone_is_named(world):
    run, evaluation = world
    gone = Evaluation(
        folder=evaluation.folder, cohort=evaluation.cohort, summary={},
        scans=({"scan": "s9", "dice": "0.5"},), pairs=(),
    )  # fmt: skip
    with pytest.raises(BadInput, match="'s9' of the evaluation is not there"):
        Recomputed().scans(run, gone)
    assert Recomputed().pairs(run, gone) == []


def test_an_evaluation_that_names_no_cohort_says_so(world):
    run, evaluation = world
    nameless = Evaluation(
        folder=Path("somewhere"), cohort=None, summary={}, scans=evaluation.scans, pairs=()
    )
    with pytest.raises(BadInput, match="does not say which cohort"):
        Recomputed().scans(run, nameless)
