"""Rigid and affine maps of many moving scans to one fixed scan.

First level: a grid of rotations of every start is looked at, and the best are followed by
Gauss-Newton steps. Then, from several turned versions of what was found, by shifts of small pieces
(`sites`), which get out of wrong rotations that gradients stay in. Last, Gauss-Newton steps again.

Between two subjects no linear map is right everywhere, and where it is not, strong edges would pull
it away from the middle way. So in the last steps smooth bends are found beside the linear map, by
the same equations; they are orthogonal to it and thrown away in the end. What is left is about
the least-squares fit to the map between the two anatomies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from deepatlas.classical.match import BlockNCC, Equations, Maps, Match
from deepatlas.classical.pyramid import Level
from deepatlas.classical.sites import Sites
from deepatlas.spatial import transform
from deepatlas.spatial.matrix import Kind, generators, to_matrix

T = TypeVar("T", Maps, Equations)


SCALES = (0.5, 2.0)  # plausible stretch along any direction; no step leads out of them
_STILL = 0.01  # of the level's spacing: less movement than this in a step ends the descent
_DAMPING, _LESS, _MORE = 1e-2, 0.3, 8.0  # Levenberg-Marquardt
_COARSE_TURNS = tuple(itertools.product((-40.0, -20.0, 0.0, 20.0, 40.0), repeat=3))  # degrees
_FINE_TURNS = (
    (0.0, 0.0, 0.0),
    *((a, 0.0, 0.0) for a in (14.0, -14.0)),
    *((0.0, a, 0.0) for a in (14.0, -14.0)),
    *((0.0, 0.0, a) for a in (14.0, -14.0)),
    *itertools.product((-9.0, 9.0), repeat=3),
)
_FOLLOWED = (16, 6, 2)  # maps that are followed at the first level, from there, and to the last
_TRIES = 18  # starts at the second level, turned versions of those
_STEPS, _STRIDE = 6, 4  # of sites
_DEGREE, _POINTS = 5, 60_000  # of bends
_AT_ONCE = 125  # maps of a scan, to save memory
_BEND = 0.04  # expected length of bends and of shifts of sites, of the foreground's extent
_EVIDENCE = 16  # independent values in a block, about, over the variance of their residuals


@dataclass(frozen=True)
class Rigid:
    """Rotation and shift.

    Parameters
    ----------
    search : look at rotations of up to 40 degrees about every axis before the first step.
    """

    search: bool = True

    def begin(self, starts: Sequence[Sequence[transform.Affine]]) -> Maps:
        """The state before the first level, from as many starts for every moving scan."""
        return _begin(starts)

    def improve(
        self, state: Maps, level: Level, similarity: BlockNCC, *, first: bool, last: bool
    ) -> Maps:
        """The state after a level."""
        return _improve(("rigid",), self.search, state, level, similarity, first, last)

    def transforms(self, state: Maps) -> list[transform.Transform]:
        """What was found, one map for every moving scan."""
        return [transform.Affine(matrix[0]) for matrix in state.matrices]


@dataclass(frozen=True)
class Affine:
    """Rotation, shift, scales and shears; first rigid, then of one scale, then free.

    Parameters
    ----------
    search : look at rotations of up to 40 degrees about every axis before the first step.
    """

    search: bool = True

    def begin(self, starts: Sequence[Sequence[transform.Affine]]) -> Maps:
        """The state before the first level, from as many starts for every moving scan."""
        return _begin(starts)

    def improve(
        self, state: Maps, level: Level, similarity: BlockNCC, *, first: bool, last: bool
    ) -> Maps:
        """The state after a level."""
        kinds: tuple[Kind, ...] = ("rigid", "similarity", "affine") if first else ("affine",)
        return _improve(kinds, self.search, state, level, similarity, first, last)

    def transforms(self, state: Maps) -> list[transform.Transform]:
        """What was found, one map for every moving scan."""
        return [transform.Affine(matrix[0]) for matrix in state.matrices]


def _begin(starts: Sequence[Sequence[transform.Affine]]) -> Maps:
    return Maps(torch.stack([torch.stack([start.matrix for start in own]) for own in starts]))


def _improve(
    kinds: Sequence[Kind],
    search: bool,
    state: Maps,
    level: Level,
    similarity: BlockNCC,
    first: bool,
    last: bool,
) -> Maps:
    match = similarity.match(level)
    spread = _BEND * match.blocks.extent_mm
    if first:
        if search:
            state = _best(match, _turned(match, state, _COARSE_TURNS), _FOLLOWED[0])
        for kind in kinds:
            state, now = descend(match, state, kind, steps=8, spacing_mm=level.spacing_mm)
        return _distinct(match, state, now.cost, _FOLLOWED[1], level.spacing_mm)
    if search and not last:
        state = _turned(match, state, _FINE_TURNS[: max(1, _TRIES // state.matrices.shape[1])])
    state, cost = _settled(level, state, kinds[-1], spread, wide=not last)
    if not last:
        return _distinct(match, state, cost, _FOLLOWED[2], level.spacing_mm)
    state = _pick(state, cost.argsort(dim=1)[:, :1])
    match = similarity.match(level, degree=_DEGREE, points=_POINTS)
    state, _ = descend(
        match, state, kinds[-1], steps=10, spacing_mm=level.spacing_mm, bend_mm=spread
    )
    return Maps(state.matrices)


def _settled(
    level: Level, state: Maps, kind: Kind, sigma_mm: float, *, wide: bool
) -> tuple[Maps, Tensor]:
    """The maps as `Sites` improve them, and minus the evidence (B, C) for each.

    Parameters
    ----------
    wide : begin with pieces that lie twice as far off.
    """
    sites = Sites(level, stride=_STRIDE)
    matrices, costs = state.matrices.clone(), torch.zeros_like(state.matrices[..., 0, 0])
    sigmas = [(2.0 if wide and k < _STEPS // 2 else 1.0) * sigma_mm for k in range(_STEPS)]
    for number, maps in enumerate(matrices):
        for which, matrix in enumerate(maps):
            for sigma in sigmas:
                found, evidence = sites.step(number, matrix, kind, sigma)
                costs[number, which] = -evidence
                if not bool(_plausible(found)):
                    break
                matrix = found
            matrices[number, which] = matrix
    return Maps(matrices), costs


def _turned(match: Match, state: Maps, degrees: Sequence[Sequence[float]]) -> Maps:
    """Every map in every one of these rotations, about the middle of the fixed foreground."""
    d = len(match.middle)
    turns = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    if d == 2:  # of the axis that there is
        turns = turns[(turns[:, :2] == 0).all(dim=1), 2:]
    turns = torch.nn.functional.pad(turns, (0, d))
    rotations = to_matrix(turns, match.middle.cpu(), "rigid").to(state.matrices)
    return Maps((state.matrices.unsqueeze(2) @ rotations).flatten(1, 2))


def _best(match: Match, state: Maps, count: int) -> Maps:
    """The maps of least cost."""
    cost = torch.cat([match(Maps(part)).cost for part in state.matrices.split(_AT_ONCE, 1)], dim=1)
    return _pick(state, cost.argsort(dim=1)[:, :count])


def _distinct(match: Match, state: Maps, cost: Tensor, count: int, apart_mm: float) -> Maps:
    """The best maps of each scan that lie so far apart; as many of every scan, `count` at most."""
    one, other = Maps(state.matrices.unsqueeze(2)), Maps(state.matrices.unsqueeze(1))
    far = (_distance(match, one, other) > apart_mm).tolist()
    chosen: list[list[int]] = []
    for number, row in enumerate(cost.argsort(dim=1).tolist()):
        kept: list[int] = []
        for k in row:
            if len(kept) < count and all(far[number][k][q] for q in kept):
                kept.append(k)
        chosen.append(kept)
    most = max(len(kept) for kept in chosen)
    filled = [[kept[i % len(kept)] for i in range(most)] for kept in chosen]
    return _pick(state, torch.tensor(filled, device=cost.device))


def _pick(state: Maps, index: Tensor) -> Maps:
    """The maps of these numbers (B, n) of each scan."""

    def pick(x: Tensor) -> Tensor:
        return x.gather(1, index[:, :, None, None].expand(-1, -1, *x.shape[2:]))

    return Maps(pick(state.matrices), None if state.bent is None else pick(state.bent))


def descend(
    match: Match,
    maps: Maps,
    kind: Kind,
    *,
    steps: int,
    spacing_mm: float,
    bend_mm: float = 0.0,
) -> tuple[Maps, Equations]:
    """The maps after at most that many Levenberg-Marquardt steps, and what they cost.

    Parameters
    ----------
    bend_mm : root mean square length that bends are expected to have; 0 for no bends.
    """
    moves = generators(kind, match.middle.shape[0]).to(maps.matrices)
    stiffness = _stiffness(match, bend_mm)
    if bend_mm:
        assert match.bends is not None
        shape = (*maps.matrices.shape[:2], match.bends.shape[-1], len(match.middle))
        bent = maps.matrices.new_zeros(shape)
        if maps.bent is not None:  # polynomials of lower degree come first
            bent[:, :, : maps.bent.shape[2]] = maps.bent
        maps = Maps(maps.matrices, bent)
    now = match(maps, moves)
    damping = torch.full_like(now.cost, _DAMPING)
    for _ in range(steps):
        trial = _stepped(match, maps, now, kind, damping, stiffness)
        then = match(trial, moves)
        better = _total(then, trial, stiffness) < _total(now, maps, stiffness)
        better &= _plausible(trial.matrices)
        still = _distance(match, trial, maps) < _STILL * spacing_mm
        maps, now = _choose(better, trial, maps), _choose(better, then, now)
        damping = torch.where(better, damping * _LESS, damping * _MORE).clamp(1e-5, 1e5)
        if bool(still.all()):
            break
    return maps, now


def _stepped(
    match: Match, maps: Maps, now: Equations, kind: Kind, damping: Tensor, stiffness: float
) -> Maps:
    assert now.normal is not None
    assert now.slope is not None
    normal, slope = now.normal, now.slope
    n = len(generators(kind, len(match.middle)))
    if maps.bent is not None:
        pull = torch.zeros_like(slope)
        pull[..., n:] = stiffness * maps.bent.mT.flatten(-2)
        stiff = torch.zeros_like(slope)
        stiff[..., n:] = stiffness
        normal, slope = normal + torch.diag_embed(stiff), slope + pull
    diagonal = normal.diagonal(dim1=-2, dim2=-1)
    damped = normal + torch.diag_embed(damping.unsqueeze(-1) * diagonal + 1e-9)
    step = -torch.linalg.solve(damped, slope)
    moved = to_matrix(step[..., :n], match.centres(maps.matrices), kind) @ maps.matrices
    if maps.bent is None:
        return Maps(moved)
    return Maps(moved, maps.bent + step[..., n:].unflatten(-1, maps.bent.mT.shape[-2:]).mT)


def _stiffness(match: Match, bend_mm: float) -> float:
    """Weight of the bends' squared coefficients: their prior, over the number of blocks."""
    if not bend_mm or match.bends is None:
        return 0.0
    blocks, _, terms = match.bends.shape
    return terms * len(match.middle) / (bend_mm**2 * blocks * _EVIDENCE)


