"""Intensities to [0, 1]: by percentiles, and by matching histograms with a reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_PART = 1 << 18  # voxels scaled at a time, because float64 is wide
_QUANTILES = tuple(k / 20 for k in range(1, 20))  # of the voxels above 0; 0 and 1 stay as they are


def scale(image: Tensor, percentiles: tuple[float, float]) -> Tensor:
    """Map the two percentiles of the finite voxels to 0 and 1 and clip there; float32.

    Where both percentiles are one value (nearly everything is background), the least and the
    greatest voxel take their place. A constant image becomes 0.
    """
    values = image.numpy()
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return torch.zeros_like(image, dtype=torch.float32)
    low, high = (float(v) for v in np.percentile(finite, percentiles, overwrite_input=True))
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    if high <= low:
        return torch.zeros_like(image, dtype=torch.float32)
    del finite
    out = torch.empty_like(image, dtype=torch.float32)
    rows = max(1, _PART * len(image) // max(1, image.numel()))
    for part, scaled in zip(image.split(rows), out.split(rows), strict=True):
        scaled.copy_(part.double().sub_(low).div_(high - low).clamp_(0, 1).nan_to_num_(0.0))
    return out


def landmarks(scaled: Tensor) -> tuple[float, ...]:
    """Quantiles (0.05, 0.1, ..., 0.95) of the voxels above 0 of a scaled image.

    The empty background of a skull-stripped or masked scan, of which scans have different
    shares, is 0 after scaling and so has no say (landmarks as in Nyul et al. 2000).
    """
    values = scaled.numpy().ravel()
    inside = values[values > 0]
    return tuple(float(v) for v in np.quantile(inside, _QUANTILES)) if inside.size else _QUANTILES


def match(scaled: Tensor, reference: Sequence[float]) -> Tensor:
    """Give a scaled image the landmarks of a reference, linear between them; float32 in [0, 1]."""
    own = np.array([0.0, *landmarks(scaled), 1.0])
    aim = np.array([0.0, *reference, 1.0])
    points = np.unique(own)  # equal landmarks (few grey values) share the mean of their aims
    aims = np.array([aim[own == point].mean() for point in points])
    aims[0], aims[-1] = 0.0, 1.0
    matched = np.interp(scaled.numpy(), points, aims)
    return torch.from_numpy(matched.astype(np.float32))
