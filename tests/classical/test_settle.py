"""Candidate maps are refitted and judged by the smooth deformations beside them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepatlas.classical.candidates import Candidates
from deepatlas.classical.pyramid import Level, level, ready, spacings
from deepatlas.classical.settle import _Adam, _Rounds, settle
from deepatlas.data.phantom import Phantom
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.matrix import fit, to_matrix

PHANTOM = Phantom(seed=11)
MOVING, FIXED = 25, 12


def drawn() -> tuple[Level, Tensor, Tensor]:
    """The finest level of a pair, points of the anatomy, and the best affine map."""
    scans = [PHANTOM.subject(k).image for k in (MOVING, FIXED)]
    moving, fixed = (ready(scan) for scan in scans)
    assert moving is not None
    assert fixed is not None
    inside = scans[1].geometry.points_mm()[scans[1].data > 0.3]
    best = fit(inside, PHANTOM.true_map(moving=MOVING, fixed=FIXED)(inside), "affine")
    return level([moving], fixed, spacings(fixed)[-1]), inside, best


def off(points: Tensor, degrees: float, shift_mm: float) -> Tensor:
    """A rotation about the first axis and a shift along it."""
    parameters = torch.tensor([math.radians(degrees), 0, 0, shift_mm, 0, 0], dtype=torch.float64)
    return to_matrix(parameters, points.mean(0), "rigid")


def error(matrix: Tensor, best: Tensor, points: Tensor) -> float:
    change = matrix - best
    return float((points @ change[:3, :3].T + change[:3, 3]).norm(dim=1).mean())


def test_what_leaves_the_field_of_view_is_not_preferred() -> None:
    finest, inside, best = drawn()
    candidates = torch.stack([best @ off(inside, 20, 0), best]).unsqueeze(0)
    found = settle(finest, Candidates(candidates), "affine", steps=20, keep=1)
    assert found.matrices.shape == (1, 1, 4, 4)
    assert error(found.matrices[0, 0], best, inside) < 1.5


def test_rounds_lead_towards_the_best_map() -> None:
    finest, inside, best = drawn()
    state = Candidates((best @ off(inside, 5, 2.5))[None, None])
    errors = [error(state.matrices[0, 0], best, inside)]
    for _ in range(2):
        state = settle(finest, state, "affine", steps=30, keep=1)
        errors.append(error(state.matrices[0, 0], best, inside))
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.9 * errors[1]


def test_candidates_do_not_touch_one_another() -> None:
    finest, inside, best = drawn()
    candidates = [best @ off(inside, 8, 0), best, best @ off(inside, 0, 3)]
    together = settle(finest, Candidates(torch.stack(candidates)[None]), "affine", steps=4, keep=3)
    for k, alone in enumerate(candidates):
        found = settle(finest, Candidates(alone[None, None]), "affine", steps=4, keep=1)
        nearest = min(float((m - found.matrices[0, 0]).abs().max()) for m in together.matrices[0])
        assert nearest < 1e-3, k


def test_rigid_maps_stay_rigid() -> None:
    finest, inside, _ = drawn()
    start = off(inside, 5, 2.5)[None, None]
    found = settle(finest, Candidates(start), "rigid", steps=10, keep=1).matrices[0, 0, :3, :3]
    torch.testing.assert_close(found.T @ found, torch.eye(3, dtype=torch.float64))


def test_nothing_moves_between_few_slices() -> None:
    """A displacement from a round before may: what the map left over is turned with it."""
    grid = Geometry.axis_aligned((24, 24, 2), (1.0, 1.0, 4.0))
    away = grid.points_mm()[..., :2].norm(dim=-1)
    scan = ready(Volume((8 - away).clamp(0, 4), grid))
    assert scan is not None
    rounds = _Rounds(level([scan], scan, 1.0), "affine")
    moved, counted = rounds._moved(0, torch.eye(4, dtype=torch.float64)[None])
    control = torch.ones(1, 3, *rounds.count)
    found = rounds._deformed(moved, counted, control, 3)
    assert bool((found[:, :2] != 0).all())
    assert not bool(found[:, 2].any())


@pytest.mark.parametrize("epsilon", [1e-8, 0.3])
def test_steps_are_those_of_pytorchs_adam(epsilon: float) -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.ones(3, 4, requires_grad=True) for _ in range(2))
    one, other = _Adam(ours, epsilon), torch.optim.Adam([theirs], lr=1.0, eps=epsilon)
    for rate in (0.3, 0.2, 0.1, 0.05):
        gradient = torch.randn(3, 4)
        one.step(gradient, rate)
        other.param_groups[0]["lr"] = rate
        theirs.grad = gradient
        other.step()
    assert float((ours.detach() - 1).abs().max()) > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
