"""Linear maps from where small pieces of the fixed scan are found again in the moving one.

Under a linear map x -> M x, a piece of the fixed scan is found in the moving one a little way s off,
and s differs from piece to piece: it is taken as normal, with mean 0. All shifts s of up to some
voxels are tried, and the correlation there says how likely each is. The map that makes all pieces
most likely is found by expectation and maximisation (Dempster, Laird and Rubin 1977; the step from
Louis 1982): pieces whose place is certain in one direction alone, on a smooth surface, have no say
in the others. Unlike a gradient, this sees what lies voxels away.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from deepatlas.classical.pyramid import Level
from deepatlas.spatial.grid import sample
from deepatlas.spatial.matrix import Kind, generators, to_matrix

_SIDE = {2: 9, 3: 5}  # voxels of a piece
_REACH = 4  # voxels that it may lie off
_INDEPENDENT = 0.25  # of the voxels of a piece, since neighbours are alike
_FLOOR = 0.03  # standard deviation (intensities span 1) below which a piece says little
_CORE = 0.25  # of its voxels must be foreground
_RIDGE = 0.05  # keeps directions that nothing speaks about where they are


class Sites:
    """The pieces of a level's fixed scan.

    Parameters
    ----------
    stride : voxels from one piece to the next.
    """

    def __init__(self, level: Level, stride: int) -> None:
        image, grid = level.fixed.images[0, 0], level.fixed.geometries[0]
        d = image.ndim
        self.level, self.stride, self.side = level, stride, min(_SIDE[d], *image.shape)
        pieces = self._windows(image, self.side).flatten(1)
        core = self._windows((image > level.threshold).float(), self.side).flatten(1).mean(1)
        pieces = pieces - pieces.mean(1, keepdim=True)
        self.variance = pieces.square().mean(1)
        self.kept = torch.nonzero((core >= _CORE) & (self.variance > _FLOOR**2)).flatten()
        self.pieces, self.variance = pieces[self.kept], self.variance[self.kept]
        firsts = torch.cartesian_prod(
            *[torch.arange(0, n - self.side + 1, stride) for n in image.shape]
        )[self.kept.cpu()]
        centres = grid.to_mm(firsts + (self.side - 1) / 2).to(image.device)
        self.middle = centres.mean(0)
        self.centres = centres - self.middle
        steps = torch.cartesian_prod(*[torch.arange(-_REACH, _REACH + 1)] * d).double()
        self.shifts = (steps @ grid.affine[:d, :d].T).to(image.device)
        self.padded = grid.padded(_REACH)
        self.points = self.padded.points_mm().reshape(-1, d).float().to(image.device)

    def step(
        self, number: int, matrix: Tensor, kind: Kind, sigma_mm: float
    ) -> tuple[Tensor, float]:
        """A better map of that moving scan, and the mean log evidence of the given one.

        Parameters
        ----------
        matrix : (d + 1, d + 1) float64, fixed mm -> moving mm.
        sigma_mm : standard deviation of the pieces' shifts.
        """
        ncc = self._correlations(number, matrix).clamp(0, 0.999).double()
        likelihood = -0.5 * _INDEPENDENT * self.pieces.shape[1] * torch.log1p(-ncc.square())
        prior = -0.5 * self.shifts.square().sum(1) / sigma_mm**2
        joint = likelihood + prior - prior.logsumexp(0)
        evidence = joint.logsumexp(1)
        share = torch.exp(joint - evidence[:, None])
        mean = share @ self.shifts
        spread = torch.einsum("ps,si,sj->pij", share, self.shifts, self.shifts)
        spread = spread - mean[:, :, None] * mean[:, None, :]
        d = len(self.middle)
        one = torch.eye(d, dtype=torch.float64, device=matrix.device)
        known = (1 + _RIDGE) * one - spread / sigma_mm**2
        basis = generators(kind, d).to(matrix)
        moves = torch.einsum("kij,pj->pik", basis, F.pad(self.centres, (0, 1), value=1.0))
        normal = torch.einsum("pik,pij,pjl->kl", moves, known, moves)
        wanted = torch.einsum("pik,pi->k", moves, mean)
        change = torch.linalg.lstsq(normal, wanted[:, None]).solution[:, 0]
        return matrix @ to_matrix(change, self.middle, kind), float(evidence.mean())

    def _windows(self, image: Tensor, side: int) -> Tensor:
        """All windows (P, side, ...) of an image, `stride` apart."""
        d = image.ndim
        for axis in range(d):
            image = image.unfold(axis, side, self.stride)
        return image.reshape(-1, *[side] * d)

    def _correlations(self, number: int, matrix: Tensor) -> Tensor:
        """(P, shifts) of every piece with the moving scan, as the map puts it, at every shift."""
        windows = self._windows(self._mapped(number, matrix), self.side + 2 * _REACH)[self.kept]
        d, count = windows.ndim - 1, 2 * _REACH + 1
        pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[d]
        mean, square = (
            pool(x.unsqueeze(1), self.side, 1).squeeze(1) for x in (windows, windows.square())
        )
        pieces = self.pieces.unsqueeze(-1) / self.pieces.shape[1]
        found = torch.empty_like(mean)
        for place in itertools.product(range(count), repeat=d - 1):
            box = windows[(slice(None), *(slice(k, k + self.side) for k in place))]
            shifted = box.unfold(-1, self.side, 1).movedim(-2, 1).flatten(2)
            found[(slice(None), *place)] = (shifted @ pieces).squeeze(-1)
        scale = ((square - mean.square()).clamp_min(0) + _FLOOR**2).rsqrt().flatten(1)
        return found.flatten(1) * scale * (self.variance + _FLOOR**2).rsqrt().unsqueeze(1)

    def _mapped(self, number: int, matrix: Tensor) -> Tensor:
        """The moving scan on the fixed grid and a margin, 0 outside its field of view."""
        moving, d = self.level.moving, len(self.middle)
        grid = moving.geometries[number]
        to_index = (torch.linalg.inv(grid.affine).to(matrix) @ matrix).float()
        index = self.points @ to_index[:d, :d].T + to_index[:d, d]
        last = torch.tensor(grid.shape, device=index.device) - 1
        within = ((index >= -0.5) & (index <= last + 0.5)).all(dim=1)
        index = index.T.reshape(1, d, *self.padded.shape)
        values = sample(moving.images[number : number + 1], index, outside="border")[0, 0]
        return values * within.reshape(self.padded.shape)
