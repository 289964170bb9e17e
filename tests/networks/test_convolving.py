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
from deepatlas.networks.blocks import channels_last
from deepatlas.networks.convolving import (
    folded,
    folded_weight,
    folds,
    is_plain,
    strictly_channels_last,
    to_channels_last,
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
    assert folds(ours.weight, 12) > 1
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
    assert not is_plain(ours)
    x = torch.randn(2, 4, 6, 8, 12)
    assert torch.allclose(half(ours, x).float(), theirs(x), rtol=0.02, atol=0.02)


def test_widths_that_do_not_fold() -> None:
    layer = nn.Conv3d(1, 8, 3, padding=1)
    assert [folds(layer.weight, width) for width in (12, 10, 9)] == [4, 2, 1]
    assert folds(nn.Conv3d(16, 16, 3, padding=1).weight, 12) == 1


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


SMALL = [(2, 3, 2), (1, 2, 1), (2, 3, 8), (5, 3, 1), (4, 4, 4), (7, 2, 5), (3, 1, 4)]
LAYERS: list[dict[str, Any]] = [
    *({"kernel_size": k, "stride": s, "padding": k // 2} for k in (1, 3, 5) for s in (1, 2, 3)),
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 2, "padding": 1},
    {"kernel_size": 3, "padding": 2},
    {"kernel_size": 3, "stride": 2, "padding": 2},
    {"kernel_size": 4, "padding": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 5, "padding": 2, "groups": 16},
]
ONLY_FORWARD: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
]
CASES = [(KINDS, case) for case in LAYERS + ONLY_FORWARD] + [(TRANSPOSED, case) for case in LAYERS]


@pytest.mark.parametrize(("kinds", "settings"), CASES, ids=str)
@pytest.mark.parametrize("ndim", [2, 3])
def test_small_volumes_in_bfloat16(
    ndim: int, kinds: dict[int, Any], settings: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    tried = 0
    for size in SMALL:
        theirs, ours = both(kinds[ndim](16, 32, **settings), ndim)
        x = torch.randn(2, 16, *size[:ndim])
        try:
            with torch.no_grad():
                left = theirs(x).numel()
        except RuntimeError:
            left = 0
        if left == 0:
            continue
        tried += 1
        found = results(ours, to_channels_last(x), half)
        exact = results(theirs.double(), x.double(), lambda layer, x: layer(x))
        assert found[0].dtype == torch.bfloat16
        for one, other in zip(found, exact, strict=True):
            assert one.shape == other.shape
            assert float((one - other).norm()) <= 0.02 * float(other.norm())
    assert tried > 0


@pytest.mark.parametrize("size", [(3, 3, 4), (16, 16, 4), (5, 4, 8), (3, 9, 6)])
@pytest.mark.parametrize("ndim", [2, 3])
def test_volumes_that_are_narrow_once_folded(ndim: int, size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs, ours = both(KINDS[ndim](2, 8, 3, padding=1), ndim)
    x = torch.randn(2, 2, *size[3 - ndim :])
    assert folds(ours.weight, size[-1]) > 1
    found = results(ours, to_channels_last(x), half)
    exact = results(theirs.double(), x.double(), lambda layer, x: layer(x))
    for one, other in zip(found, exact, strict=True):
        assert float((one - other).norm()) <= 0.02 * float(other.norm())


@pytest.mark.parametrize("kinds", [KINDS, TRANSPOSED])
@pytest.mark.parametrize(("width", "small"), [(2, True), (3, False)])
def test_only_small_volumes_are_trained_in_float32(
    kinds: dict[int, Any], width: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    precise = convolving._in_float32
    monkeypatch.setattr(
        convolving, "_in_float32", lambda *given: taken.append(given) or precise(*given)
    )
    _, layer = both(kinds[3](1, 16, 3, padding=1), 3)
    out = half(layer, torch.randn(1, 1, 9, 8, width))
    assert out.movedim(1, -1).is_contiguous()
    assert bool(taken) == small
    with torch.no_grad():
        half(layer, torch.randn(1, 1, 9, 8, width))
    assert len(taken) == small
    layer(torch.randn(1, 1, 9, 8, width))  # in float32 as it is
    assert len(taken) == small


def test_a_size_that_is_asked_for_of_a_small_transposed_one() -> None:
    theirs, ours = both(nn.ConvTranspose3d(16, 8, 5, stride=2, padding=2), 3)
    x = torch.randn(1, 16, 2, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x, output_size=[4, 4, 4])
    exact = theirs(x, output_size=[4, 4, 4])
    assert found.shape == exact.shape == (1, 8, 4, 4, 4)
    for one, other in zip(
        torch.autograd.grad(found.float().square().sum(), list(ours.parameters())),
        torch.autograd.grad(exact.square().sum(), list(theirs.parameters())),
        strict=True,
    ):
        assert float((one - other).norm()) <= 0.03 * float(other.norm())


@pytest.mark.parametrize("kinds", [KINDS, TRANSPOSED])
@pytest.mark.parametrize("given", [torch.float64, torch.bfloat16, torch.long])
def test_types_that_do_not_go_together_are_refused(
    kinds: dict[int, Any], given: torch.dtype
) -> None:
    _, layer = both(kinds[3](4, 4, 3, padding=1), 3)
    for size in (2, 8):
        with pytest.raises(RuntimeError):
            layer(torch.ones(1, 4, size, size, size, dtype=given))


def test_float64_stays_float64_under_autocast() -> None:
    for kinds in (KINDS, TRANSPOSED):
        _, layer = both(kinds[3](4, 4, 3, padding=1).double(), 3)
        assert half(layer, torch.ones(1, 4, 2, 2, 2).double()).dtype == torch.float64


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
