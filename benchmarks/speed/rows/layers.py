"""What networks are made of, forward and backward, against PyTorch's own."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Row
from benchmarks.speed.rows.kernels import in_both
from deepatlas.kernels.normalise import normalise
from deepatlas.kernels.softmax import softmax
from deepatlas.losses.overlap import DiceCE
from deepatlas.networks.blocks import channels_last
from deepatlas.networks.convolving import FASTER, to_channels_last
from deepatlas.networks.joined import convolve_joined

HALF = "bfloat16, channels last"
SLOPE, EPSILON = 0.01, 1e-5


def convolution(size: int, inputs_: int, outputs: int, transposed: bool) -> Case:
    """Gradients by the weights, and by the input where it is not an image; the same layer twice."""
    torch.manual_seed(0)
    kind = nn.ConvTranspose3d if transposed else nn.Conv3d
    more = {"stride": 2, "output_padding": 1} if transposed else {}
    plain = channels_last(kind(inputs_, outputs, 3, padding=1, **more).bfloat16(), 3)
    ours = copy.deepcopy(plain)
    ours.__class__ = FASTER[type(plain)]
    shape = [size // 2] * 3 if transposed else [size] * 3
    x = to_channels_last(inputs.smooth(2, inputs_, shape).bfloat16())
    return Case(
        [
            _trained("deepatlas", ours, [x], wanted=inputs_ > 1),
            _trained("PyTorch", plain, [x], wanted=inputs_ > 1),
        ],
        comparable=False,
        note=f"batch 2, {inputs_} to {outputs} channels",
    )


def _trained(name: str, layer: nn.Module, given: Sequence[Tensor], *, wanted: bool) -> Candidate:
    """The layer's output and its gradients; what follows needs channels last."""
    own = [x.clone().requires_grad_(wanted) for x in given]
    leaves = [*(own if wanted else []), *layer.parameters()]
    with torch.no_grad():
        upstream = torch.ones_like(to_channels_last(layer(*own)))

    def run() -> list[Tensor]:
        for x in leaves:
            x.grad = None
        out = to_channels_last(layer(*own))
        out.backward(upstream)
        return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]

    return Candidate(name, run, HALF)


def normalisation(size: int) -> Case:
    """Instance norm and LeakyReLU, with the gradients by all."""
    x, weight, bias = _to_normalise(size)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalise(x, weight, bias, SLOPE, EPSILON)[0]

    given, wanted = [x, weight, bias], [True] * 3
    peer = in_both("PyTorch", _normalised, given, wanted, how=HALF)
    return Case(
        [replace(in_both("deepatlas", ours, given, wanted, how=HALF), exact=peer.exact), peer],
        least_bytes=2 * x.numel() * 7,
        note="batch 2, 16 channels",
    )


def normalisation_forward(size: int) -> Case:
    """The same where no gradient is wanted: over the values themselves."""
    x, weight, bias = _to_normalise(size)
    own = x.clone()

    @torch.inference_mode()
    def ours() -> list[Tensor]:
        return [normalise(own, weight, bias, SLOPE, EPSILON, inplace=True)[0]]

    @torch.inference_mode()
    def peer() -> list[Tensor]:
        return [F.leaky_relu_(F.instance_norm(x, weight=weight, bias=bias, eps=EPSILON), SLOPE)]

    return Case(
        [Candidate("deepatlas", ours, HALF), Candidate("PyTorch", peer, HALF)],
        least_bytes=2 * x.numel() * 3,
        comparable=False,
        note="batch 2, 16 channels",
    )


def _to_normalise(size: int) -> tuple[Tensor, Tensor, Tensor]:
    x = to_channels_last(inputs.smooth(2, 16, [size] * 3).bfloat16())
    return x, torch.arange(8, 24) / 16, torch.arange(-8, 8) / 16


def _normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    return F.leaky_relu(F.instance_norm(x, weight=weight, bias=bias, eps=EPSILON), SLOPE)


