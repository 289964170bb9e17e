"""Convolutions of few channels and transposed ones: those of PyTorch, by another way."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepatlas.kernels import plain
from deepatlas.networks import convolving
from deepatlas.networks.blocks import channels_last, to_channels_last
from deepatlas.networks.convolving import (
    folded,
    folded_weight,
    folds,
    strictly_channels_last,
    unfolded,
)
from deepatlas.networks.fuse import fuse

Run = Callable[[nn.Module, Tensor], Tensor]
KINDS = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SHAPES = {2: (6, 12), 3: (5, 6, 12)}


def both(layer: nn.Module, ndim: int) -> tuple[nn.Module, nn.Module]:
    """PyTorch's layer and ours, of the same weights."""
    return layer, channels_last(fuse(copy.deepcopy(layer)), ndim)


def results(
    layer: nn.Module, x: Tensor, run: Callable[[nn.Module, Tensor], Tensor]
) -> list[Tensor]:
    """The output, and its gradients by the input and the weights."""
    x = x.detach().requires_grad_()
    y = run(layer, x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    gradients = torch.autograd.grad(y, [x, *layer.parameters()], upstream)
    return [y.detach(), *gradients]


def half(layer: nn.Module, x: Tensor) -> Tensor:
    """In bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        return layer(x)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("fold", [2, 4])
def test_folding_changes_nothing(ndim: int, fold: int) -> None:
    x = torch.randn(2, 3, *SHAPES[ndim], dtype=torch.float64)
    weight = torch.randn(5, 3, *[3] * ndim, dtype=torch.float64)
    convolve = F.conv2d if ndim == 2 else F.conv3d
    wanted = convolve(x, weight, padding=1)
    found = unfolded(convolve(folded(x, fold), folded_weight(weight, fold), padding=1), fold)
    assert torch.allclose(found, wanted, rtol=0, atol=1e-12)
    assert torch.equal(unfolded(folded(x, fold), fold), x)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 8), (1, 16), (2, 8), (4, 4), (8, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_few_channels_in_bfloat16(ndim: int, inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    theirs, ours = both(KINDS[ndim](inputs, outputs, 3, padding=1, bias=bias), ndim)
    x = torch.randn(2, inputs, *SHAPES[ndim])
    assert folds(ours, 12) > 1
    found = results(ours, to_channels_last(x), half)
    assert found[0].movedim(1, -1).is_contiguous()
    assert found[0].dtype == torch.bfloat16
    exact = results(theirs, x, lambda layer, x: layer(x))
    for one, other in zip(found, exact, strict=True):
        assert torch.allclose(one.float(), other, rtol=0.02, atol=0.01 * float(other.abs().max()))


@pytest.mark.parametrize(
    "settings",
    [{"stride": 2, "padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2},
     {"padding": 1, "padding_mode": "reflect"}, {"padding": 1, "groups": 2}],
)  # fmt: skip
def test_other_convolutions_stay_as_they_are(settings: dict[str, int]) -> None:
    theirs, ours = both(nn.Conv3d(4, 4, 3, **settings), 3)  # type: ignore[arg-type]
    assert folds(ours, 12) == 1
    x = torch.randn(2, 4, 6, 8, 12)
    assert torch.allclose(half(ours, x).float(), theirs(x), rtol=0.02, atol=0.02)


def test_widths_that_do_not_fold() -> None:
    layer = nn.Conv3d(1, 8, 3, padding=1)
    assert [folds(layer, width) for width in (12, 10, 9)] == [4, 2, 1]
    assert folds(nn.Conv3d(16, 16, 3, padding=1), 12) == 1


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_transposed(ndim: int, bias: bool, stride: int) -> None:
    layer = TRANSPOSED[ndim](
        6, 3, 3, stride=stride, padding=1, output_padding=stride - 1, bias=bias
    )
    theirs, ours = both(layer, ndim)
    x = torch.randn(2, 6, *SHAPES[ndim])
    found, exact = (results(one, x, lambda layer, x: layer(x)) for one in (ours, theirs))
    for one, other in zip(found, exact, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    found, exact = (results(one, x.float(), half) for one in (ours, theirs))
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == other.dtype
        assert torch.allclose(one, other, rtol=0.02, atol=0.01 * float(other.abs().max()))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("ndim", [2, 3])
def test_volumes_below_the_kernel_in_bfloat16(
    ndim: int, kernel: int, stride: int, transposed: bool
) -> None:
    torch.manual_seed(0)
    kind = (TRANSPOSED if transposed else KINDS)[ndim]
    for size in [(2, 3, 2), (1, 2, 1), (2, 3, 8), (5, 3, 1), (4, 4, 4), (7, 2, 5)]:
        theirs, ours = both(kind(16, 32, kernel, stride, padding=kernel // 2), ndim)
        x = torch.randn(2, 16, *size[3 - ndim :])
        if transposed and min((n - 1) * stride - 2 * (kernel // 2) + kernel for n in size) < 1:
            continue
        found = results(ours, to_channels_last(x), half)
        exact = results(theirs.double(), x.double(), lambda layer, x: layer(x))
        assert found[0].dtype == torch.bfloat16
        for one, other in zip(found, exact, strict=True):
            assert one.shape == other.shape
            assert float((one - other).norm() / other.norm()) < 0.02


def test_one_channel_is_channels_last_to_everybody() -> None:
    x = torch.randn(2, 1, 4, 5, 6)
    strict = strictly_channels_last(x)
    assert torch.equal(strict, x)
    assert strict.data_ptr() == x.data_ptr()
    assert strict.stride() == (120, 1, 30, 6, 1)
    assert strict.is_contiguous(memory_format=torch.channels_last_3d)
    part = x[:, :, 1:]
    assert strictly_channels_last(part[:, :, :, ::2]).stride() == part[:, :, :, ::2].stride()


def test_a_transposed_one_has_a_second_derivative() -> None:
    _, layer = both(nn.ConvTranspose2d(2, 3, 3, padding=1), 2)
    x = torch.randn(1, 2, 4, 5, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert float(second.abs().max()) > 0


@pytest.mark.parametrize("context", [nullcontext, plain])
def test_a_gradient_by_the_bias_can_be_followed(context: Callable[[], Any]) -> None:
    _, layer = both(nn.ConvTranspose2d(2, 3, 3, padding=1), 2)
    x = torch.randn(1, 2, 4, 5, requires_grad=True)
    with context():
        (first,) = torch.autograd.grad(layer(x).square().sum(), layer.bias, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
    assert float(second.abs().max()) > 0


def test_training_after_inference() -> None:
    _, layer = both(nn.Conv3d(1, 8, 3, padding=1), 3)
    x = torch.randn(1, 1, 4, 5, 8)
    with torch.inference_mode():
        half(layer, x)
    half(layer, x).sum().backward()


def test_imported_during_inference() -> None:
    """As where the first thing that a process does is to segment."""
    spec = importlib.util.find_spec(convolving.__name__)
    assert spec is not None
    assert spec.loader is not None
    with torch.inference_mode():
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)
    again.folded_weight(weight, 4).sum().backward()


def test_a_wrong_number_of_channels_is_said_in_the_layers_own_numbers() -> None:
    _, layer = both(nn.Conv3d(2, 8, 3, padding=1), 3)
    with pytest.raises(RuntimeError, match="8, 2, 3, 3, 3"):
        half(layer, torch.randn(1, 1, 4, 5, 8))
