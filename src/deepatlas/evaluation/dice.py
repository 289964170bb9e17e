"""Dice of two label maps: per structure and per group, from one joint histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_TABLE = 1 << 22
"""Label values that span more than this are looked up by bisection instead of in a table."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """How often each structure of a prediction meets each structure of the target.

    Parameters
    ----------
    values : label values of the structures, K of them.
    counts : (K + 1, K + 1) voxels, prediction by target; row and column 0 hold all other values.
    """

    values: tuple[int, ...]
    counts: NDArray[np.int64]

    def sizes(self, values: Sequence[int]) -> tuple[int, int, int]:
        """Voxels of the union of `values` in both maps at once, in the prediction, in the target.

        A value that is not among the confusion's own raises ValueError.
        """
        unknown = sorted(set(values) - set(self.values))
        if unknown:
            raise ValueError(f"values {unknown} were not counted; counted were {self.values}")
        rows = [1 + self.values.index(value) for value in dict.fromkeys(values)]
        both = self.counts[np.ix_(rows, rows)].sum()
        return int(both), int(self.counts[rows].sum()), int(self.counts[:, rows].sum())

    def dice(self, values: Sequence[int]) -> float:
        """Dice of the union of `values`: nan where neither map has it, 0 where only one has."""
        both, predicted, wanted = self.sizes(values)
        return 2 * both / (predicted + wanted) if predicted + wanted else math.nan


def _classes(labels: NDArray[Any], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of each label within `values`, counted from 1; 0 for every other label."""
    flat = labels.reshape(-1)
    low, high = int(values.min()), int(values.max())
    if high - low < LARGEST_TABLE:
        table = np.zeros(high - low + 3, np.int64)
        table[values - (low - 1)] = np.arange(1, len(values) + 1)
        bounded = np.clip(flat.astype(np.int64, copy=False), low - 1, high + 1)
        return table[bounded - (low - 1)]
    order = np.argsort(values)
    place = np.minimum(np.searchsorted(values[order], flat), len(values) - 1)
    return np.where(values[order][place] == flat, order[place] + 1, 0)


def confusion(prediction: Any, target: Any, values: Sequence[int]) -> Confusion:
    """Joint histogram of two integer label maps of one shape.

    Parameters
    ----------
    prediction, target : integer arrays or CPU tensors of the same shape.
    values : label values that are structures; all others count as one background.

    Maps of different shape, and maps that are not integers, raise ValueError.
    """
    prediction, target = np.asarray(prediction), np.asarray(target)
    if prediction.shape != target.shape:
        raise ValueError(
            f"label maps of one shape are needed; got {prediction.shape} and {target.shape}"
        )
    for labels in (prediction, target):
        if labels.dtype.kind not in "iub":
            raise ValueError(f"integer label maps are needed; got {labels.dtype}")
    kept = tuple(dict.fromkeys(int(value) for value in values))
    n = len(kept) + 1
    if not kept:
        return Confusion((), np.array([[prediction.size]], np.int64))
    array = np.array(kept, np.int64)
    joint = _classes(prediction, array) * n + _classes(target, array)
    return Confusion(kept, np.bincount(joint, minlength=n * n).reshape(n, n))


def dice(prediction: Any, target: Any, values: Sequence[int]) -> dict[int, float]:
    """Dice of each structure; nan where neither map has it, 0 where only one has.

    Parameters
    ----------
    prediction, target : integer arrays or CPU tensors of the same shape.
    values : label values of the structures, without the background.
    """
    counted = confusion(prediction, target, values)
    return {value: counted.dice([value]) for value in counted.values}


def dice_groups(
    prediction: Any, target: Any, groups: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Dice of each named group of structures, a group being the union of its label values."""
    values = [value for members in groups.values() for value in members]
    counted = confusion(prediction, target, values)
    return {name: counted.dice(members) for name, members in groups.items()}
