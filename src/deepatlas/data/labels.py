"""Label values of files to class indices of networks and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_COUNTABLE = 1 << 20  # below this, counting is much faster than sorting


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
    table = _table(values)
    labels = labels.to(torch.int64)
    if len(table) == 1:
        position = torch.zeros_like(labels)
    else:
        position = torch.searchsorted(table[1:], labels.contiguous()) + 1
        position = position.clamp(max=len(table) - 1)
    found = table[position] == labels
    unknown = ~found & (labels != 0)
    if unknown.any():
        strange = torch.unique(labels[unknown])[:5].tolist()
        raise ValueError(f"label values {strange} are not among the known {len(values)}")
    return torch.where(found, position, 0).to(class_dtype(len(values)))


def classes_to_labels(classes: Tensor, values: Sequence[int]) -> Tensor:
    """The inverse of `labels_to_classes`: int64 label values of class indices."""
    return _table(values)[classes.long()]


def _table(values: Sequence[int]) -> Tensor:
    """Label value of each class, background first."""
    ascending = list(values)
    if ascending != sorted(set(ascending)) or 0 in ascending:
        raise ValueError(f"expected ascending label values without 0, got {ascending[:8]}")
    return torch.tensor([0, *ascending], dtype=torch.int64)
