"""Laws of composition, inversion, flows, resolution and Jacobian determinants."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepatlas.spatial.field import compose, derivative, double, invert
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.grid import identity_grid
from deepatlas.spatial.jacobian import folds_percent, jacobian_determinant
from deepatlas.spatial.transform import Affine
from deepatlas.spatial.velocity import integrate
from deepatlas.spatial.warp import warp

Waves = Callable[..., Tensor]
SHAPES = [(30, 23), (24, 19, 17)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


def error(a: Tensor, b: Tensor) -> Tensor:
    """Distance in voxels between two fields, (B, *S)."""
    return (a - b).norm(dim=1)


def inner(x: Tensor, margin: int) -> Tensor:
    """Without `margin` voxels at each end of the axes of space."""
    box = (slice(None), slice(None), *[slice(margin, -margin)] * (x.ndim - 2))
    return x[box]


def about_middle(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(1, d, *shape): A (x - middle) for a matrix A."""
    middle = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    x = identity_grid(shape, dtype=torch.float64)[0].movedim(0, -1) - middle
    return (x @ matrix.T).movedim(-1, 0).unsqueeze(0)


@shapes
def test_composition_applies_the_inner_map_first(shape: tuple[int, ...]) -> None:
    d = len(shape)
    outer = torch.tensor([[0.1, -0.3, 0.2], [0.2, -0.2, 0.1], [0.0, 0.1, -0.3]]).double()[:d, :d]
    first = torch.tensor([[-0.3, 0.2, 0.0], [-0.1, -0.2, 0.2], [0.1, 0.3, -0.4]]).double()[:d, :d]
    got = compose(about_middle(outer, shape), about_middle(first, shape))
    eye = torch.eye(d, dtype=torch.float64)
    expected = about_middle((eye + outer) @ (eye + first) - eye, shape)
    stays = ((identity_grid(shape) + about_middle(first, shape)) >= 0).all(dim=1)
    size = torch.tensor(shape).reshape(-1, *[1] * d)
    stays &= ((identity_grid(shape) + about_middle(first, shape)) <= size - 1).all(dim=1)
    assert stays.float().mean() > 0.5
    assert error(got, expected)[stays].max() < 1e-9


@shapes
def test_warping_twice_is_warping_through_the_composition(
    shape: tuple[int, ...], waves: Waves
) -> None:
    outer, first = waves(shape, 2.0, seed=1), waves(shape, 2.0, seed=2)
    image = waves(shape, 1.0, seed=3)[:, :1]
    twice = warp(warp(image, outer), first)
    once = warp(image, compose(outer, first))
    assert (once - image).abs().mean() > 0.02
    assert (twice - once).abs().mean() < 0.005


@shapes
@pytest.mark.parametrize("size", [0.7, 2.5])
def test_inverse_after_forward(shape: tuple[int, ...], size: float, waves: Waves) -> None:
    forward = integrate(waves(shape, size, batch=2))  # without folds
    backward = invert(forward.float()).double()
    assert error(forward, 0 * forward).mean() > 0.1 * size
    for back_and_forth in (compose(forward, backward), compose(backward, forward)):
        assert error(back_and_forth, 0 * forward).mean() < 0.02


