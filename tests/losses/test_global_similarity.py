"""Global NCC and MSE against NumPy, and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepatlas.losses.similarity import MSE, GlobalNCC


def _pair(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    a, b = (torch.rand(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return a.to(dtype), (0.6 * a + 0.4 * b).to(dtype)


@pytest.mark.parametrize("shape", [(3, 1, 6, 9, 5), (3, 1, 11, 8)])
def test_ncc_is_that_of_numpy(shape: tuple[int, ...]) -> None:
    a, b = _pair(*shape)
    b[1] = 1 - b[1]
    expected = [
        1 - np.corrcoef(x.ravel(), y.ravel())[0, 1]
        for x, y in zip(a.numpy(), b.numpy(), strict=True)
    ]
    assert expected[1] > 1  # the sign is there to be lost
    assert GlobalNCC()(a, b).item() == pytest.approx(np.mean(expected), abs=1e-6)


def test_ncc_range() -> None:
    a, _ = _pair(1, 1, 7, 8, 6)
    assert GlobalNCC()(a, 5 + 3 * a).item() == pytest.approx(0, abs=1e-6)
    assert GlobalNCC()(a, 5 - 3 * a).item() == pytest.approx(2, abs=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.3, 1000.0])
@pytest.mark.parametrize("both", [True, False])
def test_ncc_of_a_constant_image_is_one_without_gradient(level: float, both: bool) -> None:
    a, b = _pair(2, 1, 17, 23, 19)
    a[1] = level
    if both:
        b[1] = 0.7
    a.requires_grad_()
    loss = GlobalNCC()(a, b)
    loss.backward()
    alone = GlobalNCC()(a[:1], b[:1]).item()
    assert loss.item() == pytest.approx((alone + 1) / 2, abs=1e-6)
    assert a.grad is not None
    assert (a.grad[1] == 0).all()
    assert torch.isfinite(a.grad).all()
    assert (a.grad[0] != 0).any()


@pytest.mark.parametrize("part", [GlobalNCC(), MSE()])
@pytest.mark.parametrize("masked", [True, False])
def test_gradcheck(part: GlobalNCC | MSE, masked: bool) -> None:
    a, b = _pair(2, 1, 3, 5, 4, dtype=torch.float64)
    mask = torch.rand(a.shape, dtype=a.dtype, generator=torch.Generator().manual_seed(2))
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda x, y: part(x, y, mask if masked else None), inputs, fast_mode=True
    )


@pytest.mark.parametrize("part", [GlobalNCC(), MSE()])
def test_a_mask_is_as_if_the_image_ended_there(part: GlobalNCC | MSE) -> None:
    a, b = _pair(2, 1, 8, 9, 7)
    inside = (slice(None), slice(None), slice(2, 6), slice(3, 8), slice(1, 7))
    mask = torch.zeros_like(a)
    mask[inside] = 1
    expected = part(a[inside], b[inside]).item()
    a[mask == 0] = 17
    assert part(a, b, mask).item() == pytest.approx(expected, abs=1e-6)


def test_an_empty_mask_has_no_gradient() -> None:
    a, b = _pair(1, 1, 5, 6, 4)
    a.requires_grad_()
    for part, expected in ((GlobalNCC(), 1), (MSE(), 0)):
        loss = part(a, b, torch.zeros_like(b))
        (gradient,) = torch.autograd.grad(loss, a)
        assert loss.item() == expected
        assert (gradient == 0).all()


def test_mse_is_that_of_numpy() -> None:
    a, b = _pair(2, 1, 6, 9, 5)
    expected = np.mean((a.double() - b.double()).numpy() ** 2)
    assert MSE()(a, b).item() == pytest.approx(expected, rel=1e-6)


def test_ncc_of_tiny_values_and_of_nan() -> None:
    a, b = _pair(2, 1, 7, 8, 6)
    expected = GlobalNCC()(a, b).item()
    assert GlobalNCC()(1e-11 * a, 1e-11 * b).item() == pytest.approx(expected, abs=1e-4)
    a[0, 0, 1, 2, 3] = torch.nan
    assert bool(GlobalNCC()(a, b).isnan())
