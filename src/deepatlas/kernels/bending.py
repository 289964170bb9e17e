"""Bending energy by the kernels of second and central differences, with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepatlas.kernels import empty, flat, in_parts, to_rows

_TERMS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # axes, as the kernel takes weights


def bending(
    field: Tensor, spacing_mm: Sequence[float], *, central: bool, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """The energy of `losses.regularity.Bending`, and its gradient where wanted.

    Parameters
    ----------
    field : (B, d, *S) float32 in voxels, on the CPU.
    spacing_mm : d positive numbers.
    central : mixed terms by central differences, at inner voxels only.

    Returns
    -------
    a scalar float32, and (B, d, *S).
    """
    # numba is slow to import
    if central:
        from deepatlas.kernels.central_differences import bending as kernel
    else:
        from deepatlas.kernels.second_differences import bending as kernel

    u = to_rows(field.detach())
    sizes, channels = u.shape[1:-1], u.shape[-1]
    lead = 3 - len(sizes)  # axes that 2-D lacks
    weights = [
        np.float32(_weight(a - lead, b - lead, sizes, spacing_mm, central) / len(u))
        for a, b in _TERMS
    ]
    scale = np.tile(np.square(np.asarray(spacing_mm, np.float32)), sizes[-1])
    shape = (*[1] * lead, *sizes)
    out = empty(u.shape if gradient else (0,))
    parts = in_parts(
        kernel, len(u) * shape[0], flat(u), flat(out), gradient, shape, channels, tuple(weights),
        scale,
    )  # fmt: skip
    return torch.tensor(sum(parts), dtype=torch.float32), out.movedim(-1, 1) if gradient else None


def _weight(
    a: int, b: int, sizes: Sequence[int], spacing_mm: Sequence[float], central: bool
) -> float:
    """Of one of the squares: mixed terms count twice, each is a mean over its places."""
    if min(a, b) < 0:
        return 0.0
    places = np.array(sizes, float)
    scale = (1 if a == b else 2) / (spacing_mm[a] * spacing_mm[b]) ** 2
    if central:
        return float(scale / (1 if a == b else 16) / (places - 2).prod())
    places[a] -= 1
    places[b] -= 1
    return float(scale / places.prod())
