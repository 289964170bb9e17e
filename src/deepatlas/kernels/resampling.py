"""Images, label maps and displacements through a chain of maps, by the kernels of `following`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepatlas.kernels import empty, flat, in_parts, three_axes

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # for any type


@dataclass(frozen=True, eq=False)
class Chain:
    """A map in voxels, from a grid to another by way of those of its fields.

    Parameters
    ----------
    matrices : (d + 1, d + 1) float64, one more than fields: to the first field's grid, from there
        to the next, in the end to the last grid.
    fields : (d, *S) float32 displacements in voxels, contiguous; several are copied into one.
    """

    matrices: Sequence[Tensor]
    fields: Sequence[Tensor]

    def arguments(self) -> tuple[Any, ...]:
        """What the kernels take."""
        d = len(self.matrices[0]) - 1
        wide = np.zeros((len(self.matrices), 3, 4))
        wide[:, 0, 0] = 1
        for into, matrix in zip(wide, self.matrices, strict=True):
            into[3 - d :, 3 - d :] = matrix[:-1].numpy()
        shapes = np.array([three_axes(field.shape[1:]) for field in self.fields], np.int64)
        fields = [flat(field) for field in self.fields] or [np.empty(0, np.float32)]
        together = fields[0] if len(fields) == 1 else np.concatenate(fields)
        return wide, together, shapes.reshape(-1, 3), d


def _run(kernel: Any, chain: Chain, grid: Sequence[int], *arguments: Any) -> None:
    D, H, W = three_axes(grid)
    in_parts(kernel, D * H, *chain.arguments(), (D, H, W), *arguments)


def linear(image: Tensor, chain: Chain, grid: Sequence[int], outside: float) -> Tensor:
    """Linear values (*grid) of a contiguous float32 image, see `spatial.transform.resample`."""
    from deepatlas.kernels.following import values_kernel  # numba, slow to import

    out, space = empty(grid), three_axes(image.shape)
    _run(values_kernel(True), chain, grid, space, flat(image), flat(out), np.float32(outside))
    return out


def nearest(image: Tensor, chain: Chain, grid: Sequence[int], outside: float) -> Tensor:
    """Values (*grid) of the nearest voxels of a contiguous image, in its type."""
    from deepatlas.kernels.following import values_kernel

    out = empty(grid, image.dtype)
    beyond = torch.full((1,), outside, dtype=image.dtype)
    kind = _WORDS[image.element_size()]
    words = [flat(x.view(-1).view(kind)) for x in (image, out, beyond)]
    space, kernel = three_axes(image.shape), values_kernel(False)
    _run(kernel, chain, grid, space, words[0], words[1], words[2][0])
    return out


def displacement(chain: Chain, grid: Sequence[int]) -> Tensor:
    """How far (d, *grid) each voxel of the grid comes to lie from where it was."""
    from deepatlas.kernels.following import displacements

    out = empty((len(grid), *grid))
    _run(displacements, chain, grid, flat(out))
    return out
