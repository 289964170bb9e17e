"""Label values of files to class indices of networks and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

_COUNTABLE = 1 << 20  # below this, counting is much faster than sorting


@dataclass(frozen=True)
class LabelRule:
    """What the values of label files stand for.

    Parameters
    ----------
    members : structure -> the file's values that make it; every other value is background. Empty
        where each value is a structure of its own.
    ignored : values of voxels of which nothing is known.
    """

    members: Mapping[int, tuple[int, ...]] = field(default_factory=dict, hash=False)
    ignored: tuple[int, ...] = ()

    def __call__(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The values of structures, 0 where ignored, and where that is (None if nowhere can be).

        Parameters
        ----------
        labels : int64 of any shape, as they stand in a file.
        """
        where = None
        if self.ignored:
            where = torch.isin(labels, torch.tensor(self.ignored))
            labels = torch.where(where, 0, labels)
        if self.members:
            pairs = sorted((value, s) for s, values in self.members.items() for value in values)
            position, found = _positions(labels, [0, *(value for value, _ in pairs)])
            structures = torch.tensor([0, *(structure for _, structure in pairs)])
            labels = torch.where(found, structures[position], 0)
        return labels, where

    def structures(self, values: Iterable[int]) -> tuple[int, ...]:
        """The structures, ascending, of which these values of files are part."""
        seen = set(values) - {0, *self.ignored}
        if not self.members:
            return tuple(sorted(seen))
        return tuple(sorted(s for s, members in self.members.items() if seen & set(members)))

    def annotated(self, values: Collection[int] | None) -> tuple[int, ...] | None:
        """The structures that were annotated where these values were: all their values, that is.

        None, for all, stays None.
        """
        if values is None or not self.members:
            return None if values is None else tuple(values)
        return tuple(s for s, members in self.members.items() if set(members) <= set(values))


def label_values(labels: Tensor) -> tuple[int, ...]:
    """The values other than 0 that occur in an int64 label map, ascending."""
    flat = labels.reshape(-1).numpy()
    if flat.size == 0:
        return ()
    if flat.min() >= 0 and flat.max() < _COUNTABLE:
        found = np.flatnonzero(np.bincount(flat))
    else:
        found = np.unique(flat)
    return tuple(int(value) for value in found if value != 0)


def class_dtype(count: int) -> torch.dtype:
    """The integer type in which `count` foreground classes and the background are kept."""
    return torch.uint8 if count <= 255 else torch.int16


def labels_to_classes(labels: Tensor, values: Sequence[int]) -> Tensor:
    """Class k + 1 where a label equals values[k], 0 where it is 0; exact for any int64.

    Parameters
    ----------
    labels : integers of any shape.
    values : ascending label values without 0; gaps are welcome.

    Returns
    -------
    uint8, or int16 for more than 255 values; the shape of `labels`.

    Raises
    ------
    ValueError : a label is neither 0 nor among `values`.
    """
    labels = labels.to(torch.int64)
    position, found = _positions(labels, _ascending(values))
    unknown = ~found & (labels != 0)
    if unknown.any():
        strange = torch.unique(labels[unknown])[:5].tolist()
        raise ValueError(f"label values {strange} are not among the known {len(values)}")
    return torch.where(found, position, 0).to(class_dtype(len(values)))


def classes_to_labels(classes: Tensor, values: Sequence[int]) -> Tensor:
    """The inverse of `labels_to_classes`: int64 label values of class indices."""
    return torch.tensor(_ascending(values), dtype=torch.int64)[classes.long()]


def _positions(labels: Tensor, table: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Index of each label in a table, 0 and then ascending values, and whether it stands there."""
    known = torch.tensor(table, dtype=torch.int64)
    if len(known) == 1:
        position = torch.zeros_like(labels)
    else:
        position = torch.searchsorted(known[1:], labels.contiguous()) + 1
        position = position.clamp(max=len(known) - 1)
    return position, known[position] == labels


def _ascending(values: Sequence[int]) -> list[int]:
    """Label value of each class, background first."""
    ascending = list(values)
    if ascending != sorted(set(ascending)) or 0 in ascending:
        raise ValueError(f"expected ascending label values without 0, got {ascending[:8]}")
    return [0, *ascending]
