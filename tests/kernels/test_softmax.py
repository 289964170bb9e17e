"""Softmax over channels against PyTorch in float64."""

from __future__ import annotations

import pytest
import torch

from deepatlas.kernels import plain
from deepatlas.kernels.softmax import softmax, softmax_
from deepatlas.networks.convolving import to_channels_last

SHAPES = [(2, 1, 3, 4), (1, 2, 5, 7), (2, 3, 4, 5, 6), (1, 37, 9, 4, 3), (3, 4, 1, 1, 130)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("sharpen", [1.0, 3.0])
def test_values_and_gradient(shape: tuple[int, ...], last: bool, sharpen: float) -> None:
    torch.manual_seed(0)
    x = 8 * torch.randn(shape)
    x = to_channels_last(x) if last else x
    x.requires_grad_()
    found = softmax(x, sharpen)
    wanted = (sharpen * x.double()).softmax(dim=1)
    assert found.dtype == torch.float32
    assert found.movedim(1, -1).is_contiguous()
    assert torch.allclose(found.double(), wanted, rtol=2e-5, atol=1e-30)
    upstream = torch.randn(shape)
    one, two = (
        torch.autograd.grad((y * upstream).sum(), x, retain_graph=True)[0] for y in (found, wanted)
    )
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_bfloat16_comes_out_as_float32_and_goes_back_as_it_came() -> None:
    x = torch.randn(2, 5, 6, 7, 4).bfloat16().requires_grad_()
    found = softmax(x)
    assert torch.allclose(found, x.float().softmax(dim=1), rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(found[:, 1].sum(), x)
    assert gradient.dtype == torch.bfloat16


def test_far_apart_infinite_and_not_a_number() -> None:
    rows = [[0.0, -500.0, 3e38], [1.0, -float("inf"), 1.0], [float("nan"), 0.0, 0.0],
            [0.0, float("nan"), 0.0], [float("inf"), 0.0, 0.0]]  # fmt: skip
    x = torch.tensor(rows)[:, :, None, None]
    assert torch.equal(softmax(x).isnan(), x.softmax(dim=1).isnan())
    assert torch.equal(softmax(x).nan_to_num(), x.softmax(dim=1).nan_to_num())


@pytest.mark.parametrize("compiled", [True, False])
def test_in_the_memory_of_the_logits(compiled: bool) -> None:
    x = to_channels_last(torch.randn(1, 4, 5, 6, 7))
    wanted, place = x.softmax(dim=1), x.data_ptr()
    if compiled:
        found = softmax_(x)
    else:
        with plain():
            found = softmax_(x)
    assert found.data_ptr() == place
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_logits_that_lie_otherwise() -> None:
    x = torch.randn(1, 3, 4, 5, 6)
    assert torch.allclose(softmax_(x.clone()), x.softmax(dim=1), rtol=1e-5, atol=1e-7)


def test_without_kernels_and_of_nothing() -> None:
    x = torch.randn(2, 3, 4, 5)
    with plain():
        assert torch.equal(softmax(x, 2.0), (2 * x).softmax(dim=1))
    assert softmax(x[:0]).shape == (0, 3, 4, 5)
