"""Scans at a coarser spacing, several of them side by side on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.spatial.geometry import Geometry, Volume

_ACROSS = (18, 24, 40)  # voxels of each level along the longest side of the foreground
_BLUR = 0.5  # standard deviation of the smoothing, in voxels of the coarser grid
_CLIPPED = 0.005  # of the voxels, at either end of the intensities
_LOOKED_AT = 1_000_000  # voxels that say where the ends are
_OPEN = 0.02  # of the voxels on a field of view's faces may be foreground, else it is cut there


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan ready to be matched.

    Parameters
    ----------
    volume : float32 in [0, 1], on the device where it is worked on.
    threshold : above it lies foreground.
    closed : its background is empty and goes on outside the field of view.
    """

    volume: Volume
    threshold: float
    closed: bool

    @property
    def centre_of_mass_mm(self) -> Tensor:
        """(d,) float64."""
        image = F.threshold(self.volume.data, self.threshold, 0.0)
        axes = range(image.ndim)
        along = [image.sum([a for a in axes if a != axis]).double().cpu() for axis in axes]
        index = [(mass * torch.arange(len(mass))).sum() / mass.sum() for mass in along]
        return self.volume.geometry.to_mm(torch.stack(index))


@dataclass(frozen=True, eq=False)
class Stack:
    """Scans of one resolution, whose last voxels are repeated up to one shape.

    Parameters
    ----------
    images : (B, 1, *S) float32.
    geometries : of each scan, without the padding.
    """

    images: Tensor
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True, eq=False)
class Level:
    """What a model sees at one resolution: a fixed scan, and the moving ones.

    Parameters
    ----------
    threshold : above it lies the fixed scan's foreground.
    closed : (B,) bool of the moving scans, see `Scan`.
    """

    spacing_mm: float
    fixed: Stack
    moving: Stack
    threshold: float
    closed: Tensor


def ready(volume: Volume, device: torch.device | str = "cpu") -> Scan | None:
    """The scan with its intensities clipped and scaled, or None if it is constant."""
    data = volume.data.to(device, torch.float32)
    some = data.flatten()[:: max(1, data.numel() // _LOOKED_AT)]
    numbers = (1 + round(end * (len(some) - 1)) for end in (_CLIPPED, 1 - _CLIPPED))
    low, high = (float(some.kthvalue(number).values) for number in numbers)
    if not high > low:
        low, high = float(data.min()), float(data.max())
    if not high > low:
        return None
    data = (data - low).div_(high - low).clamp_(0, 1)
    threshold = foreground_threshold(data)
    ends = [data.select(a, end) > threshold for a in range(data.ndim) for end in (0, -1)]
    cut = torch.cat([face.flatten() for face in ends]).float().mean()
    return Scan(Volume(data, volume.geometry), threshold, float(cut) < _OPEN)


def foreground_threshold(image: Tensor) -> float:
    """Half of the intensity that parts an image (0 to 1) into two classes best (Otsu 1979)."""
    counts = torch.histc(image, 64, 0.0, 1.0).double().cpu()
    middle = (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    below = counts.cumsum(0)
    above = below[-1] - below
    mass = (counts * middle).cumsum(0)
    apart = mass / below.clamp_min(1) - (mass[-1] - mass) / above.clamp_min(1)
    return float(middle[(below * above * apart.square()).argmax()]) / 2


def spacings(fixed: Scan) -> list[float]:
    """Spacings of the levels in mm, coarse to fine: 1/18, 1/24 and 1/40 of the foreground.

    None is finer than the scan's own finest.
    """
    inside = torch.nonzero(fixed.volume.data > fixed.threshold).cpu()
    sides = inside.amax(0) - inside.amin(0) + 1
    steps = fixed.volume.geometry.spacing_mm
    longest = max(n * step for n, step in zip(sides.tolist(), steps, strict=True))
    return [max(longest / n, min(steps)) for n in _ACROSS]


def level(moving: Sequence[Scan], fixed: Scan, spacing_mm: float) -> Level:
    """All scans at that spacing, or at their own where it is coarser."""
    target = _stack([fixed], spacing_mm)
    return Level(
        spacing_mm,
        target,
        _stack(moving, spacing_mm),
        min(fixed.threshold, float(target.images.max()) / 2),  # specks fade
        torch.tensor([scan.closed for scan in moving], device=fixed.volume.data.device),
    )


def coarsen(volume: Volume, spacing_mm: float) -> Volume:
    """A scan smoothed and sampled along its own axes; axes that are as coarse already stay."""
    data, affine = volume.data, volume.geometry.affine.clone()
    spacings = volume.geometry.spacing_mm
    for axis, (n, step) in enumerate(zip(volume.geometry.shape, spacings, strict=True)):
        factor = spacing_mm / step
        if factor < 1.2 or n < 2:
            continue
        size = max(2, math.ceil(n / factor - 1e-6))
        first = (n - 1) / 2 - (size - 1) / 2 * factor
        weights = _weights(n, size, factor, first).to(data)
        data = torch.tensordot(weights, data, dims=([1], [axis])).movedim(0, axis)
        affine[:-1, -1] += affine[:-1, axis] * first
        affine[:-1, axis] *= factor
    return Volume(data.contiguous(), Geometry(tuple(data.shape), affine))


def _weights(n: int, size: int, factor: float, first: float) -> Tensor:
    """(size, n) Gaussian weights, each row of sum 1, of samples `factor` voxels apart."""
    centres = first + factor * torch.arange(size, dtype=torch.float64)
    away = (torch.arange(n, dtype=torch.float64) - centres[:, None]) / (_BLUR * factor)
    weights = torch.exp(-0.5 * away.square())
    return weights / weights.sum(dim=1, keepdim=True)


def _stack(scans: Sequence[Scan], spacing_mm: float) -> Stack:
    coarse = [coarsen(scan.volume, spacing_mm) for scan in scans]
    shape = [max(v.geometry.shape[axis] for v in coarse) for axis in range(coarse[0].data.ndim)]
    images = []
    for volume in coarse:
        more = [n - own for n, own in zip(shape, volume.geometry.shape, strict=True)]
        ends = [end for n in reversed(more) for end in (0, n)]
        images.append(F.pad(volume.data[None, None], ends, mode="replicate"))
    return Stack(torch.cat(images), tuple(volume.geometry for volume in coarse))
