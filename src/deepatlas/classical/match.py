"""How well moving scans match a fixed one under linear maps, with Gauss-Newton equations.

The measure is the normalised cross-correlation within blocks of the fixed scan (or in all of it),
so scans may differ in contrast and shading. With a_p and b_p the values of block p of both scans,
less their mean and divided by their length, 1 - ncc = |a_p - b_p|^2 / 2: a sum of squares, whose
Gauss-Newton equations come from the gradients of the moving scan alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepatlas.classical.pyramid import Level
from deepatlas.spatial.grid import sample

_EMPTY = 0.02  # below this (of an intensity range of 1) a voxel of a smoothed scan is background
_MARGIN = 2  # voxels of the level around the foreground that count too
_LEAST = 0.25  # of a block's voxels must lie within both fields of view


@dataclass(frozen=True, eq=False)
class Equations:
    """Of B scans and C maps of each.

    Parameters
    ----------
    cost : (B, C) mean of 1 - ncc over blocks.
    overlap : (B, C) share of the fixed foreground that lies within the moving field of view.
    normal, slope : (B, C, n, n) and (B, C, n); the Gauss-Newton step solves normal step = -slope.
    """

    cost: Tensor
    overlap: Tensor
    normal: Tensor | None = None
    slope: Tensor | None = None


class Match:
    """Points of the fixed scan in blocks, and the moving scans with their gradients.

    Parameters
    ----------
    level : the scans.
    block : voxels along the side of a block; None for one block that is the whole scan.
    floor : standard deviation (intensities span 1) below which a block says little.
    """

    def __init__(self, level: Level, block: int | None, floor: float, closed: Tensor) -> None:
        images = level.moving.images
        self.device, self.ndim = images.device, images.ndim - 2
        self.floor = floor
        self.closed = closed
        points, self.values, self.weights = _blocks(level, block)
        self.middle = (points * self.weights[..., None]).sum((0, 1)) / self.weights.sum()
        self.points = points.float()
        self.total = self.weights.sum()
        affines = torch.stack([g.affine for g in level.moving.geometries])
        self.to_index = torch.linalg.inv(affines).to(self.device)
        shapes = torch.tensor([g.shape for g in level.moving.geometries])
        self.last = (shapes - 1).to(self.device, torch.float32)
        self.channels = torch.cat([images, _gradients(images)], dim=1)

    def __call__(self, matrices: Tensor, generators: Tensor | None = None) -> Equations:
        """Cost of maps (B, C, d + 1, d + 1), and with (n, d, d + 1) generators the equations."""
        batch, maps = matrices.shape[:2]
        d = self.ndim
        flat = self.points.reshape(-1, d)
        to_index = (self.to_index[:, None] @ matrices).float()
        index = torch.einsum("bcij,nj->bicn", to_index[..., :d, :d], flat)
        index = index + to_index[..., :d, d].movedim(-1, 1).unsqueeze(-1)
        last = self.last[:, :, None, None]
        within = ((index >= -0.5) & (index <= last + 0.5)).all(dim=1)
        channels = self.channels if generators is not None else self.channels[:, :1]
        lead = [1] * (d - 2)
        sampled = sample(
            channels, index.reshape(batch, d, *lead, maps, -1), outside="border"
        ).reshape(batch, len(channels[0]), maps, *self.values.shape)
        within = within.reshape(batch, maps, *self.values.shape)
        counted = within | self.closed[:, None, None, None]
        weights = self.weights * counted
        moving = sampled[:, 0] * within
        gradients = None
        if generators is not None:
            linear = self.to_index[:, :d, :d].float()
            gradients = torch.einsum("bj...,bji->b...i", sampled[:, 1:], linear)
            gradients = gradients * within[..., None]
        return self._equations(matrices, moving, gradients, weights, generators)

    def _equations(
        self,
        matrices: Tensor,
        moving: Tensor,
        gradients: Tensor | None,
        weights: Tensor,
        generators: Tensor | None,
    ) -> Equations:
        n = self.values.shape[1]
        inside = weights.sum(-1)  # (B, C, P)
        inside = inside * (inside >= _LEAST * n)
        safe = inside.clamp_min(1e-6)[..., None]
        share = weights / safe
        a = moving - (share * moving).sum(-1, keepdim=True)
        b = self.values - (share * self.values).sum(-1, keepdim=True)
        weighted = share * a
        floor = self.floor**2
        scale_a = ((weighted * a).sum(-1) + floor).rsqrt()
        scale_b = ((share * b * b).sum(-1) + floor).rsqrt()
        ncc = (weighted * b).sum(-1) * scale_a * scale_b
        total = inside.sum(-1).clamp_min(1e-6) if self.values.shape[0] == 1 else self.total
        block = inside / (total[..., None] if torch.is_tensor(total) and total.ndim else total)
        cost = 1 - (block * ncc).sum(-1)
        overlap = inside.sum(-1) / self.total
        if gradients is None or generators is None:
            return Equations(cost, overlap)
        # columns of the Jacobian: gradient . (G (y - c, 1))
        centre = self.centres(matrices)
        placed = torch.einsum("bcij,pnj->bcpni", matrices[..., :-1, :-1].float(), self.points)
        placed = placed + (matrices[..., :-1, -1] - centre).float()[:, :, None, None]
        homogeneous = F.pad(placed, (0, 1), value=1.0)
        outer = (gradients[..., :, None] * homogeneous[..., None, :]).flatten(-2)
        jacobian = outer @ generators.float().flatten(1).T  # (B, C, P, n, k)
        jacobian = jacobian - torch.einsum("bcpn,bcpnk->bcpk", share, jacobian)[:, :, :, None]
        weighted_j = jacobian * share[..., None]
        along_a = torch.einsum("bcpn,bcpnk->bcpk", a, weighted_j) * scale_a[..., None]
        along_b = torch.einsum("bcpn,bcpnk->bcpk", b, weighted_j) * scale_b[..., None]
        slope = -(block * scale_a)[..., None] * (along_b - ncc[..., None] * along_a)
        per = block * scale_a.square()
        normal = torch.einsum("bcpnk,bcpnl->bckl", jacobian * per[..., None, None], weighted_j)
        normal = normal - torch.einsum("bcp,bcpk,bcpl->bckl", per, along_a, along_a)
        return Equations(cost, overlap, normal.double(), slope.sum(2).double())

    def centres(self, matrices: Tensor) -> Tensor:
        """(B, C, d) where the middle of the fixed foreground lies in the moving scans."""
        return matrices[..., :-1, :-1] @ self.middle + matrices[..., :-1, -1]


def _blocks(level: Level, block: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Points (P, n, d) mm, values and weights (P, n) of the fixed foreground, block by block."""
    image = level.fixed.images[0, 0]
    points = level.fixed.geometries[0].points_mm().to(image.device)
    pool = {2: F.max_pool2d, 3: F.max_pool3d}[image.ndim]
    foreground = (image > _EMPTY).float()[None, None]
    foreground = pool(foreground, 2 * _MARGIN + 1, stride=1, padding=_MARGIN)[0, 0]
    if block is None:
        chosen = foreground > 0
        return points[chosen][None], image[chosen][None], foreground[chosen][None]
    def cut(x: Tensor) -> Tensor:
        pad = [end for n in reversed(image.shape) for end in (0, -n % block)]
        x = F.pad(x[None], pad)[0] if x.ndim == image.ndim else torch.stack(
            [F.pad(c[None], pad)[0] for c in x.unbind(-1)], dim=-1)
        for axis in range(image.ndim):
            x = x.unflatten(axis * 2, (-1, block))
        order = [*range(0, 2 * image.ndim, 2), *range(1, 2 * image.ndim, 2)]
        rest = range(2 * image.ndim, x.ndim)
        return x.permute(*order, *rest).flatten(0, image.ndim - 1).flatten(1, image.ndim)
    weights = cut(foreground)
    kept = weights.sum(1) >= _LEAST * weights.shape[1]
    return cut(points)[kept], cut(image)[kept], weights[kept]


def _gradients(images: Tensor) -> Tensor:
    """Central differences (B, d, *S) per voxel."""
    found = []
    for axis in range(2, images.ndim):
        n = images.shape[axis]
        if n < 3:
            found.append(torch.zeros_like(images))
            continue
        inner = (images.narrow(axis, 2, n - 2) - images.narrow(axis, 0, n - 2)) * 0.5
        pad = [0, 0] * (images.ndim - 1 - axis) + [1, 1]
        found.append(F.pad(inner, pad))
    return torch.cat(found, dim=1)
