"""Fused norm, dropout and activation of MONAI's networks against the parts that they replace."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepatlas.kernels import plain
from deepatlas.networks.fuse import NormDropActivation, Skip, fuse

monai_nets = pytest.importorskip("monai.networks.nets")


def unet(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    made = monai_nets.UNet(3, 2, 3, (4, 6, 8), (1, 2), **more)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def fused_parts(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, NormDropActivation)]


def outcome(network: nn.Module, x: Tensor) -> Iterator[Tensor]:
    leaf = x.clone().requires_grad_()
    out = network(leaf)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    yield from (out.detach(), leaf.grad, *[p.grad for p in network.parameters()])
    yield from (b.double() for b in network.buffers())


VARIANTS = [
    {"norm": "batch"},
    {"norm": "instance"},
    {"norm": ("instance", {"affine": True}), "act": ("leakyrelu", {"negative_slope": 0.1})},
    {"norm": "batch", "act": "relu"},
]


@pytest.mark.parametrize("more", VARIANTS, ids=str)
def test_training_step_is_that_of_the_parts(more: dict[str, Any]) -> None:
    plain_one = unet(**more)
    fast = fuse(copy.deepcopy(plain_one))
    assert fused_parts(fast)
    assert list(fast.state_dict()) == list(plain_one.state_dict())
    x = torch.randn(2, 2, 8, 12, 10)
    for one, other in zip(outcome(fast, x), outcome(plain_one, x), strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()) + 1e-3
        )


@pytest.mark.parametrize("more", VARIANTS, ids=str)
def test_a_network_at_rest_is_that_of_the_parts(more: dict[str, Any]) -> None:
    network = unet(**more, dropout=0.3)
    x = torch.randn(2, 2, 8, 12, 10)
    network(x)  # running statistics move away from 0 and 1
    network.eval()
    wanted = network(x).detach()
    fast = fuse(network)
    assert not any(module.training for module in fast.modules())
    with torch.no_grad():
        torch.testing.assert_close(fast(x), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast(x).detach(), wanted, rtol=1e-4, atol=1e-5)


def test_dropout_leaves_its_share_scaled_and_the_gradient_follows() -> None:
    torch.manual_seed(0)
    parts = nn.Sequential(nn.InstanceNorm3d(16), nn.Dropout(0.3), nn.LeakyReLU(0.5))
    fast = fuse(nn.ModuleList([copy.deepcopy(parts)]))[0]  # type: ignore[index]
    x = torch.randn(2, 16, 16, 20, 18).contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    y = fast(x)
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(0.7, abs=0.003)
    for axes in ((0, 2, 3, 4), (0, 1, 3, 4), (1, 2, 3, 4)):  # no axis sees a pattern
        assert float(kept.float().mean(dim=axes).std()) < 0.01
    whole = parts.eval()(x)
    torch.testing.assert_close(y[kept], whole[kept] / 0.7, rtol=1e-4, atol=1e-5)
    upstream = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, x, upstream)
    (wanted,) = torch.autograd.grad(whole, x, upstream * kept / 0.7)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_dropout_follows_the_generator() -> None:
    fast = fuse(nn.ModuleList([nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.PReLU())]))[0]  # type: ignore[index]
    x = torch.randn(1, 3, 9, 11)
    torch.manual_seed(5)
    first, second = fast(x), fast(x)
    torch.manual_seed(5)
    assert torch.equal(fast(x), first)
    assert not torch.equal(second, first)


def test_without_kernels_it_is_its_parts() -> None:
    parts = nn.Sequential(nn.BatchNorm3d(3), nn.Dropout(0.5), nn.PReLU())
    fast = fuse(nn.ModuleList([copy.deepcopy(parts)]))[0]  # type: ignore[index]
    x = torch.randn(2, 3, 5, 6, 7)
    with plain():
        torch.manual_seed(1)
        found = fast(x)
    torch.manual_seed(1)
    assert torch.equal(found, parts(x))


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.BatchNorm3d(3), nn.PReLU(3)),
        nn.Sequential(nn.BatchNorm3d(3), nn.Dropout3d(0.5), nn.ReLU()),
        nn.Sequential(nn.BatchNorm3d(3, track_running_stats=False), nn.ReLU()),
        nn.Sequential(nn.GroupNorm(1, 3), nn.ReLU()),
        nn.Sequential(nn.BatchNorm3d(3), nn.ELU()),
        nn.Sequential(nn.ReLU(), nn.BatchNorm3d(3)),
        type("Own", (nn.Sequential,), {})(nn.BatchNorm3d(3), nn.ReLU()),
        nn.Sequential(nn.BatchNorm3d(3), type("Own", (nn.ReLU,), {})()),
    ],
    ids=str,
)
def test_what_it_does_not_know_stays(other: nn.Module) -> None:
    assert not fused_parts(fuse(nn.ModuleList([other])))


def test_skip_connections_and_parts_within_parts() -> None:
    blocks = pytest.importorskip("monai.networks.layers.simplelayers")
    torch.manual_seed(0)
    inner = nn.Sequential(nn.InstanceNorm2d(3), nn.PReLU())
    network = blocks.SkipConnection(blocks.SkipConnection(inner)).train()
    network.submodule.submodule[0].eval()
    plain_one = copy.deepcopy(network)
    fast = fuse(network)
    assert [type(part) for part in list(fast.modules())[:3]] == [Skip, Skip, NormDropActivation]
    assert [p.training for p in fast.modules()] == [p.training for p in plain_one.modules()]
    assert list(fast.state_dict()) == list(plain_one.state_dict())
    x = torch.randn(2, 3, 6, 5)
    for one, other in zip(outcome(fast, x), outcome(plain_one, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_skips_that_do_not_fit_are_refused_as_before() -> None:
    blocks = pytest.importorskip("monai.networks.layers.simplelayers")
    network = fuse(blocks.SkipConnection(nn.AvgPool2d(2)))
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        network(torch.randn(2, 3, 6, 2))


def test_skips_of_another_kind_or_with_listeners_stay() -> None:
    blocks = pytest.importorskip("monai.networks.layers.simplelayers")
    heard: list[str] = []
    listened = blocks.SkipConnection(nn.Identity())
    listened.register_forward_hook(lambda *given: heard.append("called"))
    network = nn.Sequential(blocks.SkipConnection(nn.Identity(), mode="add"), listened)
    x = torch.randn(2, 3, 6, 5)
    expected = network(x)
    assert [type(part) for part in fuse(network)] == [blocks.SkipConnection] * 2
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)
    assert len(heard) == 2


@pytest.mark.parametrize(
    ("norm", "shape", "training"),
    [
        (nn.BatchNorm2d(4), (2, 8, 5, 6), False),
        (nn.BatchNorm2d(4), (2, 4, 5, 6, 3), True),
        (nn.BatchNorm3d(4), (1, 4, 1, 1, 1), True),
        (nn.InstanceNorm3d(4), (2, 4, 1, 1, 1), True),
    ],
    ids=str,
)
def test_what_pytorch_refuses_is_refused(
    norm: nn.Module, shape: tuple[int, ...], training: bool
) -> None:
    network = fuse(nn.ModuleList([nn.Sequential(norm, nn.ReLU())])).train(training)[0]
    assert isinstance(network, NormDropActivation)
    with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
        network(torch.rand(shape))


def test_a_scan_without_a_batch() -> None:
    network = fuse(nn.ModuleList([nn.Sequential(nn.InstanceNorm2d(4), nn.ReLU())]))[0]
    x = torch.rand(4, 6, 5)
    with plain():
        expected = network(x)
    torch.testing.assert_close(network(x), expected)


def test_a_slope_that_changes_before_the_way_back_changes_nothing() -> None:
    network = fuse(nn.ModuleList([nn.Sequential(nn.BatchNorm2d(4), nn.PReLU())]))[0]
    x = torch.randn(2, 4, 6, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(network(x).square().sum(), x)
    out = network(x).square().sum()
    with torch.no_grad():
        network[1].weight.fill_(2.0)
    torch.testing.assert_close(torch.autograd.grad(out, x)[0], expected)
