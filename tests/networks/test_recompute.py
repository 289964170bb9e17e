"""Levels computed again in the backward pass: the same numbers, and less that is kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from deepatlas.errors import BadInput
from deepatlas.networks.recompute import level, make_recompute
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation

Made = tuple[nn.Module, Callable[..., Tensor]]
REGISTRATION = {"kind": "voxelmorph", "encoder": [4, 6], "decoder": [6, 5], "norm": True}
SHAPES = {2: (21, 14), 3: (13, 10, 12)}


def segmentation(ndim: int) -> Made:
    network = build_segmentation({"kind": "unet", "features": [4, 6]}, ndim=ndim, classes=3)
    return network, lambda image, _: network(image).softmax(dim=1)[:, 1]


def registration(ndim: int, final: tuple[int, ...] = (4,)) -> Made:
    network = build_registration({**REGISTRATION, "final": list(final)}, ndim=ndim)
    nn.init.normal_(network.flow.weight, std=0.1)
    return network, lambda moving, fixed: network(moving, fixed).displacement


def without_final(ndim: int) -> Made:
    return registration(ndim, ())


@pytest.mark.parametrize("make", [segmentation, registration, without_final])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("ndim", [2, 3])
def test_same_gradients_and_less_kept(ndim: int, half: bool, make: Callable[[int], Made]) -> None:
    torch.manual_seed(2)
    network, apply = make(ndim)
    images = torch.rand(2, 2, 1, *SHAPES[ndim])
    weight = torch.rand(SHAPES[ndim])
    results, kept = [], []
    for recompute in (False, True):
        if recompute:
            make_recompute(network, "networks.x")
        network.zero_grad()
        sizes: list[int] = []

        def note(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        keeping = torch.autograd.graph.saved_tensors_hooks(note, lambda x: x)
        with torch.autocast("cpu", torch.bfloat16, enabled=half), keeping:
            out = apply(*images)
        (out * weight).sum().backward()
        results.append([out.detach(), *(p.grad for p in network.parameters())])
        kept.append(sum(sizes))
    for one, other in zip(*results, strict=True):
        assert one is not None
        assert torch.equal(one, other)
    assert kept[1] < 0.9 * kept[0]


def test_the_same_voxels_are_dropped_again() -> None:
    layers = nn.Sequential(nn.Linear(50, 50), nn.Dropout(0.5), nn.Tanh(), nn.Linear(50, 3))
    x = torch.rand(4, 50)
    gradients = []
    for recompute in (False, True):
        layers.zero_grad()
        torch.manual_seed(1)
        out = level(layers, x, recompute=recompute).square().sum()
        torch.rand(3)  # drawn between the passes, as by a dropout further on
        out.backward()
        gradients.append(layers[0].weight.grad.clone())
    assert gradients[0].any()
    assert torch.equal(*gradients)


def test_without_gradients_nothing_is_repeated() -> None:
    calls = []

    def double(x: Tensor) -> Tensor:
        calls.append(x)
        return 2 * x

    with torch.inference_mode():
        level(double, torch.ones(2), recompute=True)
    assert len(calls) == 1


def test_a_network_from_outside_is_refused() -> None:
    spec = {"kind": "torch.nn:Conv2d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
    network = build_segmentation(spec, ndim=2, classes=3)
    with pytest.raises(BadInput, match=r"training\.recompute: networks\.segmentation .* outside"):
        make_recompute(network, "networks.segmentation")
