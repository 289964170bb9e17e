"""Where a fixed scan is looked at: its foreground, in blocks of neighbouring voxels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepatlas.classical.pyramid import Stack

_MARGIN = 1  # voxels of the level around the foreground that count too, where its outline shows
_FULL = 0.25  # of a block's voxels must count, else the block is left out


@dataclass(frozen=True, eq=False)
class Blocks:
    """P blocks of n points.

    Parameters
    ----------
    points : (P, n, d) mm, float32.
    values : (P, n) of the fixed scan.
    weights : (P, n), 1 in the foreground and a margin around it.
    core : (P, n), 1 in the foreground alone.
    """

    points: Tensor
    values: Tensor
    weights: Tensor
    core: Tensor

    @property
    def middle(self) -> Tensor:
        """(d,) mean point of the foreground, float64."""
        core = self.core.double().unsqueeze(-1)
        return (self.points * core).sum((0, 1)) / core.sum()

    @property
    def extent_mm(self) -> float:
        """Length of the longest side of the box around the foreground."""
        inside = self.points[self.core > 0]
        return float((inside.amax(0) - inside.amin(0)).max())


def cut(fixed: Stack, side: int, threshold: float, points: int) -> Blocks:
    """Blocks of `side` voxels along each axis, or all it has, that hold foreground.

    Where they would have more points than `points`, blocks are drawn, the same ones every time.
    """
    image, grid = fixed.images[0, 0], fixed.geometries[0]
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[image.ndim]
    core = (image > threshold).float()
    wide = pool(core[None, None], 2 * _MARGIN + 1, stride=1, padding=_MARGIN)[0, 0]
    places = grid.points_mm().float().to(image.device).movedim(-1, 0)
    maps = torch.cat([torch.stack([image, wide, core]), places])
    sides = [min(side, n) for n in image.shape]
    pad = [end for n, k in zip(image.shape, sides, strict=True) for end in (-n % k, 0)]
    maps = F.pad(maps, pad[::-1])
    for axis, k in enumerate(sides):
        maps = maps.unflatten(1 + 2 * axis, (-1, k))
    order = [*range(1, 2 * image.ndim, 2), *range(2, 2 * image.ndim + 1, 2)]
    maps = maps.permute(0, *order).flatten(1, image.ndim).flatten(2)
    filled = maps[1].sum(1)
    kept = torch.nonzero(filled >= min(_FULL * maps.shape[2], float(filled.max()))).flatten()
    most = max(1, points // maps.shape[2])
    if len(kept) > most:
        drawn = torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[:most]
        kept = kept[drawn.sort().values.to(kept.device)]
    image, wide, core, *axes = maps[:, kept].unbind(0)
    return Blocks(torch.stack(axes, dim=-1), image, wide, core)
