"""Transforms of the world: fixed mm -> moving mm, and the one resampling through them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from deepatlas.kernels import resampling, usable
from deepatlas.spatial.field import invert
from deepatlas.spatial.geometry import Geometry, Volume, drift
from deepatlas.spatial.grid import identity_grid, interpolate
from deepatlas.spatial.velocity import integrate

FADE_VOXELS = 16  # beyond its grid a displacement fades to zero over this margin or more
COINCIDE_VOXELS = 1e-4  # closer to a voxel's centre than this, its value is taken as it is
_SMALL_BOX, _WIDEST_BOX = 1 << 24, 8  # voxels an inverse may have; above, times those of the map


class Transform(ABC):
    """A map of points, fixed mm to moving mm (RAS)."""

    @abstractmethod
    def __call__(self, points_mm: Tensor) -> Tensor:
        """Moving points (..., d) float64 of fixed points (..., d)."""

    @abstractmethod
    def inverse(self) -> Transform:
        """The map from moving to fixed."""

    @abstractmethod
    def parts(self) -> list[Affine | DisplacementField]:
        """What it is made of, in order of application; neighbouring affine maps as one."""

    def displacement(self, grid: Geometry) -> Tensor:
        """Displacement (d, *shape), float32, in voxels of `grid`, at each of its voxels."""
        if (chain := _chain(grid, self, grid)) is not None:
            return resampling.displacement(chain, grid.shape)
        out = torch.empty(grid.ndim, *grid.shape)
        for rows, points in grid.slabs():
            step = grid.to_index(self(points)) - grid.to_index(points)
            out[:, rows] = step.movedim(-1, 0).float()
        return out


class Affine(Transform):
    """x -> A x + t, given as a (d + 1, d + 1) float64 matrix acting on RAS mm."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = torch.as_tensor(matrix).detach().to("cpu", torch.float64, copy=True)
        n = len(self.matrix)
        if self.matrix.shape != (n, n) or not self.matrix[-1].equal(torch.eye(n)[-1].double()):
            raise ValueError(f"not an affine matrix whose last row is 0 .. 0 1: {matrix}")

    @staticmethod
    def identity(ndim: int) -> Affine:
        """The map x -> x."""
        return Affine(torch.eye(ndim + 1, dtype=torch.float64))

    @staticmethod
    def translation(offset_mm: Sequence[float] | Tensor) -> Affine:
        """The map x -> x + offset."""
        offset = torch.as_tensor(offset_mm, dtype=torch.float64)
        matrix = torch.eye(len(offset) + 1, dtype=torch.float64)
        matrix[:-1, -1] = offset
        return Affine(matrix)

    @property
    def ndim(self) -> int:
        """Dimensions of space, 2 or 3."""
        return len(self.matrix) - 1

    def __call__(self, points_mm: Tensor) -> Tensor:
        points = points_mm.to(torch.float64)
        return points @ self.matrix[:-1, :-1].T + self.matrix[:-1, -1]

    def inverse(self) -> Affine:
        return Affine(torch.linalg.inv(self.matrix))

    def parts(self) -> list[Affine | DisplacementField]:
        return [self]


def _own(field: Tensor, geometry: Geometry) -> Tensor:
    """A copy of a field (d, *shape), float32 on the CPU; ValueError where it is not on the grid."""
    if tuple(field.shape) != (geometry.ndim, *geometry.shape):
        raise ValueError(f"a field of shape {tuple(field.shape)} on a grid of {geometry.shape}")
    copied = field.detach().to("cpu", torch.float32, copy=True)
    return copied.contiguous()  # a copy keeps the order of memory


def fade_margin(field: Tensor) -> int:
    """Voxels over which `DisplacementField.faded` lets a field (d, *shape) fade."""
    length = torch.linalg.norm(field, dim=0)
    ends = [length.select(a, end) for a in range(length.ndim) for end in (0, -1)]
    largest = max(float(face.max()) for face in ends)
    most = max(FADE_VOXELS, 2 * max(length.shape))
    return min(max(FADE_VOXELS, math.ceil(2 * largest)), most)


