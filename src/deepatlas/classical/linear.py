"""Rigid and affine maps of many moving scans to one fixed scan.

First level: a grid of rotations of every start is looked at, and the best are followed by
Gauss-Newton steps. Next levels: turned versions of what was found are followed, and beside every
map that is still a candidate a smooth deformation is found, to which the map is refitted
(`settle`). At the last level the best is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.classical.candidates import Candidates, plausible
from deepatlas.classical.match import BlockNCC, Equations, Match
from deepatlas.classical.pyramid import Level
from deepatlas.classical.settle import settle
from deepatlas.spatial import transform
from deepatlas.spatial.matrix import Kind, generators, to_matrix

Turns = tuple[tuple[float, ...], ...]


def _around_axes(degrees: float) -> Turns:
    return tuple(
        tuple(sign * degrees if n == axis else 0.0 for n in range(3))
        for axis in range(3)
        for sign in (1, -1)
    )


_STILL = 0.01  # of the level's spacing: less movement than this in a step ends the descent
_DAMPING, _LESS, _MORE = 1e-2, 0.3, 8.0  # Levenberg-Marquardt
_COARSE_TURNS: Turns = tuple(itertools.product((-40.0, -20.0, 0.0, 20.0, 40.0), repeat=3))  # deg
_FINE_TURNS: Turns = (
    (0.0, 0.0, 0.0),
    *_around_axes(14.0),
    *itertools.product((-9.0, 9.0), repeat=3),
)
_MIDDLE = ((8, 6), (16, 3))  # steps of settling, and how many maps they leave
_LAST = ((16, 2), (16, 1), (16, 1))
_TRIED, _FOLLOWED, _TRIES = 16, 4, 28  # maps at the first level, from it, turned
_AT_ONCE = 125  # maps of a scan, to save memory


@dataclass(frozen=True)
class Affine:
    """Rotation, shift, scales and shears; first rigid, then of one scale, then free.

    Parameters
    ----------
    search : look at rotations of up to 40 degrees about every axis before the first step.
    """

    search: bool = True
    kinds: ClassVar[tuple[Kind, ...]] = ("rigid", "similarity", "affine")

    def begin(self, starts: Sequence[Sequence[transform.Affine]]) -> Candidates:
        """The state before the first level, from as many starts for every moving scan."""
        return Candidates(torch.stack([torch.stack([s.matrix for s in own]) for own in starts]))

    def improve(
        self, state: Candidates, level: Level, similarity: BlockNCC, *, first: bool, last: bool
    ) -> Candidates:
        """The state after a level."""
        match = similarity.match(level)
        if first:
            state = Candidates(self._searched(match, state.matrices, level.spacing_mm))
        if last:
            return self._rounds(level, state, _LAST)
        if first:
            return state
        if self.search:
            turns = _FINE_TURNS[: max(1, _TRIES // state.matrices.shape[1])]
            state = Candidates(_turned(match, state.matrices, turns))
        return self._rounds(level, state, _MIDDLE)

    def _rounds(
        self, level: Level, state: Candidates, rounds: Sequence[tuple[int, int]]
    ) -> Candidates:
        for steps, keep in rounds:
            state = settle(level, state, self.kinds[-1], steps=steps, keep=keep)
        return state

    def transforms(self, state: Candidates) -> list[transform.Transform]:
        """What was found, one map for every moving scan."""
        return [transform.Affine(matrix[0]) for matrix in state.matrices]

    def _searched(self, match: Match, matrices: Tensor, spacing_mm: float) -> Tensor:
        if self.search:
            matrices = _best(match, _turned(match, matrices, _COARSE_TURNS), _TRIED)
        for kind in self.kinds:
            matrices, now = descend(match, matrices, kind, steps=8, spacing_mm=spacing_mm)
        return _distinct(match, matrices, now.cost, _FOLLOWED, spacing_mm)


@dataclass(frozen=True)
class Rigid(Affine):
    """Rotation and shift.

    Parameters
    ----------
    search : look at rotations of up to 40 degrees about every axis before the first step.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("rigid",)


