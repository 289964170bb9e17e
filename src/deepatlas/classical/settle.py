"""Linear maps settled by smooth deformations beside them.

Between two subjects no linear map is right everywhere, and where it is not, strong edges pull it
away from the least-squares fit to the map between the two anatomies. So a smooth displacement is
found beside every candidate, over the fixed scan's foreground the map is refitted to both together,
and the rest stays for the next round. Candidates that are off cannot be made as alike by a
deformation as smooth as those of the right one: the best is the one of least cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.classical.candidates import Candidates, plausible
from deepatlas.classical.control import ControlGrid
from deepatlas.classical.pyramid import Level
from deepatlas.losses.similarity.lncc import LocalNCC
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.grid import sample
from deepatlas.spatial.matrix import Kind, fit
from deepatlas.spatial.warp import warp

_ACROSS = 12  # control points of the displacement along the foreground's longest side
_WINDOW = 0.2  # side of the windows that are compared, of that side
_STIFFNESS = 0.05  # weight of the bending energy is the square of this share of that side, in mm^2
_MARGIN = 2  # voxels around the foreground that count too
_RATE = 0.45  # voxels in a step, about
_BEGIN = 3  # steps until the rate is reached; the first go anywhere where little is to gain
_CALM = 1e-6  # change of the mean correlation by a voxel's step of a control point that is noise
_FLAT = 1e-3  # the same of the linear part


def settle(level: Level, state: Candidates, kind: Kind, *, steps: int, keep: int) -> Candidates:
    """The best maps of every moving scan after a round of deforming and refitting, best first.

    Parameters
    ----------
    steps : of gradient descent.
    keep : how many maps of each scan.
    """
    rounds = _Rounds(level, kind)
    found = []
    for number in range(len(state.matrices)):
        matrices = state.matrices[number]
        control = None if state.displacements is None else state.displacements[number]
        matrices, control, costs = rounds(number, matrices, control, steps)
        order = costs.argsort()[:keep]
        found.append((matrices[order], control[order]))
    return Candidates(*(torch.stack(parts) for parts in zip(*found, strict=True)))


class _Adam:
    """Kingma & Ba 2015 for one tensor; that of PyTorch imports a compiler, which takes a second."""

    def __init__(self, values: Tensor, epsilon: float) -> None:
        self.values, self.epsilon, self.done = values, epsilon, 0
        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)

    @torch.no_grad()
    def step(self, gradient: Tensor, rate: float) -> None:
        """Change the values in place."""
        self.done += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        size = (self.square / (1 - 0.999**self.done)).sqrt_().add_(self.epsilon)
        self.values.addcdiv_(self.mean, size, value=-rate / (1 - 0.9**self.done))


class _Rounds:
    """One round for all candidates of a scan, which do not touch one another."""

    def __init__(self, level: Level, kind: Kind) -> None:
        self.level, self.kind = level, kind
        image, grid = level.fixed.images[0, 0], level.fixed.geometries[0]
        core = image > level.threshold
        inside = torch.nonzero(core)
        first = (inside.amin(0) - _MARGIN).clamp_min(0).tolist()
        ends = [
            min(n, k + _MARGIN + 1)
            for n, k in zip(image.shape, inside.amax(0).tolist(), strict=True)
        ]
        box = tuple(slice(a, b) for a, b in zip(first, ends, strict=True))
        affine = grid.affine.clone()
        affine[:-1, -1] = grid.to_mm(torch.tensor(first, dtype=torch.float64))
        short = [end for n in reversed(image[box].shape) for end in (0, max(0, 3 - n))]
        self.fixed = F.pad(image[box][None, None], short, mode="replicate")  # curvature needs 3
        self.core = F.pad(core[box], short)
        thick = torch.tensor([float(n >= 3) for n in image[box].shape]).to(image)
        self.free = thick.reshape(-1, *[1] * image.ndim)  # nothing moves between few slices
        self.grid = Geometry(tuple(self.core.shape), affine)
        self.points = self.grid.points_mm().to(image.device)
        d, shape = self.grid.ndim, self.grid.shape
        reach = self.points[self.core]
        extent_mm = max(float((reach.amax(0) - reach.amin(0)).max()), level.spacing_mm)
        spacing = self.grid.spacing_mm
        self.weight_mm2 = (_STIFFNESS * extent_mm) ** 2
        reached = round(_WINDOW * extent_mm / level.spacing_mm / 2)
        self.similarity = LocalNCC(window=2 * max(1, reached) + 1)
        sides = [n * step for n, step in zip(shape, spacing, strict=True)]
        wanted = [max(2, math.ceil(side * _ACROSS / extent_mm)) for side in sides]
        self.count = [min(pair) for pair in zip(wanted, shape, strict=True)]
        pool = {2: F.max_pool2d, 3: F.max_pool3d}[d]
        self.wide = pool(self.core[None, None].float(), 2 * _MARGIN + 1, stride=1, padding=_MARGIN)
        axes = [
            torch.linspace(0, n - 1, k, dtype=torch.float64)
            for n, k in zip(shape, self.count, strict=True)
        ]
        control = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        self.controls = ControlGrid(self.count, shape, spacing, self.fixed)
        ends = [torch.linspace(-1, 1, k) for k in self.count]
        tilts = [torch.ones(self.count), *torch.meshgrid(*ends, indexing="ij")]
        self.tilts = torch.stack(tilts).to(self.fixed)
        self.control = self.grid.to_mm(control).to(self.fixed.device)
        self.linear = self.grid.affine[:d, :d].to(self.fixed)  # voxels -> mm

    def __call__(
        self, number: int, matrices: Tensor, control: Tensor | None, steps: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Maps (C, d + 1, d + 1), displacements (C, d, *n) in mm and costs (C,) after a round."""
        moved, counted = self._moved(number, matrices)
        if control is None:
            control = self.fixed.new_zeros(len(matrices), self.grid.ndim, *self.count)
        else:  # the grids of two levels cover the same, up to a voxel
            control = _resized(control, self.count)
        control = self._deformed(
            moved,
            counted,
            torch.linalg.solve(self.linear, control.flatten(2)).reshape(control.shape),
            steps,
        )
        full = self.controls.spread(control)
        costs = self._costs(moved, counted, control, full)
        points = self.points[self.core]
        change = fit(points, points + self._mm(full)[:, :, self.core].mT.double(), self.kind)
        # What the map does not follow is left over: change(x + rest(x)) = x + u(x).
        ends = self.control + self._mm(control).movedim(1, -1).double()
        d = self.grid.ndim
        back = torch.linalg.inv(change)
        rest = torch.einsum("cij,c...j->c...i", back[:, :d, :d], ends)
        rest = rest + back[:, :d, d].reshape(-1, *[1] * d, d) - self.control
        settled = matrices @ change
        fine = plausible(settled)
        costs = torch.where(fine, costs, torch.inf)
        return (
            torch.where(fine[:, None, None], settled, matrices),
            rest.movedim(-1, 1).float(),
            costs,
        )

    def _deformed(self, moved: Tensor, counted: Tensor, control: Tensor, steps: int) -> Tensor:
        """Displacements (C, d, *n) in voxels at the control points, by Adam from given ones."""
        fixed = self.fixed.expand_as(moved)
        control = control * self.free
        tilt = control.new_zeros(*control.shape[:2], len(self.tilts))
        optimisers = [_Adam(control, _CALM), _Adam(tilt, _FLAT)]
        stiffness = 2 * self.weight_mm2
        for step in range(steps):
            slope = self._slope(moved, fixed, counted, control + self._tilted(tilt)) * self.free
            by_tilt = torch.einsum("cd...,k...->cdk", slope, self.tilts)
            by_control = slope + stiffness * self.controls.stiffness(control)
            by_control = self.controls.smooth(by_control).contiguous()
            rate = _RATE * min(1, (step + 1) / _BEGIN) * (1 + math.cos(math.pi * step / steps)) / 2
            for optimiser, gradient in zip(optimisers, (by_control, by_tilt), strict=True):
                optimiser.step(gradient, rate)
        return control + self._tilted(tilt)

    def _tilted(self, tilt: Tensor) -> Tensor:
        return torch.einsum("cdk,k...->cd...", tilt, self.tilts)

    def _slope(self, moved: Tensor, fixed: Tensor, counted: Tensor, control: Tensor) -> Tensor:
        """Gradient of what is unlike in each by its control points."""
        with torch.enable_grad():
            control = control.requires_grad_()
            warped = warp(moved, self.controls.spread(control), outside="border")
            unlike = self.similarity(warped, fixed, mask=counted)
            return torch.autograd.grad(len(control) * unlike, control)[0]

    def _costs(self, moved: Tensor, counted: Tensor, control: Tensor, full: Tensor) -> Tensor:
        """(C,); what does not count is uncorrelated, so nothing is gained by leaving the field."""
        warped = warp(moved, full, outside="border")
        rough = (self.controls.stiffness(control) * control).flatten(1).sum(1)
        costs = []
        for k in range(len(moved)):
            own = slice(k, k + 1)
            alike = 1 - self.similarity(warped[own], self.fixed, mask=counted[own])
            costs.append(1 - alike * counted[k].sum() / self.wide.sum())
        return (torch.stack(costs) + self.weight_mm2 * rough).double()

    def _moved(self, number: int, matrices: Tensor) -> tuple[Tensor, Tensor]:
        """The moving scan under every map, on the fixed grid, and where it counts, (C, 1, *S)."""
        moving, d = self.level.moving, self.grid.ndim
        own = moving.geometries[number]
        to_index = (torch.linalg.inv(own.affine).to(matrices) @ matrices)[:, :d]
        index = torch.einsum("cij,...j->ci...", to_index[..., :d], self.points)
        index = (index + to_index[..., d].reshape(-1, d, *[1] * d)).float()
        last = torch.tensor(own.shape, device=index.device).reshape(-1, *[1] * d) - 1
        within = ((index >= -0.5) & (index <= last + 0.5)).all(dim=1, keepdim=True)
        image = moving.images[number : number + 1].expand(len(index), *moving.images.shape[1:])
        counted = self.wide * (within | self.level.closed[number])
        return sample(image, index, outside="border") * within, counted

    def _mm(self, voxels: Tensor) -> Tensor:
        return torch.einsum("ij,cj...->ci...", self.linear, voxels)


def _resized(control: Tensor, count: Sequence[int]) -> Tensor:
    """Displacements at so many control points, from the first to the last on every axis."""
    mode = {2: "bilinear", 3: "trilinear"}[len(count)]
    return F.interpolate(control, size=tuple(count), mode=mode, align_corners=True)