def _total(equations: Equations, maps: Maps, stiffness: float) -> Tensor:
    if maps.bent is None:
        return equations.cost
    return equations.cost + 0.5 * stiffness * maps.bent.square().sum((-1, -2))


def _plausible(matrices: Tensor) -> Tensor:
    """(B, C) bool: no direction is stretched beyond `SCALES`."""
    stretches = torch.linalg.svdvals(matrices[..., :-1, :-1])
    low, high = SCALES
    return (stretches.amin(-1) > low) & (stretches.amax(-1) < high)


def _distance(match: Match, one: Maps, other: Maps) -> Tensor:
    """(B, C) how far apart two maps take a point of the foreground, about."""
    change = one.matrices - other.matrices
    shift = change[..., :-1, :-1] @ match.middle + change[..., :-1, -1]
    turn = torch.linalg.matrix_norm(change[..., :-1, :-1])
    far = shift.norm(dim=-1) + turn * match.blocks.extent_mm / 4
    if one.bent is None or other.bent is None:
        return far
    return far + (one.bent - other.bent).square().sum((-1, -2)).sqrt()


def _choose(which: Tensor, one: T, other: T) -> T:
    """Of two, field by field, the first where `which` (B, C) says so."""

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        if a is None or b is None:
            return a
        return torch.where(which.reshape(*which.shape, *[1] * (a.ndim - 2)), a, b)

    fields: dict[str, Any] = {n: pick(a, getattr(other, n)) for n, a in vars(one).items()}
    return type(one)(**fields)
