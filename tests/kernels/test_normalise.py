"""The kernels of normalisation against PyTorch's instance norm and LeakyReLU in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.kernels import normal, plain
from deepatlas.kernels.normalise import channel_sums
from deepatlas.networks.normalisation import NormActivation


def layer(channels: int) -> NormActivation:
    torch.manual_seed(3)
    made = NormActivation(channels, slope=0.2)
    with torch.no_grad():
        made.weight.uniform_(0.5, 1.5)
        made.bias.uniform_(-0.5, 0.5)
    return made


def results(x: Tensor, upstream: Tensor, made: NormActivation) -> list[Tensor]:
    made.zero_grad()
    leaf = x.detach().clone().requires_grad_()
    out = made(leaf)
    assert out.dtype == x.dtype
    out.backward(upstream.to(x.dtype))
    found = [out.detach(), leaf.grad, made.weight.grad, made.bias.grad]
    return [value.double() for value in found if value is not None]


def exact(x: Tensor, upstream: Tensor, made: NormActivation) -> list[Tensor]:
    leaf = x.double().requires_grad_()
    weight, bias = made.weight.detach().double(), made.bias.detach().double()
    weight.requires_grad_()
    bias.requires_grad_()
    out = F.leaky_relu(F.instance_norm(leaf, weight=weight, bias=bias, eps=made.epsilon), 0.2)
    out.backward(upstream.double())
    found = [out.detach(), leaf.grad, weight.grad, bias.grad]
    return [value for value in found if value is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "shape"), [(5, (7, 6, 9)), (16, (11, 8, 13)), (300, (5, 4))])
def test_values_and_gradients(channels: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    made = layer(channels)
    x = (torch.randn(2, channels, *shape) * 2 + 3).to(dtype)
    upstream = torch.randn(2, channels, *shape).to(dtype)
    step = 2**-8 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip(results(x, upstream, made), exact(x, upstream, made), strict=True):
        torch.testing.assert_close(one, other, rtol=step, atol=step * float(other.abs().max()))


def test_rounding_is_that_of_pytorch() -> None:
    made = NormActivation(3, slope=0.2)
    x = torch.randn(1, 3, 40, 50, dtype=torch.bfloat16)
    with torch.no_grad(), plain():
        wanted = made(x.double())
    with torch.no_grad():
        found = made(x)
    near = (found.double() - wanted).abs() <= (wanted.bfloat16().double() - wanted).abs() * 1.001
    assert float(near.double().mean()) > 0.999


def test_threads_and_layout_hardly_matter() -> None:
    made = layer(6)
    x, upstream = torch.randn(2, 2, 6, 9, 8, 7)
    last = x.contiguous(memory_format=torch.channels_last_3d)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(x, upstream, made)
        torch.set_num_threads(3)
        other = results(last, upstream, made)
    finally:
        torch.set_num_threads(before)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [True, False])
def test_sums_of_channels(dtype: torch.dtype, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many values, in bfloat16 too, as near as float32 can say it."""
    torch.manual_seed(0)
    x = (torch.rand(2, 3, 41, 38, 29) - 0.2).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    wanted = x.double().sum((0, 2, 3, 4)).float()
    called: list[bool] = []
    real = normal.moments_kernel
    monkeypatch.setattr(normal, "moments_kernel", lambda half: called.append(half) or real(half))
    torch.testing.assert_close(channel_sums(x), wanted, rtol=1e-6, atol=0)
    assert called == ([dtype == torch.bfloat16] if last else [])
    with plain():
        torch.testing.assert_close(channel_sums(x), wanted, rtol=1e-6, atol=0)
    assert channel_sums(x[:0]).tolist() == [0, 0, 0]
    assert channel_sums(x.new_ones(()).expand(2, 3, 4, 5)).tolist() == [40, 40, 40]
