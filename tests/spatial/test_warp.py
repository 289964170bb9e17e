"""Sampling and warping: identities, shifts, SciPy as the referee, precision, gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from deepatlas.spatial import grid as grids
from deepatlas.spatial.grid import identity_grid, interpolate, sample
from deepatlas.spatial.warp import warp

SHAPES = [(9, 13), (12, 7, 10), (1, 6), (5, 1, 8), (211, 3)]
MODES: tuple[Any, ...] = ("linear", "nearest")
OUTSIDE: tuple[Any, ...] = ("zeros", "border")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("outside", OUTSIDE)
def test_no_displacement_changes_nothing(shape: tuple[int, ...], outside: Any) -> None:
    image = noise(2, 3, *shape)
    still = torch.zeros(2, len(shape), *shape)
    assert torch.equal(warp(image, still, mode="nearest", outside=outside), image)
    # float32 places an index among 200 within 1e-5: the neighbour's share
    linear = warp(image, still, outside=outside)
    torch.testing.assert_close(linear, image, rtol=0, atol=2e-4 if max(shape) > 100 else 2e-5)
    exact = warp(image.double(), still, outside=outside)
    torch.testing.assert_close(exact, image.double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("step", [(2, -3, 1), (-1, 2, -4), (3, -2)], ids=str)
def test_a_whole_shift_is_slicing(mode: Any, outside: Any, step: tuple[int, ...]) -> None:
    shape = (9, 8, 7)[: len(step)]
    image = noise(1, 2, *shape)
    displacement = torch.zeros(1, len(step), *shape)
    for n, amount in enumerate(step):
        displacement[:, n] = amount
    expected = image
    for n, amount in enumerate(step):
        wanted = torch.arange(shape[n]) + amount
        expected = expected.index_select(n + 2, wanted.clamp(0, shape[n] - 1))
        if outside == "zeros":
            inside = ((wanted >= 0) & (wanted < shape[n])).float()
            expected = expected * inside.reshape(-1, *[1] * (len(shape) - 1 - n))
    got = warp(image, displacement, mode=mode, outside=outside)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("shape", [(9, 13), (7, 11, 5), (6, 1, 9)], ids=str)
def test_scipy_agrees_everywhere(outside: Any, shape: tuple[int, ...]) -> None:
    image = noise(1, 1, *shape).double()
    displacement = 3 * noise(1, len(shape), *shape, seed=1).double()
    where = (identity_grid(shape, dtype=torch.float64) + displacement)[0].numpy()
    for mode, order in zip(MODES, (1, 0), strict=True):
        got = warp(image, displacement, mode=mode, outside=outside)[0, 0]
        beyond = {"zeros": "grid-constant", "border": "nearest"}[outside]
        expected = map_coordinates(image[0, 0].numpy(), where, order=order, mode=beyond)
        np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)], ids=str)
def test_gradients(outside: Any, shape: tuple[int, ...]) -> None:
    image = noise(2, 2, *shape).double().requires_grad_()
    # between voxels, where linear interpolation has a derivative; some points lie outside
    whole = noise(2, len(shape), *shape, seed=1).round()
    displacement = (whole + 0.2 + 0.6 * torch.rand_like(whole)).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda i, u: warp(i, u, outside=outside), (image, displacement), fast_mode=True
    )


def test_two_axes_are_three_with_one_slice() -> None:
    image, displacement = noise(2, 3, 9, 13), 2 * noise(2, 2, 9, 13, seed=1)
    flat = torch.cat([displacement, torch.zeros(2, 1, 9, 13)], dim=1)
    for mode, outside in itertools.product(MODES, OUTSIDE):
        two = warp(image, displacement, mode=mode, outside=outside)
        three = warp(image[..., None], flat[..., None], mode=mode, outside=outside)
        torch.testing.assert_close(three[..., 0], two)


def test_a_single_slice_ends_as_any_image_does() -> None:
    image = 1 + torch.rand(1, 1, 4, 1, 3)
    for step, share in ((0.25, 0.75), (-0.5, 0.5), (1.0, 0.0), (-7.0, 0.0)):
        displacement = torch.zeros(1, 3, 4, 1, 3)
        displacement[:, 1] = step
        torch.testing.assert_close(warp(image, displacement), image * share)
        torch.testing.assert_close(warp(image, displacement, outside="border"), image)


def test_bfloat16_keeps_part_of_a_voxel_far_from_the_origin() -> None:
    ramp = torch.arange(300.0) % 8  # whole numbers below 8 are exact in bfloat16
    image = ramp.reshape(1, 1, 300, 1).expand(1, 1, 300, 3).bfloat16()
    for dtype in (torch.float32, torch.bfloat16):
        displacement = torch.zeros(1, 2, 300, 3, dtype=dtype)
        displacement[:, 0] = 0.25
        with torch.autocast("cpu", torch.bfloat16):
            moved = warp(image, displacement, outside="border")
        assert moved.dtype == torch.bfloat16
        far = (torch.arange(300) > 128) & (ramp < 7)
        far[-1] = False
        torch.testing.assert_close(moved[0, 0, far, 0].float(), ramp[far] + 0.25)


def test_integers_move_whole() -> None:
    ids = torch.tensor([[2**40 + 1, 3, 2**24 + 1], [7, 2**31 + 5, 0]])[None, None]
    shift = torch.zeros(1, 2, 2, 3)
    shift[:, 1] = 1.1
    moved = warp(ids, shift, mode="nearest")
    assert moved.dtype == torch.int64
    assert moved[0, 0].tolist() == [[3, 2**24 + 1, 0], [2**31 + 5, 0, 0]]
    with pytest.raises(ValueError, match="say nearest"):
        warp(ids, shift)


def test_as_many_components_as_axes() -> None:
    with pytest.raises(ValueError, match="2 index components for an image of 3 axes"):
        sample(torch.zeros(1, 1, 3, 4, 5), torch.zeros(1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="one channel per axis"):  # would be the same for all axes
        warp(torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 4, 5))


def test_grids_made_in_inference_serve_training() -> None:
    shape = (3, 5, 2)
    with torch.inference_mode():
        identity_grid(shape, dtype=torch.float64)
    factor = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
    grid = identity_grid(shape, dtype=torch.float64)
    (factor * grid).sum().backward()
    assert factor.grad is not None
    assert torch.equal(factor.grad, grid)


@pytest.mark.parametrize("shape", [(9, 13), (7, 11, 5), (6, 1, 9)], ids=str)
def test_interpolation_of_single_points(shape: tuple[int, ...]) -> None:
    image = noise(2, *shape)
    where = noise(4, 6, len(shape)).double() * 6 + 4
    expected = [
        map_coordinates(i.double().numpy(), where.movedim(-1, 0).numpy(), order=1, mode="nearest")
        for i in image
    ]
    got = interpolate(image, where)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), np.stack(expected, axis=-1), atol=1e-12)
    few = interpolate(image, where[1:2, 2:4])  # another part of the image is copied
    torch.testing.assert_close(few, got[1:2, 2:4], rtol=0, atol=1e-12)
    assert interpolate(image, where[:0]).shape == (0, 6, 2)


def test_batches_and_channels_are_apart(waves: Callable[..., Tensor]) -> None:
    image, displacement = noise(2, 3, 8, 9, 7), waves((8, 9, 7), 2.0, batch=2).float()
    both = warp(image, displacement)
    for b, c in itertools.product(range(2), range(3)):
        alone = warp(image[b : b + 1, c : c + 1], displacement[b : b + 1])
        torch.testing.assert_close(both[b, c], alone[0, 0])


def test_identity_grids_are_shared_unless_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (5, 7, 9)
    assert identity_grid(shape) is identity_grid(shape)
    monkeypatch.setattr(grids, "_KEPT_BYTES", 3 * 5 * 7 * 9 * 4 - 1, raising=False)
    assert identity_grid(shape) is not identity_grid(shape)
    assert identity_grid(shape)[0, :, 4, 2, 7].tolist() == [4, 2, 7]
