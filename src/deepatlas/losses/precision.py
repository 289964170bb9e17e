"""Losses are computed in float32 or wider, whatever autocast says."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import reduce

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """A context in which autocast is off on the tensor's device."""
    return torch.autocast(tensor.device.type, enabled=False)


def widen(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one type: float32, or float64 where one of them has it."""
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)
    return [x.to(dtype) for x in tensors]


def same_shape(one: Tensor, other: Tensor, names: str) -> None:
    """Raise ValueError unless the shapes agree: broadcasting would hide the mistake."""
    if one.shape != other.shape:
        raise ValueError(
            f"{names} must have the same shape; got {tuple(one.shape)} and {tuple(other.shape)}"
        )
