"""How well one label map matches another: all measures of one scan or pair together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepatlas.evaluation.dice import confusion
from deepatlas.evaluation.surface import hd95_mm, image_diagonal_mm


@dataclass(frozen=True)
class Scores:
    """Measures of a predicted label map against the true one.

    Parameters
    ----------
    dice : of each structure; nan if in neither map (not counted), 0 if in one only.
    groups : Dice of each named group, the union of its structures.
    hd95_mm : of each structure; nan if in neither map, inf if in one only; empty if not asked for.
    missed : structures that the target has and the prediction has not.
    spurious : structures that the prediction has and the target has not.
    missed_groups : groups of which the target has a structure and the prediction none.
    diagonal_mm : of the image, what a structure without a distance counts in
        `mean_hd95_mm_with_misses`.
    not_annotated : structures that were not annotated, of which nothing is said.
    not_annotated_groups : groups that hold one.
    ignored_voxels : voxels that were left out of both maps.
    """

    dice: dict[int, float]
    groups: dict[str, float]
    hd95_mm: dict[int, float]
    missed: tuple[int, ...]
    spurious: tuple[int, ...]
    missed_groups: tuple[str, ...]
    diagonal_mm: float
    not_annotated: tuple[int, ...] = ()
    not_annotated_groups: tuple[str, ...] = ()
    ignored_voxels: int = 0

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the structures that either map has; nan if there are none."""
        return _mean(value for value in self.dice.values() if not math.isnan(value))

    @property
    def mean_hd95_mm(self) -> float:
        """Mean distance of the structures that both maps have; nan if there are none."""
        return _mean(value for value in self.hd95_mm.values() if math.isfinite(value))

    @property
    def mean_hd95_mm_with_misses(self) -> float:
        """Mean distance where a structure that one map lacks counts the image diagonal."""
        counted = [value for value in self.hd95_mm.values() if not math.isnan(value)]
        return _mean(min(value, self.diagonal_mm) for value in counted)


def score_labels(
    prediction: Any,
    target: Any,
    *,
    values: Sequence[int],
    spacing_mm: Sequence[float],
    groups: Mapping[str, Sequence[int]] | None = None,
    annotated: Collection[int] | None = None,
    ignored: Any = None,
    distances: bool = True,
) -> Scores:
    """All measures of a predicted label map against the true one on the same grid.

    Parameters
    ----------
    prediction, target : integer arrays or CPU tensors of one shape.
    values : label values of the structures; the background 0 is never scored.
    spacing_mm : distance between voxels along each array axis.
    groups : name -> label values; values that are not among `values` are left out of a group.
    annotated : values that were annotated in the target, None for all; other structures, and
        groups that hold one, are nan.
    ignored : bool, of the maps' shape: voxels of which nothing is known. Both maps are background
        there, so a structure ends where they begin, in the prediction as in the target.
    distances : whether surface distances are measured too.
    """
    if ignored is not None:
        prediction, target = (np.where(ignored, 0, labels) for labels in (prediction, target))
    structures = [int(value) for value in dict.fromkeys(values) if value != 0]
    scored = [v for v in structures if annotated is None or v in annotated]
    counted = confusion(prediction, target, scored)
    sizes = {value: counted.sizes([value]) for value in scored}
    unions: dict[str, float] = {}
    missed_groups, unknown_groups = [], []
    for name, members in (groups or {}).items():
        union = [value for value in members if value in structures]
        complete = bool(union) and set(union) <= set(scored)
        unions[name] = counted.dice(union) if complete else math.nan
        if complete and _lacks(counted.sizes(union)):
            missed_groups.append(name)
        if not set(union) <= set(scored):
            unknown_groups.append(name)
    distance = hd95_mm(prediction, target, scored, spacing_mm) if distances else {}
    return Scores(
        dice={v: counted.dice([v]) if v in scored else math.nan for v in structures},
        groups=unions,
        hd95_mm={v: distance.get(v, math.nan) for v in structures} if distances else {},
        missed=tuple(value for value in scored if _lacks(sizes[value])),
        spurious=tuple(v for v in scored if sizes[v][1] and not sizes[v][2]),
        missed_groups=tuple(missed_groups),
        diagonal_mm=image_diagonal_mm(tuple(target.shape), spacing_mm),
        not_annotated=tuple(value for value in structures if value not in scored),
        not_annotated_groups=tuple(unknown_groups),
        ignored_voxels=0 if ignored is None else int(np.count_nonzero(ignored)),
    )


def _lacks(sizes: tuple[int, int, int]) -> bool:
    """Whether the target has what the prediction has not."""
    _, predicted, wanted = sizes
    return wanted > 0 and predicted == 0


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else math.nan