class DisplacementField(Transform):
    """x -> x + u(x), u given in voxels on a grid and zero outside it, as ITK takes it.

    Within half a voxel of the outermost voxels' centres u keeps their value, beyond that it is
    zero at once; `faded` makes a field without that jump.

    Parameters
    ----------
    displacement : (d, *shape) in voxels of `geometry`, component n along array axis n.
    """

    def __init__(self, displacement: Tensor, geometry: Geometry) -> None:
        self.voxels = _own(displacement, geometry)
        self.geometry = geometry

    @classmethod
    def faded(cls, displacement: Tensor, geometry: Geometry) -> DisplacementField:
        """A field that goes on beyond its grid and fades to zero there, on a padded grid.

        Outside the grid u is that of the nearest voxel, times a factor that falls linearly with
        the distance from it. The margin is `FADE_VOXELS`, and more where u is large at the
        border, so that no point is overtaken by one behind it, up to twice the size of the grid.
        """
        voxels = _own(displacement, geometry)
        if not bool(voxels.isfinite().all()):
            raise ValueError("the displacement has values that are NaN or infinite")
        margin = fade_margin(voxels)
        padded = geometry.padded(margin)
        away = torch.zeros(padded.shape)
        for axis, (size, wide) in enumerate(zip(geometry.shape, padded.shape, strict=True)):
            index = torch.arange(wide) - margin
            nearest = index.clamp(0, size - 1)
            voxels = voxels.index_select(axis + 1, nearest)
            line = (
                (index - nearest)
                .square()
                .reshape([-1 if n == axis else 1 for n in range(away.ndim)])
            )
            away += line
        voxels *= away.sqrt_().div_(-margin).add_(1).clamp_(min=0)
        return cls(voxels, padded)

    @property
    def ndim(self) -> int:
        """Dimensions of space, 2 or 3."""
        return self.geometry.ndim

    def __call__(self, points_mm: Tensor) -> Tensor:
        index = self.geometry.to_index(points_mm)
        size = torch.tensor(self.geometry.shape, dtype=torch.float64)
        within = ((index >= -0.5) & (index < size - 0.5)).all(dim=-1, keepdim=True)
        step = torch.where(within, interpolate(self.voxels, index), 0.0)
        return self.geometry.to_mm(index + step)

    def reach(self) -> tuple[Tensor, Tensor]:
        """First index and size (d,), float64, of the box of voxels that its grid is taken to.

        Raises
        ------
        ValueError : steps that lead so far away that an inverse on that box would fill the memory.
        """
        reached = (identity_grid(self.geometry.shape)[0] + self.voxels).flatten(1)
        first = reached.amin(dim=1).add(1e-3).floor().double()
        size = (reached.amax(dim=1).sub(1e-3).ceil().double() - first + 1).clamp(min=1)
        own = math.prod(self.geometry.shape)
        if not float(size.prod()) <= max(_SMALL_BOX, _WIDEST_BOX * own):
            raise ValueError(
                f"some steps of its field lead far away, so that its inverse would have "
                f"{float(size.prod()):.1e} voxels, and the field has {own:.1e}"
            )
        return first, size

    def inverse(self) -> DisplacementField:
        """The inverse on the box of voxels that this map takes its grid to.

        Beyond what the map reaches, within that box, it is that of the map continued by its border
        values; beyond the box it is the identity, as everywhere for a field.

        Raises
        ------
        ValueError : see `reach`.
        """
        first, size = self.reach()
        shape = size.long().tolist()
        voxels = invert(self.voxels.unsqueeze(0), first=first.long().tolist(), shape=shape)[0]
        affine = self.geometry.affine.clone()
        affine[:-1, -1] = self.geometry.to_mm(first)
        return DisplacementField(voxels, Geometry(tuple(shape), affine))

    def parts(self) -> list[Affine | DisplacementField]:
        return [self]


