"""Convolutions of what is joined, without joining it, against joining and convolving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepatlas.kernels import adding, plain
from deepatlas.networks import joined
from deepatlas.networks.convolving import FASTER, to_channels_last
from deepatlas.networks.joined import convolve_joined, corner_weight, join

KINDS: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
SHAPES = {2: (5, 4), 3: (4, 7, 5)}
Layer = Callable[..., Tensor]


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """As many entries as there were uses of the short way."""
    calls: list[None] = []

    def counted(*given: Tensor) -> Tensor:
        calls.append(None)
        return adding.add_at_corners(*given)

    class Counting:
        add_at_corners = staticmethod(counted)

    monkeypatch.setattr(joined, "adding", Counting)
    return calls


def layer_of(ndim: int, inputs: int, outputs: int, **more: Any) -> Any:
    layer = KINDS[ndim](inputs, outputs, 3, **{"padding": 1, **more})
    layer.__class__ = FASTER[type(layer)]
    return layer


def maps(ndim: int, channels: tuple[int, int], shape: tuple[int, ...] | None = None) -> Any:
    shape = shape or SHAPES[ndim]
    x = torch.randn(2, channels[0], *shape)
    skip = torch.randn(2, channels[1], *[2 * n for n in shape])
    return to_channels_last(x), to_channels_last(skip)


def results(layer: Any, convolve: Layer, x: Tensor, skip: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, skip)]
    out = convolve(layer, *leaves)
    torch.manual_seed(1)
    upstream = torch.randn(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad(out, [*leaves, *layer.parameters()], upstream)]


def exact(layer: Any, x: Tensor, skip: Tensor) -> list[Tensor]:
    wide = layer_of(x.ndim - 2, layer.in_channels, layer.out_channels, bias=layer.bias is not None)
    wide.load_state_dict(layer.state_dict())
    joining = results(wide.double(), lambda c, *both: c(join(*both)), x.double(), skip.double())
    return [value.float() for value in joining]


def half(layer: Any, x: Tensor, skip: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return convolve_joined(layer, x, skip)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [(8, 4), (5, 3), (16, 2), (6, 16)])
@pytest.mark.parametrize("bias", [True, False])
def test_float32(ndim: int, channels: tuple[int, int], bias: bool, used: list[None]) -> None:
    torch.manual_seed(0)
    layer, both = layer_of(ndim, sum(channels), 7, bias=bias), maps(ndim, channels)
    found = results(layer, convolve_joined, *both)
    assert used
    for one, other in zip(found, exact(layer, *both), strict=True):
        assert float((one - other).abs().max()) <= 2e-6 * float(other.abs().max())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [(16, 16), (8, 4), (16, 2)])  # a few are folded
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_bfloat16(
    ndim: int, channels: tuple[int, int], given: torch.dtype, used: list[None]
) -> None:
    torch.manual_seed(0)
    layer = layer_of(ndim, sum(channels), 16)
    x, skip = (t.bfloat16() for t in maps(ndim, channels))
    found = results(layer, half, x.to(given), skip)  # autocast makes one type of them
    assert used
    assert found[0].dtype == torch.bfloat16
    for one, other in zip(found, exact(layer, x, skip), strict=True):
        assert float((one.float() - other).norm()) <= 0.01 * float(other.norm())


@pytest.mark.parametrize("channels", [(16, 2), (16, 16)])  # folded, and not
@pytest.mark.parametrize("frozen", ["layer", "coarse", "fine", "layer and fine"])
def test_gradients_where_some_are_not_wanted(channels: tuple[int, int], frozen: str) -> None:
    torch.manual_seed(0)
    layer, (x, skip) = layer_of(3, sum(channels), 16), maps(3, channels)
    layer.requires_grad_("layer" not in frozen)
    x.requires_grad_(frozen != "coarse")
    skip.requires_grad_("fine" not in frozen)
    leaves = [t for t in (x, skip, *layer.parameters()) if t.requires_grad]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(convolve_joined(layer, x, skip).float().square().sum(), leaves)
        wanted = torch.autograd.grad(layer(join(x, skip)).float().square().sum(), leaves)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm()) <= 0.02 * float(other.norm())


def test_layers_that_somebody_listens_to_are_called(used: list[None]) -> None:
    layer, both = layer_of(3, 8, 4), maps(3, (4, 4))
    heard: list[torch.Size] = []
    layer.register_forward_hook(lambda module, given, out: heard.append(out.shape))
    convolve_joined(layer, *both)
    assert heard
    assert not used


def test_transposed_convolutions_are_not_taken_for_plain_ones(used: list[None]) -> None:
    layer, both = nn.ConvTranspose3d(8, 4, 3, padding=1), maps(3, (4, 4))
    assert torch.equal(convolve_joined(layer, *both), layer(join(*both)))
    assert not used


def test_weights_are_summed_before_they_are_rounded() -> None:
    layer = layer_of(3, 2, 1, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0, 1, 1] = torch.tensor([0.0, 1.001, -1.0])  # to 1.0 in bfloat16
        out = half(layer, torch.ones(1, 1, 6, 6, 6), torch.ones(1, 1, 12, 12, 12))
    assert torch.allclose(out[..., 0::2].float(), torch.tensor(0.001), rtol=0.01)


def test_sums_of_weights_by_hand() -> None:
    weight = torch.tensor([1.0, 10.0, 100.0]).reshape(1, 1, 3, 1).expand(1, 1, 3, 3)
    found = corner_weight(weight)  # fine voxels (above, below) x (left, right), by taps
    assert found.shape == (4, 1, 2, 2)
    assert found[0, 0].tolist() == [[22, 11], [200, 100]]  # three columns: two and one
    assert found[1, 0].tolist() == [[11, 22], [100, 200]]
    assert found[2, 0].tolist() == [[2, 1], [220, 110]]


def test_without_a_skip_it_is_the_layer() -> None:
    layer, x = layer_of(3, 4, 4), torch.randn(1, 4, 4, 5, 6)
    assert torch.equal(convolve_joined(layer, x), layer(x))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [({"padding": 2, "dilation": 2}, (4, 5, 6)), ({"groups": 2}, (4, 5, 6)),
     ({"padding_mode": "replicate"}, (4, 5, 6)), ({"stride": 2}, (4, 5, 6)), ({}, (4, 3, 6))],
)  # fmt: skip
def test_other_convolutions_and_small_maps_are_joined(
    settings: dict[str, Any], shape: tuple[int, ...], used: list[None]
) -> None:
    layer, both = layer_of(3, 8, 4, **settings), maps(3, (4, 4), shape)
    assert torch.equal(convolve_joined(layer, *both), layer(join(*both)))
    assert not used


def test_without_kernels_and_in_other_types_they_are_joined(used: list[None]) -> None:
    layer, both = layer_of(3, 8, 4), maps(3, (4, 4))
    with plain():
        convolve_joined(layer, *both)
    convolve_joined(layer.double(), *(t.double() for t in both))
    with torch.autocast("cpu", torch.float16):
        convolve_joined(layer.float(), *both)
    convolve_joined(layer, both[0], both[1].double())  # which is converted
    assert not used


@pytest.mark.parametrize("skip", [(1, 4, 9, 10), (1, 4, 8, 12), (2, 4, 8, 10)])
def test_sizes_that_do_not_fit_are_refused(skip: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        convolve_joined(layer_of(2, 8, 4), torch.ones(1, 4, 4, 5), torch.ones(skip))


def test_channels_last_comes_out_and_goes_back() -> None:
    layer, (x, skip) = layer_of(3, 8, 4), maps(3, (4, 4))
    x.requires_grad_()
    out = convolve_joined(layer, x, skip)
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)


def test_activations_in_place_may_follow() -> None:
    torch.manual_seed(0)
    layer, both = layer_of(3, 8, 4), maps(3, (4, 4))
    slope = nn.LeakyReLU(0.2, inplace=True)
    found = results(layer, lambda *given: slope(convolve_joined(*given)), *both)
    wanted = results(layer, lambda c, *given: slope(c(join(*given))), *both)
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm()) <= 1e-5 * float(other.norm())
