"""Bending energy by its kernels against the plain function in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepatlas.kernels import plain
from deepatlas.losses.regularity.bending import Bending
from deepatlas.networks.convolving import to_channels_last

SHAPES = [(2, 3, 5, 6, 7), (1, 3, 3, 3, 3), (1, 3, 8, 3, 5), (2, 3, 20, 9, 33), (2, 2, 9, 4),
          (1, 2, 3, 30)]  # fmt: skip
SPACING = (1.5, 0.7, 2.0)
PARTS = [Bending(), Bending("central")]


def value_and_gradient(field: Tensor, part: Bending) -> list[Tensor]:
    field = field.detach().requires_grad_()
    value = part(field, SPACING[: field.shape[1]])
    return [value.detach(), *torch.autograd.grad(value, field)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_value_and_gradient(shape: tuple[int, ...], last: bool, part: Bending) -> None:
    torch.manual_seed(0)
    field = 3 * torch.randn(shape)
    value, gradient = value_and_gradient(to_channels_last(field) if last else field, part)
    with plain():
        exact, exact_gradient = value_and_gradient(field.double(), part)
    assert value.dtype == gradient.dtype == torch.float32
    assert gradient.movedim(1, -1).is_contiguous()
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    scale = float(exact_gradient.abs().max())
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_large_displacements_that_differ_little_lose_no_precision(part: Bending) -> None:
    torch.manual_seed(0)
    places = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij"))
    field = 50 + 0.3 * places[None] + 0.05 * torch.randn(1, 3, 12, 12, 12)
    value, gradient = value_and_gradient(field, part)
    with plain():
        exact, exact_gradient = value_and_gradient(field.double(), part)
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    assert float((gradient - exact_gradient).norm() / exact_gradient.norm()) < 2e-6


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_value_without_gradient_and_in_other_types(part: Bending) -> None:
    field = torch.randn(1, 3, 6, 7, 8)
    value = part(field, SPACING)
    assert not value.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(part(field, SPACING), value)
    with plain():
        assert float(value) == pytest.approx(float(part(field, SPACING)), rel=1e-6)
