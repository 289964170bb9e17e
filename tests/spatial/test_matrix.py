"""Parameters to matrices and back, and least-squares maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepatlas.spatial.matrix import (
    KINDS,
    Kind,
    count,
    fit,
    generators,
    polar,
    to_matrix,
    to_parameters,
)

BOTH = pytest.mark.parametrize("d", [2, 3])


def drawn(kind: Kind, d: int, size: float) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(4, count(kind, d), dtype=torch.float64) * size


def apply(matrix: Tensor, points: Tensor) -> Tensor:
    d = points.shape[-1]
    return points @ matrix[:d, :d].T + matrix[:d, d]


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_come_back(kind: Kind, d: int) -> None:
    centre = torch.tensor([5.0, -20.0, 31.0], dtype=torch.float64)[:d]
    parameters = drawn(kind, d, 0.3)
    back = to_parameters(to_matrix(parameters, centre, kind), centre, kind)
    torch.testing.assert_close(back, parameters)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_generators_are_derivatives_at_zero(kind: Kind, d: int) -> None:
    centre = torch.arange(d, dtype=torch.float64) + 3
    point = torch.randn(d, dtype=torch.float64)
    arm = torch.cat([point - centre, torch.ones(1, dtype=torch.float64)])
    moved = torch.autograd.functional.jacobian(
        lambda p: apply(to_matrix(p, centre, kind), point),
        torch.zeros(count(kind, d), dtype=torch.float64),
    )
    torch.testing.assert_close(moved.T, generators(kind, d) @ arm)


def test_half_a_turn_comes_back() -> None:
    axis = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), dim=0)
    parameters = torch.cat([axis * torch.pi, torch.zeros(3, dtype=torch.float64)])
    matrix = to_matrix(parameters, torch.zeros(3, dtype=torch.float64), "rigid")
    again = to_parameters(matrix, torch.zeros(3, dtype=torch.float64), "rigid")
    torch.testing.assert_close(
        to_matrix(again, torch.zeros(3, dtype=torch.float64), "rigid"), matrix
    )


def test_a_mirror_has_no_parameters() -> None:
    with pytest.raises(ValueError, match="mirrors"):
        polar(torch.diag(torch.tensor([-1.0, 1.0, 1.0])))


@BOTH
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_fit_finds_the_map(kind: Kind, d: int) -> None:
    points = torch.randn(40, d, dtype=torch.float64) * 30 + 100
    matrices = to_matrix(drawn(kind, d, 0.4), torch.zeros(d, dtype=torch.float64), kind)
    targets = torch.stack([apply(matrix, points) for matrix in matrices])
    torch.testing.assert_close(fit(points, targets, kind), matrices)


def test_a_fit_is_the_least_squares_one() -> None:
    points = torch.randn(40, 3, dtype=torch.float64) * 30
    targets = points + torch.randn(40, 3, dtype=torch.float64)
    best = fit(points, targets, "affine")
    residual = apply(best, points) - targets
    ones = torch.cat([points, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    torch.testing.assert_close(ones.T @ residual, torch.zeros(4, 3, dtype=torch.float64))


def test_a_rigid_fit_never_mirrors() -> None:
    points = torch.randn(40, 3, dtype=torch.float64)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    linear = fit(points, mirrored, "rigid")[:3, :3]
    torch.testing.assert_close(torch.linalg.det(linear), torch.ones((), dtype=torch.float64))


def test_points_in_an_oblique_plane_say_nothing_across_it() -> None:
    turn = to_matrix(drawn("rigid", 3, 0.5)[0], torch.zeros(3, dtype=torch.float64), "rigid")
    across = turn[:3, 2]
    points = torch.randn(40, 3, dtype=torch.float64) * 30
    points = apply(turn, points * torch.tensor([1.0, 1.0, 0.0]) + 7.0)
    rounded = [x + 1e-5 * torch.randn_like(x) for x in (points, points * 1.1)]
    matrix = fit(*rounded, "affine")
    torch.testing.assert_close(matrix[:3, :3] @ across, across, rtol=0, atol=1e-4)


def test_a_fit_of_one_scale_is_refused() -> None:
    points = torch.randn(5, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="rigid or affine"):
        fit(points, points, "similarity")
