"""How well moving scans match a fixed one under given maps, with Gauss-Newton equations.

The measure is the normalised cross-correlation within blocks of the fixed scan, so scans may differ
in contrast and shading. With a and b the values of a block in both scans, less their means and
divided by their lengths, 1 - ncc = |a - b|^2 / 2: a sum of squares, whose Gauss-Newton equations
need the gradient of the moving scan alone. A block outside the moving field of view counts as
uncorrelated, so that nothing is gained by pushing scans out of overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepatlas.classical.blocks import Blocks, cut
from deepatlas.classical.pyramid import Level, Stack
from deepatlas.spatial.grid import sample
from deepatlas.spatial.transform import Transform

_POINTS = 8_000  # of a level that are looked at, at most
_WITHIN = 0.25  # of a block's voxels must lie within the moving field of view, else it is outside


@dataclass(frozen=True, eq=False)
class Equations:
    """What B scans under C maps each give.

    Parameters
    ----------
    cost : (B, C) mean over blocks of 1 - ncc.
    overlap : (B, C) share of the fixed foreground that lies within the moving field of view.
    normal, slope : (B, C, k, k) and (B, C, k), if asked for; the step solves normal s = -slope.
    """

    cost: Tensor
    overlap: Tensor
    normal: Tensor | None = None
    slope: Tensor | None = None

    def where(self, chosen: Tensor, other: Equations) -> Equations:
        """These where `chosen` (B, C) says so, the others elsewhere."""

        def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            if a is None or b is None:
                return None
            return torch.where(chosen.reshape(*chosen.shape, *[1] * (a.ndim - 2)), a, b)

        fields = {name: pick(value, getattr(other, name)) for name, value in vars(self).items()}
        return Equations(**fields)  # type: ignore[arg-type]


@dataclass(frozen=True)
class BlockNCC:
    """Mean normalised cross-correlation within blocks of the fixed scan's foreground.

    Parameters
    ----------
    block : voxels of a level along the side of a block.
    floor : standard deviation (intensities span 1) below which a block says little.
    """

    block: int = 6
    floor: float = 0.02

    def match(self, level: Level) -> Match:
        """The measure at work on a level."""
        blocks = cut(level.fixed, self.block, level.threshold, _POINTS)
        return Match(blocks, level.moving, level.closed, self.floor)


class Match:
    """Blocks of the fixed scan, and the moving scans with their gradients.

    Parameters
    ----------
    closed : (B,) bool, scans whose background is empty and goes on outside their field of view.
    floor : standard deviation (intensities span 1) below which a block says little.
    """

    def __init__(self, blocks: Blocks, moving: Stack, closed: Tensor, floor: float) -> None:
        self.blocks, self.closed, self.floor = blocks, closed, floor
        images = moving.images
        affines = torch.stack([grid.affine for grid in moving.geometries])
        shapes = torch.tensor([grid.shape for grid in moving.geometries])
        self.to_index = torch.linalg.inv(affines).to(images.device)
        self.last = (shapes - 1).to(images.device, torch.float32)
        self.middle = blocks.middle
        self.total = blocks.weights.sum()
        self.channels = torch.cat([images, _differences(images, shapes.to(images.device))], dim=1)

    def centres(self, matrices: Tensor) -> Tensor:
        """(B, C, d) where the middle of the fixed foreground lies in the moving scans."""
        return matrices[..., :-1, :-1] @ self.middle + matrices[..., :-1, -1]

    def __call__(self, matrices: Tensor, generators: Tensor | None = None) -> Equations:
        """Cost and overlap of maps (B, C, d + 1, d + 1); the equations for generators."""
        linear, shift = matrices[..., :-1, :-1].float(), matrices[..., :-1, -1].float()
        points = torch.einsum("bcij,pnj->bcpni", linear, self.blocks.points)
        points = points + shift[:, :, None, None]
        if generators is None:
            return self._compared(points)
        return self._compared(points, self.centres(matrices), generators)

    def _compared(
        self, points: Tensor, centres: Tensor | None = None, generators: Tensor | None = None
    ) -> Equations:
        """The same of moving points (B, C, P, n, d), mm; generators act about the centres."""
        values, gradients, within = self._sampled(points, generators is not None)
        counted = within | self.closed[:, None, None, None]
        weights = self.blocks.weights * counted
        inside = weights.sum(-1)
        inside = inside * (inside >= _WITHIN * self.blocks.weights.sum(-1))
        share = weights / inside.clamp_min(1e-6).unsqueeze(-1)
        a = values - (share * values).sum(-1, keepdim=True)
        b = self.blocks.values - (share * self.blocks.values).sum(-1, keepdim=True)
        scale_a = ((share * a * a).sum(-1) + self.floor**2).rsqrt()
        scale_b = ((share * b * b).sum(-1) + self.floor**2).rsqrt()
        ncc = (share * a * b).sum(-1) * scale_a * scale_b
        part = inside / self.total
        cost = 1 - (part * ncc).sum(-1).double()
        overlap = (self.blocks.weights * within).sum((-1, -2)).double() / self.total
        if centres is None or generators is None:
            return Equations(cost, overlap)
        arms = points - centres.float()[:, :, None, None]
        moves = self._moves(arms, gradients, generators.float())
        moves = moves - torch.einsum("bcpn,bcpnk->bcpk", share, moves).unsqueeze(-2)
        shared = moves * share.unsqueeze(-1)
        along_a = torch.einsum("bcpn,bcpnk->bcpk", a, shared) * scale_a.unsqueeze(-1)
        along_b = torch.einsum("bcpn,bcpnk->bcpk", b, shared) * scale_b.unsqueeze(-1)
        slope = ((part * scale_a).unsqueeze(-1) * (ncc.unsqueeze(-1) * along_a - along_b)).sum(2)
        per = part * scale_a.square()
        left, right = (moves * per[..., None, None]).flatten(2, 3), shared.flatten(2, 3)
        normal = left.mT @ right - (along_a * per.unsqueeze(-1)).mT @ along_a
        return Equations(cost, overlap, normal.double(), slope.double())

    def score(self, transforms: Sequence[Transform]) -> Equations:
        """Cost and overlap of one map of any kind for each moving scan, (B, 1)."""
        fixed = self.blocks.points.cpu()
        points = torch.stack([transform(fixed) for transform in transforms])
        return self._compared(points.to(self.blocks.points).unsqueeze(1))

    def _sampled(self, points: Tensor, wanted: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Values (B, C, P, n), gradients per mm (..., d) if wanted, and what lies within."""
        batch, maps, d = points.shape[0], points.shape[1], points.shape[-1]
        linear, shift = self.to_index[:, :d, :d].float(), self.to_index[:, :d, d].float()
        index = torch.einsum("bij,bcpnj->bcpni", linear, points) + shift[:, None, None, None]
        last = self.last[:, None, None, None]
        within = ((index >= -0.5) & (index <= last + 0.5)).all(dim=-1)
        channels = self.channels if wanted else self.channels[:, :1]
        lead = [1] * (d - 2)
        found = sample(
            channels, index.movedim(-1, 1).reshape(batch, d, *lead, maps, -1), outside="border"
        )
        found = found.reshape(batch, -1, *within.shape[1:]) * within.unsqueeze(1)
        if not wanted:
            return found[:, 0], found[:, 0], within
        return found[:, 0], torch.einsum("bjcpn,bji->bcpni", found[:, 1:], linear), within

    def _moves(self, arms: Tensor, gradients: Tensor, generators: Tensor) -> Tensor:
        """Change of the moving values (B, C, P, n, k) by each parameter."""
        arms = F.pad(arms, (0, 1), value=1.0)
        moves = (gradients.unsqueeze(-1) * arms.unsqueeze(-2)).flatten(-2)
        return moves @ generators.flatten(1).T


def _differences(images: Tensor, shapes: Tensor) -> Tensor:
    """Central differences (B, d, *S) per voxel; 0 at the borders of scans of shapes (B, d)."""
    found = []
    for axis in range(2, images.ndim):
        n = images.shape[axis]
        if n < 3:
            found.append(torch.zeros_like(images))
            continue
        inner = (images.narrow(axis, 2, n - 2) - images.narrow(axis, 0, n - 2)) * 0.5
        whole = F.pad(inner, [0, 0] * (images.ndim - 1 - axis) + [1, 1])
        own = torch.arange(n, device=images.device) < shapes[:, axis - 2, None] - 1
        found.append(
            whole * own.reshape(len(own), *[n if a == axis else 1 for a in range(1, whole.ndim)])
        )
    return torch.cat(found, dim=1)