def _turned(match: Match, matrices: Tensor, degrees: Turns) -> Tensor:
    """Every map in every one of these rotations, about the middle of the fixed foreground."""
    d = len(match.middle)
    turns = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    if d == 2:  # of the axis that there is
        turns = turns[(turns[:, :2] == 0).all(dim=1), 2:]
    rotations = to_matrix(F.pad(turns, (0, d)), match.middle.cpu(), "rigid").to(matrices)
    return (matrices.unsqueeze(2) @ rotations).flatten(1, 2)


def _best(match: Match, matrices: Tensor, count: int) -> Tensor:
    """The maps of least cost."""
    cost = torch.cat([match(part).cost for part in matrices.split(_AT_ONCE, 1)], dim=1)
    return _pick(matrices, cost.argsort(dim=1)[:, :count])


def _distinct(match: Match, matrices: Tensor, cost: Tensor, count: int, apart_mm: float) -> Tensor:
    """The best maps of each scan that lie so far apart; as many of every scan, `count` at most."""
    far = (_distance(match, matrices.unsqueeze(2), matrices.unsqueeze(1)) > apart_mm).tolist()
    chosen: list[list[int]] = []
    for number, order in enumerate(cost.argsort(dim=1).tolist()):
        kept: list[int] = []
        for k in order:
            if len(kept) < count and all(far[number][k][q] for q in kept):
                kept.append(k)
        chosen.append(kept)
    most = max(len(kept) for kept in chosen)
    filled = [[kept[i % len(kept)] for i in range(most)] for kept in chosen]
    return _pick(matrices, torch.tensor(filled, device=cost.device))


def _pick(matrices: Tensor, index: Tensor) -> Tensor:
    """The maps of these numbers (B, n) of each scan."""
    return matrices.gather(1, index[:, :, None, None].expand(-1, -1, *matrices.shape[2:]))


def descend(
    match: Match, matrices: Tensor, kind: Kind, *, steps: int, spacing_mm: float
) -> tuple[Tensor, Equations]:
    """The maps (B, C, d + 1, d + 1) after at most so many Levenberg-Marquardt steps, with costs."""
    moves = generators(kind, match.middle.shape[0]).to(matrices)
    now = match(matrices, moves)
    damping = torch.full_like(now.cost, _DAMPING)
    for _ in range(steps):
        trial = _stepped(match, matrices, now, kind, damping)
        then = match(trial, moves)
        better = (then.cost < now.cost) & plausible(trial)
        still = _distance(match, trial, matrices) < _STILL * spacing_mm
        matrices = torch.where(better[..., None, None], trial, matrices)
        now = then.where(better, now)
        damping = torch.where(better, damping * _LESS, damping * _MORE).clamp(1e-5, 1e5)
        if bool(still.all()):
            break
    return matrices, now


def _stepped(match: Match, matrices: Tensor, now: Equations, kind: Kind, damping: Tensor) -> Tensor:
    assert now.normal is not None
    assert now.slope is not None
    diagonal = now.normal.diagonal(dim1=-2, dim2=-1)
    damped = now.normal + torch.diag_embed(damping.unsqueeze(-1) * diagonal + 1e-9)
    step = -torch.linalg.solve(damped, now.slope)
    return to_matrix(step, match.centres(matrices), kind) @ matrices


def _distance(match: Match, one: Tensor, other: Tensor) -> Tensor:
    """How far apart two maps take a point of the foreground, about."""
    change = one - other
    shift = change[..., :-1, :-1] @ match.middle + change[..., :-1, -1]
    turn = torch.linalg.matrix_norm(change[..., :-1, :-1])
    return shift.norm(dim=-1) + turn * match.blocks.extent_mm / 4