def test_inverse_of_a_stretch() -> None:
    shape = (41, 37)
    matrix = torch.tensor([[1.5, 0.2], [0.1, 1.2]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    expected = about_middle(torch.linalg.inv(eye + matrix) - eye, shape)
    got = invert(about_middle(matrix, shape), iterations=60, tolerance=1e-7)
    assert error(got, expected).max() < 1e-5


@shapes
def test_the_flow_backwards_is_the_inverse(shape: tuple[int, ...], waves: Waves) -> None:
    velocity = waves(shape, 3.0, batch=2)
    forward, backward = integrate(velocity), integrate(-velocity)
    assert error(forward, 0 * forward).max() > 1.5
    for there_and_back in (compose(forward, backward), compose(backward, forward)):
        assert error(there_and_back, 0 * forward).mean() < 0.03
        assert error(there_and_back, 0 * forward).max() < 0.25


@shapes
def test_flows_of_one_velocity_add_their_times(shape: tuple[int, ...], waves: Waves) -> None:
    velocity = waves(shape, 3.0)
    a, b = 0.3, 0.5
    whole = integrate((a + b) * velocity)
    parts = compose(integrate(a * velocity), integrate(b * velocity))
    assert error(whole, parts).mean() < 0.02
    assert error(whole, (a + b) * velocity).mean() > 0.05  # a flow is no straight line


@shapes
def test_a_constant_velocity_is_a_translation(shape: tuple[int, ...]) -> None:
    steps = torch.tensor([2.3, -1.7, 0.6])[: len(shape)]
    velocity = steps.reshape(1, -1, *[1] * len(shape)).expand(1, -1, *shape).contiguous()
    torch.testing.assert_close(integrate(velocity), velocity, rtol=0, atol=1e-5)


def test_flow_of_a_linear_velocity_is_the_matrix_exponential() -> None:
    shape = (17, 21, 19)
    matrix = torch.tensor(  # all points come nearer to the middle: none leaves the grid
        [[-0.8, 0.5, 0.1], [-0.4, -0.7, 0.2], [0.2, -0.1, -0.9]], dtype=torch.float64
    )
    flow = torch.linalg.matrix_exp(matrix) - torch.eye(3, dtype=torch.float64)
    expected = about_middle(flow, shape)
    errors = [
        float(error(integrate(about_middle(matrix, shape), squarings=k), expected).max())
        for k in range(3, 9)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.3  # first order: each squaring halves the error
    assert errors[-1] < 0.02 * float(expected.norm(dim=1).max())


def test_flow_follows_the_differential_equation(waves: Waves) -> None:
    velocity = waves((26, 21), 3.0, seed=5)
    moved, steps = torch.zeros_like(velocity), 200
    for _ in range(steps):  # the midpoint rule for dx/dt = v(x)
        half = moved + warp(velocity, moved, outside="border") / (2 * steps)
        moved = moved + warp(velocity, half, outside="border") / steps
    assert error(integrate(velocity), moved).mean() < 0.02
    assert error(velocity, moved).mean() > 0.1


@pytest.mark.parametrize("shape", [(8, 9), (7, 12, 5), (1, 6, 3), (13, 2)], ids=str)
def test_doubling_keeps_linear_fields(shape: tuple[int, ...]) -> None:
    half = tuple((n + 1) // 2 for n in shape)
    d = len(shape)
    slope = torch.randn(d, d, generator=torch.Generator().manual_seed(0))
    coarse = torch.einsum("cn,bn...->bc...", slope, identity_grid(half)) + 0.3
    fine = double(coarse, shape)
    # at x of the fine grid lies x / 2 of the coarse one, and a voxel is half as large
    expected = torch.einsum("cn,bn...->bc...", slope, identity_grid(shape)) + 0.6
    assert fine.shape == (1, d, *shape)
    box = (slice(None), slice(None), *[slice(0, n - 1 if n % 2 == 0 else n) for n in shape])
    torch.testing.assert_close(fine[box], expected[box])
    even = (slice(None), slice(None), *[slice(None, None, 2)] * d)
    torch.testing.assert_close(fine[even], 2 * coarse)
    for n, size in enumerate(shape):  # past the last coarse voxel its value goes on
        if size % 2 == 0:
            ends = fine.narrow(n + 2, size - 2, 2)
            torch.testing.assert_close(ends.narrow(n + 2, 1, 1), ends.narrow(n + 2, 0, 1))


def test_doubling_wants_twice_the_shape() -> None:
    with pytest.raises(ValueError, match="not twice"):
        double(torch.zeros(1, 2, 4, 5), (8, 11))


def test_flows_and_doubling_change_places(waves: Waves) -> None:
    half, shape = (16, 14, 13), (31, 28, 25)
    velocity = waves(half, 1.5)
    a, b = double(integrate(velocity), shape), integrate(double(velocity, shape))
    assert error(b, 0 * b).mean() > 0.4
    assert error(a, b).mean() < 0.03


@shapes
def test_derivative_of_polynomials(shape: tuple[int, ...]) -> None:
    grid = identity_grid(shape, dtype=torch.float64)
    x = grid[:, :1]
    torch.testing.assert_close(derivative(3 * x, 0), torch.full_like(x, 3.0))
    assert (derivative(3 * x, 1) == 0).all()
    inside = (slice(None), slice(None), slice(1, -1))
    torch.testing.assert_close(derivative(x**2, 0)[inside], 2 * x[inside])
    for n in (1, 2):
        thin = torch.rand(1, 1, n, 4)
        assert derivative(thin, 0).shape == thin.shape


@pytest.mark.parametrize("d", [2, 3])
def test_determinant_of_an_affine_map(
    d: int, slanted: Callable[..., Geometry], some_affine: Callable[[int], Tensor]
) -> None:
    transform = Affine(some_affine(d))
    grid = slanted(d, flip=(1, -1, 1))  # a left-handed, oblique, anisotropic grid
    displacement = transform.displacement(grid).unsqueeze(0)
    expected = torch.linalg.det(transform.matrix[:d, :d])
    assert abs(expected - 1) > 0.02
    determinant = jacobian_determinant(displacement)
    assert determinant.shape == (1, *grid.shape)
    torch.testing.assert_close(
        determinant, torch.full_like(determinant, float(expected)), rtol=0, atol=1e-5
    )
    assert folds_percent(displacement) == 0.0


@shapes
def test_determinant_of_a_composition_is_the_product(shape: tuple[int, ...], waves: Waves) -> None:
    outer, first = waves(shape, 0.8, seed=1), waves(shape, 0.8, seed=2)
    at_outer = warp(jacobian_determinant(outer).unsqueeze(1), first, outside="border")[:, 0]
    product = at_outer * jacobian_determinant(first)
    whole = jacobian_determinant(compose(outer, first))
    assert (whole - 1).abs().mean() > 0.05
    assert inner((whole - product).unsqueeze(1), 2).abs().mean() < 0.02


@shapes
def test_mirrored_maps_fold_everywhere(shape: tuple[int, ...]) -> None:
    flipped = torch.zeros(2, len(shape), *shape)
    flipped[1, 0] = -2 * identity_grid(shape)[0, 0]
    assert folds_percent(flipped[:1]) == 0.0
    assert folds_percent(flipped[1:]) == 100.0
    assert folds_percent(flipped) == 50.0
    torch.testing.assert_close(jacobian_determinant(flipped[1:]), -torch.ones(1, *shape))


def test_folds_are_counted_inside_only() -> None:
    shape = (12, 10)
    displacement = torch.zeros(1, 2, *shape)
    displacement[:, 0, 5, 4] = 2.5  # its derivative is +1.25 one voxel before, -1.25 one after
    displacement[:, 0, 3, 0] = 50.0  # folds on the border do not count
    assert (jacobian_determinant(displacement) <= 0).sum() == 2
    assert folds_percent(displacement) == pytest.approx(100 * 1 / (10 * 8))


def test_folds_of_broken_and_of_thin_fields() -> None:
    assert folds_percent(torch.full((1, 2, 5, 6), float("nan"))) == 100.0
    assert folds_percent(torch.zeros(1, 3, 6, 1, 2)) == 0.0
    # zero is a fold: everything comes to one line
    assert folds_percent(-identity_grid((6, 7))) == 100.0
