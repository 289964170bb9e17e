"""Scans at a coarser spacing, several of them side by side on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepatlas.spatial.geometry import Geometry, Volume

_BLUR = 0.5  # standard deviation of the smoothing, in voxels of the coarser grid


@dataclass(frozen=True, eq=False)
class Stack:
    """Scans of one resolution, padded at their ends to one shape.

    Parameters
    ----------
    images : (B, 1, *S), float32.
    geometries : of each scan, without the padding.
    """

    images: Tensor
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True, eq=False)
class Level:
    """What a model sees at one resolution: one fixed scan, and the moving ones."""

    spacing_mm: float
    fixed: Stack
    moving: Stack


def level(moving: Sequence[Volume], fixed: Volume, spacing_mm: float) -> Level:
    """All scans at that spacing, or at their own where it is coarser."""
    return Level(spacing_mm, _stack([fixed], spacing_mm), _stack(moving, spacing_mm))


def coarsen(volume: Volume, spacing_mm: float) -> Volume:
    """A scan smoothed and sampled along its own axes; axes that are coarser already stay."""
    data, affine = volume.data, volume.geometry.affine.clone()
    for axis, (n, step) in enumerate(
        zip(volume.geometry.shape, volume.geometry.spacing_mm, strict=True)
    ):
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


def _stack(volumes: Sequence[Volume], spacing_mm: float) -> Stack:
    coarse = [coarsen(volume, spacing_mm) for volume in volumes]
    shape = [max(v.geometry.shape[axis] for v in coarse) for axis in range(coarse[0].data.ndim)]
    images = coarse[0].data.new_zeros(len(coarse), 1, *shape)
    for image, volume in zip(images, coarse, strict=True):
        image[(0, *[slice(n) for n in volume.geometry.shape])] = volume.data
    return Stack(images, tuple(volume.geometry for volume in coarse))
