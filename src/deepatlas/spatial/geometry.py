"""Where voxels lie: shape and voxel-to-world affine (RAS mm), and images that carry them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 0.02  # of a voxel
SLAB_POINTS = 1 << 17  # that are worked on at a time


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in the world.

    Parameters
    ----------
    shape : voxels along each array axis (i, j[, k]), 2 or 3 of them.
    affine : (d + 1, d + 1) float64, voxel index to RAS mm.
    """

    shape: tuple[int, ...]
    affine: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        affine = torch.as_tensor(self.affine).detach().to("cpu", torch.float64, copy=True)
        object.__setattr__(self, "affine", affine)
        d = len(self.shape)
        if d not in (2, 3) or min(self.shape) < 1 or affine.shape != (d + 1, d + 1):
            raise ValueError(
                f"a geometry needs 2 or 3 axes and a square affine of one more; "
                f"got shape {self.shape} and an affine of {tuple(affine.shape)}"
            )

    @staticmethod
    def axis_aligned(
        shape: Sequence[int], spacing_mm: Sequence[float], centre_mm: Sequence[float] | None = None
    ) -> Geometry:
        """A grid along the RAS axes whose middle lies at `centre_mm` (default: the origin)."""
        d = len(shape)
        affine = torch.eye(d + 1, dtype=torch.float64)
        affine[:d, :d] = torch.diag(torch.tensor(list(spacing_mm), dtype=torch.float64))
        middle = (torch.tensor(list(shape), dtype=torch.float64) - 1) / 2
        where = [0.0] * d if centre_mm is None else list(centre_mm)
        centre = torch.tensor(where, dtype=torch.float64)
        affine[:d, d] = centre - affine[:d, :d] @ middle
        return Geometry(tuple(shape), affine)

    @property
    def ndim(self) -> int:
        """Number of axes of space, 2 or 3."""
        return len(self.shape)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Distance between neighbouring voxels along each array axis."""
        return tuple(torch.linalg.norm(self.affine[:-1, :-1], dim=0).tolist())

    @property
    def centre_mm(self) -> Tensor:
        """(d,) world position of the middle of the field of view."""
        return self.to_mm((torch.tensor(self.shape, dtype=torch.float64) - 1) / 2)

    def to_mm(self, index: Tensor) -> Tensor:
        """World points (..., d) of voxel indices (..., d)."""
        return index.to(torch.float64) @ self.affine[:-1, :-1].T + self.affine[:-1, -1]

    def to_index(self, points_mm: Tensor) -> Tensor:
        """Voxel indices (..., d), fractional, of world points (..., d)."""
        inverse = torch.linalg.inv(self.affine)
        return points_mm.to(torch.float64) @ inverse[:-1, :-1].T + inverse[:-1, -1]

    def points_mm(self) -> Tensor:
        """World position of every voxel, (*shape, d), float64."""
        return self._rows_mm(0, self.shape[0])

    def slabs(self, points: int = SLAB_POINTS) -> Iterator[tuple[slice, Tensor]]:
        """World positions a few rows of the first axis at a time, to save memory.

        Yields the rows and their positions (rows, *shape[1:], d), float64, about `points` of them.
        """
        step = max(1, points // math.prod(self.shape[1:]))
        for start in range(0, self.shape[0], step):
            stop = min(start + step, self.shape[0])
            yield slice(start, stop), self._rows_mm(start, stop)

    def _rows_mm(self, start: int, stop: int) -> Tensor:
        axes = [torch.arange(n, dtype=torch.float64) for n in self.shape]
        axes[0] = axes[0][start:stop]
        return self.to_mm(torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1))

    def corners_mm(self) -> Tensor:
        """World positions of the 2^d corner voxels, (2^d, d)."""
        ends = itertools.product(*[(0, n - 1) for n in self.shape])
        return self.to_mm(torch.tensor(list(ends), dtype=torch.float64))

    def padded(self, margin: int) -> Geometry:
        """The grid with `margin` more voxels on every side."""
        affine = self.affine.clone()
        affine[:-1, -1] = self.to_mm(torch.full((self.ndim,), -float(margin)))
        return Geometry(tuple(n + 2 * margin for n in self.shape), affine)

    def same_as(self, other: Geometry, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have one shape and their corners coincide within `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        return bool((self.corners_mm() - other.corners_mm()).abs().max() <= tolerance_mm)

    def coincides_with(self, other: Geometry) -> bool:
        """Whether both are one grid but for rounding in headers, up to 2 % of a voxel.

        A qform in float32 rounds that much where its turn is near 180 degrees.
        """
        return self.same_as(other, _ROUNDING * min(other.spacing_mm))


def drift(matrix: Tensor, shape: Sequence[int]) -> float:
    """Voxels that those of a grid of this shape lie off the voxels of another, at most.

    Parameters
    ----------
    matrix : (d + 1, d + 1) float64, from the voxels of the grid to those of the other.
    """
    off = (matrix - matrix.round()).abs()[:-1]
    return float((off[:, :-1] @ torch.tensor(shape).double() + off[:, -1]).max())


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label map: values (*shape) and where they lie."""

    data: Tensor
    geometry: Geometry

    def __post_init__(self) -> None:
        if tuple(self.data.shape) != self.geometry.shape:
            raise ValueError(
                f"data of shape {tuple(self.data.shape)} on a grid of {self.geometry.shape}"
            )