def classes(size: int, count: int) -> Case:
    """Logits to probabilities, channels last as networks give them and as warps want them."""
    logits = to_channels_last(inputs.smooth(2, count, [size] * 3))
    return Case(
        [
            in_both("deepatlas", softmax, [logits], [True]),
            in_both("PyTorch", lambda x: to_channels_last(x.softmax(dim=1)), [logits], [True]),
        ],
        least_bytes=4 * 2 * count * size**3 * 5,
        note=f"batch 2, {count} classes, channels last",
    )


def overlap(size: int, count: int) -> Case:
    """Dice and cross-entropy of soft maps against hard ones, with and without compiled loops."""
    from deepatlas.kernels import plain

    shape, part = [size] * 3, DiceCE()
    p = to_channels_last(inputs.probabilities(2, count, shape))
    q = F.one_hot(inputs.labels(2, count, shape, seed=1), count).movedim(-1, 1).float()

    def uncompiled(p: Tensor, q: Tensor) -> Tensor:
        with plain():
            return part(p, q)

    return Case(
        [
            in_both("deepatlas", part, [p, q], [True, False]),
            in_both("ours in PyTorch", uncompiled, [p, q], [True, False]),
        ],
        least_bytes=4 * 2 * count * math.prod(shape) * 5,
        note=f"batch 2, {count} classes",
    )


def decoder(size: int) -> Case:
    """Of a coarser level at twice its size beside what came down, as our U-Net's finest has it."""
    torch.manual_seed(0)
    layer = channels_last(nn.Conv3d(32 + 16, 16, 3, padding=1).bfloat16(), 3)
    plain, ours = _Decoder(layer, ours=False), _Decoder(copy.deepcopy(layer), ours=True)
    ours.layer.__class__ = FASTER[type(layer)]
    coarse = to_channels_last(inputs.smooth(2, 32, [size // 2] * 3).bfloat16())
    skip = to_channels_last(inputs.smooth(2, 16, [size] * 3, seed=1).bfloat16())
    return Case(
        [
            _trained("deepatlas", ours, [coarse, skip], wanted=True),
            _trained("PyTorch", plain, [coarse, skip], wanted=True),
        ],
        comparable=False,
        note="batch 2, 32 and 16 channels to 16",
    )


class _Decoder(nn.Module):
    def __init__(self, layer: nn.Module, *, ours: bool) -> None:
        super().__init__()
        self.layer, self.ours = layer, ours

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.ours:
            return convolve_joined(self.layer, x, skip)
        doubled = F.interpolate(x, scale_factor=2, mode="nearest")
        out: Tensor = self.layer(torch.cat([doubled, skip], dim=1))
        return out


FULL, SMALL, TINY = {"size": 96}, {"size": 64}, {"size": 16}
FIRST = {"inputs_": 1, "outputs": 16, "transposed": False}
UP = {"inputs_": 64, "outputs": 16, "transposed": True}
ROWS = (
    Row("first-convolution", "a network's first convolution", convolution, {**FULL, **FIRST},
        {**SMALL, **FIRST}, {**TINY, **FIRST}, seconds=10.0),
    Row("transposed-convolution", "transposed convolution", convolution, {**FULL, **UP},
        {**SMALL, **UP}, {**TINY, **UP}, seconds=10.0),
    Row("normalisation", "norm and LeakyReLU", normalisation, FULL, SMALL, TINY, seconds=10.0),
    Row("normalisation-forward", "the same, forward only", normalisation_forward, FULL, SMALL,
        TINY, seconds=10.0),
    Row("softmax3", "softmax, 3 classes", classes, {**FULL, "count": 3}, {**SMALL, "count": 3},
        {**TINY, "count": 3}, seconds=10.0),
    Row("softmax32", "softmax, 32 classes", classes, {**FULL, "count": 32}, None,
        {**TINY, "count": 32}, seconds=20.0),
    Row("dice-ce4", "Dice and cross-entropy, 4 classes", overlap, {**FULL, "count": 4},
        {**SMALL, "count": 4}, {**TINY, "count": 4}, seconds=10.0),
    Row("dice-ce32", "Dice and cross-entropy, 32 classes", overlap, {**FULL, "count": 32}, None,
        {**TINY, "count": 32}, seconds=20.0),
    Row("decoder", "a decoder's first convolution", decoder, FULL, SMALL, TINY, seconds=10.0),
)  # fmt: skip
