"""Our instance normalisation against PyTorch's, in value, gradient, dtype and memory format."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.nn import functional as F

from deepatlas.kernels import plain
from deepatlas.networks.normalisation import NormActivation

SHAPES = [(2, 5, 7, 4, 6), (1, 16, 8, 8, 8), (3, 4, 9, 11)]  # rows of 8, 64 and one voxel


def layout(x: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def reference(x: torch.Tensor, module: NormActivation) -> torch.Tensor:
    y = F.instance_norm(x, weight=module.weight, bias=module.bias, eps=module.epsilon)
    return F.leaky_relu(y, module.slope)


def made(channels: int) -> NormActivation:
    module = NormActivation(channels, slope=0.2).double()
    with torch.no_grad():
        module.weight.uniform_(0.5, 1.5)
        module.bias.uniform_(-0.5, 0.5)
    return module


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradients_are_those_of_pytorch(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = made(shape[1])
    x = (torch.randn(shape, dtype=torch.float64) * 2 + 3).requires_grad_()
    upstream = torch.randn(shape, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((f(x) * upstream).sum(), [x, module.weight, module.bias])
        for f in (module, lambda x: reference(x, module))
    )
    torch.testing.assert_close(module(x), reference(x, module))
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_stays_bfloat16_and_channels_last(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = made(shape[1]).float()
    x = torch.randn(shape).bfloat16().contiguous(memory_format=layout(torch.empty(shape)))
    y = module(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=layout(x))
    torch.testing.assert_close(y.float(), reference(x.float(), module), atol=0.03, rtol=0.03)


@pytest.mark.parametrize("context", [nullcontext, plain], ids=["kernel", "plain"])
@pytest.mark.parametrize(
    ("dtype", "mean", "near"), [(torch.bfloat16, 50.0, 0.005), (torch.float32, 50.0, 0.005)]
)
def test_a_mean_far_from_zero_costs_little(
    dtype: torch.dtype,
    mean: float,
    near: float,
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    torch.manual_seed(0)
    module = made(8).float()
    x = (torch.randn(1, 8, 16, 16, 16) + mean).to(dtype).requires_grad_()
    upstream = torch.randn(x.shape).to(dtype)
    with context():
        found = module(x)
        (gradient,) = torch.autograd.grad(found, x, upstream)
    wide = x.detach().double().requires_grad_()
    expected = reference(wide, copy.deepcopy(module).double())
    (wanted,) = torch.autograd.grad(expected, wide, upstream.double())
    for one, other in ((found, expected), (gradient, wanted)):
        assert float((one - other).detach().norm() / other.detach().norm()) < near


@pytest.mark.parametrize("context", [nullcontext, plain], ids=["kernel", "plain"])
def test_an_empty_batch(context: Callable[[], AbstractContextManager[None]]) -> None:
    with context():
        assert NormActivation(3, slope=0.2)(torch.rand(0, 3, 4, 5)).shape == (0, 3, 4, 5)


def test_a_constant_channel_stays_finite() -> None:
    module = NormActivation(3, slope=0.2)
    x = torch.full((1, 3, 4, 5, 6), 2.0, requires_grad=True)
    y = module(x)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [True, False])
def test_in_place_only_without_gradient(inplace: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = NormActivation(4, slope=0.2, inplace=inplace)
    x = torch.randn(2, 4, 6, 5, 8).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    kept, wanted = x.clone(), module(x)
    assert torch.equal(x, kept)
    with torch.no_grad():
        found = module(x)
    assert torch.equal(found, wanted)
    assert (found.data_ptr() == x.data_ptr()) is inplace
    assert torch.equal(x, wanted if inplace else kept)
