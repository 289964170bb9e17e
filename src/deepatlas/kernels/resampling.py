"""Images, label maps and displacements through a chain of maps, by the kernels of `following`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepatlas.kernels import empty, flat, in_parts

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # for any type


@dataclass(frozen=True, eq=False)
class Chain:
    """A map in voxels, from a grid to another by way of those of its fields.

    Parameters
    ----------
    matrices : (d + 1, d + 1) float64, one more than fields: to the first field's grid, from there
        to the next, in the end to the last grid.
    fields : (d, *S) float32 displacements in voxels, contiguous.
    """

    matrices: Sequence[Tensor]
    fields: Sequence[Tensor]

    def drift(self, shape: Sequence[int]) -> float:
        """Voxels that a voxel of a grid of this shape comes to lie off another, at most.

        Infinite with fields, whose voxels are anywhere.
        """
        if self.fields:
            return math.inf
        matrix = self.matrices[0]
        off = (matrix - matrix.round()).abs()[:-1]
        return float((off[:, :-1] @ torch.tensor(shape).double() + off[:, -1]).max())

    def arguments(self) -> tuple[Any, ...]:
        """What the kernels take."""
        d = len(self.matrices[0]) - 1
        wide = np.zeros((len(self.matrices), 3, 4))
        wide[:, 0, 0] = 1
        for into, matrix in zip(wide, self.matrices, strict=True):
            into[3 - d :, 3 - d :] = matrix[:-1].numpy()
        shapes = np.array([_three(field.shape[1:]) for field in self.fields], np.int64)
        fields = [flat(field) for field in self.fields] or [np.empty(0, np.float32)]
        together = fields[0] if len(fields) == 1 else np.concatenate(fields)
        return wide, together, shapes.reshape(-1, 3), d


def _three(shape: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + tuple(shape)


def _rows(grid: Sequence[int]) -> int:
    return math.prod(grid[:-2]) if len(grid) > 2 else 1


def values(image: Tensor, chain: Chain, grid: Sequence[int], outside: float) -> Tensor:
    """Linear values (*grid) of a contiguous float32 image, see `spatial.transform.resample`."""
    from deepatlas.kernels.following import values as fill  # numba, slow to import

    out = empty(grid)
    where = *chain.arguments(), _three(grid), _three(image.shape)
    in_parts(fill, _rows(grid), *where, flat(image), flat(out), np.float32(outside))
    return out


def nearest(image: Tensor, chain: Chain, grid: Sequence[int], outside: float) -> Tensor:
    """Values (*grid) of the nearest voxels of a contiguous image, in its type."""
    from deepatlas.kernels.following import copies

    out = torch.empty(grid, dtype=image.dtype)
    beyond = torch.full((1,), outside, dtype=image.dtype)
    kind = _WORDS[image.element_size()]
    words = [flat(x.view(-1).view(kind)) for x in (image, out, beyond)]
    where = *chain.arguments(), _three(grid), _three(image.shape)
    in_parts(copies, _rows(grid), *where, words[0], words[1], words[2][0])
    return out


def displacement(chain: Chain, grid: Sequence[int]) -> Tensor:
    """How far (d, *grid) each voxel of the grid comes to lie from where it was."""
    from deepatlas.kernels.following import steps

    out = empty((len(grid), *grid))
    in_parts(steps, _rows(grid), *chain.arguments(), _three(grid), flat(out))
    return out
