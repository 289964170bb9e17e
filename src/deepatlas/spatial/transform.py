"""Transforms of the world: fixed mm -> moving mm, and the one resampling through them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from deepatlas.spatial.field import invert
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.grid import sample
from deepatlas.spatial.velocity import integrate

FADE_VOXELS = 16.0  # beyond its grid a displacement fades to zero over this margin


class Transform(ABC):
    """A map of points, fixed mm to moving mm (RAS)."""

    @abstractmethod
    def __call__(self, points_mm: Tensor) -> Tensor:
        """Moving points (..., d) float64 of fixed points (..., d)."""

    @abstractmethod
    def inverse(self) -> Transform:
        """The map from moving to fixed."""

    def displacement(self, grid: Geometry) -> Tensor:
        """Displacement (d, *shape), float32, in voxels of `grid`, at each of its voxels."""
        points = grid.points_mm()
        index = grid.to_index(self(points)) - grid.to_index(points)
        return index.movedim(-1, 0).float()


class Affine(Transform):
    """x -> A x + t, given as a (d + 1, d + 1) float64 matrix acting on RAS mm."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = torch.as_tensor(matrix).detach().to("cpu", torch.float64)

    @staticmethod
    def translation(offset_mm: Sequence[float] | Tensor) -> Affine:
        """The map x -> x + offset."""
        offset = torch.as_tensor(offset_mm, dtype=torch.float64)
        matrix = torch.eye(len(offset) + 1, dtype=torch.float64)
        matrix[:-1, -1] = offset
        return Affine(matrix)

    def __call__(self, points_mm: Tensor) -> Tensor:
        points = points_mm.to(torch.float64)
        return points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def inverse(self) -> Affine:
        return Affine(torch.linalg.inv(self.matrix))


class DisplacementField(Transform):
    """x -> x + u(x), u given in voxels on a grid and fading to zero outside it.

    Parameters
    ----------
    displacement : (d, *shape) in voxels of `geometry`, component n along array axis n.
    """

    def __init__(self, displacement: Tensor, geometry: Geometry) -> None:
        if tuple(displacement.shape) != (geometry.ndim, *geometry.shape):
            raise ValueError(
                f"a displacement of shape {tuple(displacement.shape)} on a grid of {geometry.shape}"
            )
        self.voxels = displacement.detach().to("cpu", torch.float32)
        self.geometry = geometry

    def __call__(self, points_mm: Tensor) -> Tensor:
        index = self.geometry.to_index(points_mm)
        flat = index.reshape(-1, self.geometry.ndim)
        query = flat.T.reshape(1, self.geometry.ndim, *[1] * (self.geometry.ndim - 1), -1)
        moved = sample(self.voxels.double().unsqueeze(0), query, outside="border")
        last = torch.tensor(self.geometry.shape, dtype=torch.float64) - 1
        beyond = torch.linalg.norm(flat - torch.minimum(flat.clamp(min=0), last), dim=-1)
        fade = (1 - beyond / FADE_VOXELS).clamp(min=0)
        step = moved.reshape(self.geometry.ndim, -1).T * fade[:, None]
        return self.geometry.to_mm(flat + step).reshape(points_mm.shape)

    def inverse(self) -> DisplacementField:
        return DisplacementField(invert(self.voxels.unsqueeze(0))[0], self.geometry)


class VelocityField(Transform):
    """The flow of a stationary velocity at time one; its inverse flows backwards.

    Parameters
    ----------
    velocity : (d, *shape) in voxels of `geometry`.
    """

    def __init__(self, velocity: Tensor, geometry: Geometry, *, squarings: int = 7) -> None:
        self.velocity = velocity.detach().to("cpu", torch.float32)
        self.geometry = geometry
        self.squarings = squarings
        flow = integrate(self.velocity.unsqueeze(0), squarings=squarings)[0]
        self.field = DisplacementField(flow, geometry)

    def __call__(self, points_mm: Tensor) -> Tensor:
        return self.field(points_mm)

    def inverse(self) -> VelocityField:
        return VelocityField(-self.velocity, self.geometry, squarings=self.squarings)


class Composite(Transform):
    """Several transforms one after another; the first of the list is applied first."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = tuple(transforms)

    def __call__(self, points_mm: Tensor) -> Tensor:
        for transform in self.transforms:
            points_mm = transform(points_mm)
        return points_mm

    def inverse(self) -> Composite:
        return Composite([t.inverse() for t in reversed(self.transforms)])


def resample(
    volume: Volume,
    onto: Geometry,
    transform: Transform | None = None,
    *,
    labels: bool = False,
    outside: float = 0.0,
) -> Volume:
    """An image or label map on another grid, by one interpolation.

    Parameters
    ----------
    volume : the moving scan; on its own grid.
    onto : the fixed grid.
    transform : fixed mm -> moving mm; None for the identity.
    labels : nearest neighbour, dtype and values kept; otherwise linear, float32.
    outside : the value beyond the moving scan's outermost voxel centres.
    """
    points = onto.points_mm()
    index = volume.geometry.to_index(points if transform is None else transform(points))
    nearest = index.round()
    if (index - nearest).abs().max() < 1e-4:  # grids coincide: nothing to interpolate
        index = nearest
        labels_like = True
    else:
        labels_like = labels
    if labels_like:
        data = _nearest(volume.data, index, outside)
    else:
        query = index.movedim(-1, 0).unsqueeze(0)
        image = (volume.data.double() - outside)[None, None]
        data = sample(image, query)[0, 0] + outside
    return Volume(data if labels else data.float(), onto)


def _nearest(data: Tensor, index: Tensor, outside: float) -> Tensor:
    """Look values up by the nearest voxel; exact for integers of any size."""
    nearest = index.round().long()
    last = torch.tensor(data.shape) - 1
    clamped = torch.minimum(nearest.clamp(min=0), last)
    inside = (clamped == nearest).all(dim=-1)
    values = data[tuple(clamped.unbind(-1))]
    return torch.where(inside, values, torch.full((), outside, dtype=data.dtype))
