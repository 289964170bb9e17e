"""Dice against MONAI, against hand-made maps, and what happens to structures that are missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice

from deepatlas.evaluation.dice import confusion, dice, dice_groups

SHAPE = (11, 17, 7)


def maps(values: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two random label maps that agree in about half of the voxels."""
    rng = np.random.default_rng(seed)
    target = rng.choice([0, *values], SHAPE)
    other = rng.choice([0, *values], SHAPE)
    return np.where(rng.random(SHAPE) < 0.5, target, other), target


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], [3, 17, 205], [-4, 5, 1000], [7, 70_000_000]],
    ids=["dense", "gaps", "negative", "bisection"],
)
def test_dice_equals_monai(values: list[int]) -> None:
    prediction, target = maps(values)
    found = dice(prediction, target, values)
    one_hot = [
        torch.from_numpy(np.stack([labels == v for v in values])[None].astype(np.float32))
        for labels in (prediction, target)
    ]
    expected = compute_dice(*one_hot, include_background=True)[0].tolist()
    assert list(found) == values
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)
    assert 0.2 < min(expected) < max(expected) < 0.9


def test_dice_by_hand() -> None:
    prediction = np.array([[1, 1, 0], [2, 2, 9]])
    target = np.array([[1, 0, 0], [2, 1, 9]])
    assert dice(prediction, target, [1, 2]) == {1: 2 * 1 / 4, 2: 2 * 1 / 3}


def test_values_that_are_not_asked_for_are_background() -> None:
    prediction = np.array([5, 1, 1, -3, 300], np.int16)
    target = np.array([0, 1, 7, 1, 300], np.int16)
    assert dice(prediction, target, [1]) == {1: 0.5}
    assert dice(prediction, target, []) == {}


def test_any_integer_type_and_tensors() -> None:
    prediction, target = maps([1, 2, 200])
    expected = dice(prediction, target, [1, 2, 200])
    assert dice(prediction.astype(np.uint8), target.astype(np.int32), [1, 2, 200]) == expected
    tensors = torch.from_numpy(prediction), torch.from_numpy(np.asfortranarray(target))
    assert dice(*tensors, [1, 2, 200]) == expected


def test_a_structure_in_neither_is_nan_and_in_one_only_is_zero() -> None:
    prediction = np.array([0, 2, 2, 0])
    target = np.array([1, 2, 2, 0])
    found = dice(prediction, target, [1, 2, 3])
    assert found[1] == 0
    assert found[2] == 1
    assert math.isnan(found[3])
    assert dice(target, prediction, [1])[1] == 0


def test_a_group_is_the_union_of_its_structures() -> None:
    prediction, target = maps([1, 2, 3, 4])
    groups = {"left": [1, 3], "all": [4, 3, 2, 1], "absent": [8, 9]}
    found = dice_groups(prediction, target, groups)
    for name in ("left", "all"):
        p, t = np.isin(prediction, groups[name]), np.isin(target, groups[name])
        assert found[name] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()))
    assert found["all"] > max(dice(prediction, target, [1, 2, 3, 4]).values())
    assert math.isnan(found["absent"])


def test_repeated_values_count_once() -> None:
    prediction, target = maps([1, 2])
    assert dice(prediction, target, [1, 1, 2]) == dice(prediction, target, [1, 2])
    assert dice_groups(prediction, target, {"g": [1, 1]})["g"] == dice(prediction, target, [1])[1]


def test_wrong_input_is_refused() -> None:
    labels = np.zeros((3, 4), np.int64)
    with pytest.raises(ValueError, match="one shape"):
        dice(labels, labels.T, [1])
    with pytest.raises(ValueError, match="integer label maps"):
        dice(labels.astype(float), labels, [1])
    with pytest.raises(ValueError, match="not counted"):
        confusion(labels, labels, [1]).dice([2])