class VelocityField(Transform):
    """The flow of a stationary velocity at time one; backwards it is the inverse.

    The velocity fades beyond its grid (`DisplacementField.faded`) before it is integrated, so that
    the flow backwards is the inverse at and beyond the border too.

    Parameters
    ----------
    velocity : (d, *shape) in voxels of `geometry`.
    """

    def __init__(self, velocity: Tensor, geometry: Geometry, *, squarings: int = 7) -> None:
        self.velocity = _own(velocity, geometry)
        self.geometry = geometry
        self.squarings = squarings
        wide = DisplacementField.faded(self.velocity, geometry)
        flow = integrate(wide.voxels.unsqueeze(0), squarings=squarings)[0]
        self.field = DisplacementField(flow, wide.geometry)

    def __call__(self, points_mm: Tensor) -> Tensor:
        return self.field(points_mm)

    def inverse(self) -> VelocityField:
        return VelocityField(-self.velocity, self.geometry, squarings=self.squarings)

    def parts(self) -> list[Affine | DisplacementField]:
        return [self.field]


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

    def parts(self) -> list[Affine | DisplacementField]:
        found: list[Affine | DisplacementField] = []
        for part in (part for transform in self.transforms for part in transform.parts()):
            before = found[-1] if found else None
            if isinstance(part, Affine) and isinstance(before, Affine):
                found[-1] = Affine(part.matrix @ before.matrix)
            else:
                found.append(part)
        return found


def find_points(
    transform: Transform, inverse: Transform, points_mm: Tensor, *, steps: int = 20
) -> Tensor:
    """The points (..., d) that a transform takes to the given ones.

    More exact than its inverse, which knows a field's inverse at voxels and interpolates between.
    """
    start = found = inverse(points_mm)
    for _ in range(steps):
        change = start - inverse(transform(found))
        found = found + change
        if not bool((change.abs() > 1e-6).any()):
            break
    return found


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
    outside : the value outside the moving scan, beyond the faces of its outermost voxels. Between
        those voxels' centres and faces, half a voxel, an image keeps their value, as in ITK.

    Values that are no numbers spread to the places less than a voxel away, but a place on a voxel
    has the voxel's own. No gradient goes back.
    """
    data = volume.data.detach().cpu()
    data = data if labels else data.float()
    chain = _chain(onto, transform, volume.geometry)
    if chain is None:
        found = _by_points(Volume(data, volume.geometry), onto, transform, labels, outside)
    elif labels or (not chain.fields and drift(chain.matrices[0], onto.shape) < COINCIDE_VOXELS):
        found = resampling.nearest(data.contiguous(), chain, onto.shape, outside)
    else:
        found = resampling.linear(data.contiguous(), chain, onto.shape, outside)
    return Volume(found, onto)


def _by_points(
    volume: Volume, onto: Geometry, transform: Transform | None, labels: bool, outside: float
) -> Tensor:
    """What `resample` gives, by any map of points."""
    data = volume.data
    out = torch.empty(onto.shape, dtype=data.dtype)
    for rows, points in onto.slabs():
        index = volume.geometry.to_index(points if transform is None else transform(points))
        nearest = torch.floor(index.round(decimals=6) + 0.5)  # a half goes up, as in ITK
        last = torch.tensor(data.shape, dtype=torch.float64) - 1
        voxel = torch.minimum(nearest.clamp(min=0), last)
        inside = (voxel == nearest).all(dim=-1)
        if labels or (index - nearest).abs().max() < COINCIDE_VOXELS:  # nothing to interpolate
            values = data[tuple(voxel.nan_to_num(nan=0.0).long().unbind(-1))]
        else:
            values = interpolate(data.unsqueeze(0), index)[..., 0].to(out.dtype)
        out[rows] = torch.where(inside, values, torch.full((), outside, dtype=out.dtype))
    return out


def _chain(start: Geometry, transform: Transform | None, end: Geometry) -> resampling.Chain | None:
    """A map from the voxels of one grid to those of another; None where kernels cannot take it."""
    if not usable() or not (transform is None or _is_known(transform)):
        return None
    matrix = start.affine
    matrices, fields = [], []
    for part in [] if transform is None else transform.parts():
        if isinstance(part, Affine):
            matrix = part.matrix @ matrix
        else:
            matrices.append(torch.linalg.inv(part.geometry.affine) @ matrix)
            fields.append(part.voxels)
            matrix = part.geometry.affine
    return resampling.Chain([*matrices, torch.linalg.inv(end.affine) @ matrix], fields)


def _is_known(transform: Transform) -> bool:
    """Whether its parts, one after another, are all that it does."""
    if type(transform) is Composite:
        return all(_is_known(part) for part in transform.transforms)
    return type(transform) in (Affine, DisplacementField, VelocityField)
