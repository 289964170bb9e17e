"""Convolutions as they cost least on CPUs: the same layers and weights, results but for rounding.

In bfloat16, oneDNN's convolutions of few channels leave most of a matrix unit empty. Channels last
in memory, two or four voxels side by side along the last axis are one voxel with as many times the
channels, at no cost; a convolution of those, with the same weights at their places and zeros
between, does the same in a half to a quarter of the time. A map of one channel is handed over so
that oneDNN takes it for channels last. And the gradient by the bias of a transposed convolution is
a sum, where oneDNN takes three times as long as for all the rest.

One more difference: where a volume is hardly larger than the kernel along an axis, training is in
float32. There, on processors with AVX-512 but without AMX, oneDNN's bfloat16 gradients by the
weights are wrong, often infinite (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepatlas.kernels.normalise import channel_sums

_WIDEST, _FEW = 32, 8  # channels that folding makes at most; above the second there is no gain
_PLAIN = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1}


class _Folding(nn.Module):
    """Of `Convolution2d` and `Convolution3d`: voxels side by side are taken as one."""

    weight: Tensor
    bias: Tensor | None

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Called by `nn.Conv2d` and `nn.Conv3d` for their work."""
        given: Any = self
        if x.device.type != "cpu" or x.ndim != weight.ndim or x.shape[1] != given.in_channels:
            return super()._conv_forward(x, weight, bias)  # type: ignore[misc]
        half = _half(x, weight)
        if half and torch.is_grad_enabled() and _is_small(self, x.shape[2:], _results(self, x)):
            return _in_float32(super()._conv_forward, x, weight, bias)  # type: ignore[misc]
        if not half or not is_plain(self):
            return super()._conv_forward(strictly_channels_last(x), weight, bias)  # type: ignore[misc]
        return convolve(x, weight, bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A plain convolution (see `is_plain`) on the CPU."""
    plain = F.conv2d if x.ndim == 4 else F.conv3d
    fold = folds(weight, x.shape[-1]) if _half(x, weight) else 1
    if fold == 1:
        return plain(strictly_channels_last(x), weight, bias, padding=1)
    with torch.autocast("cpu", enabled=False):  # zeros added to float32 weights: exact
        weight = folded_weight(weight, fold)
        bias = None if bias is None else bias.repeat(fold)
    return unfolded(plain(folded(x, fold), weight, bias, padding=1), fold)


def is_plain(layer: Any) -> bool:
    """Whether a convolution has a kernel of 3 and a border of one 0, and keeps the size."""
    if not isinstance(layer, (nn.Conv2d, nn.Conv3d)):
        return False
    plain = all(set(getattr(layer, key)) == {value} for key, value in _PLAIN.items())
    return plain and layer.groups == 1 and layer.padding_mode == "zeros"


def _half(x: Tensor, weight: Tensor) -> bool:
    """Whether their convolution is computed in bfloat16."""
    kinds = {x.dtype, weight.dtype}
    if torch.is_autocast_enabled("cpu"):  # which leaves float64 alone
        wide = torch.float64 in kinds
        return torch.get_autocast_dtype("cpu") == torch.bfloat16 and not wide
    return kinds == {torch.bfloat16}


def _is_small(layer: Any, fine: Sequence[int], coarse: Sequence[int]) -> bool:
    """Whether a convolution from one size to another, or back, hardly has room for its kernel."""
    pads = [0] * len(fine) if isinstance(layer.padding, str) else layer.padding
    axes = zip(fine, coarse, layer.kernel_size, layer.dilation, pads, strict=True)
    return any(
        min(one, other) <= max(apart * (size - 1), 2 * pad) for one, other, size, apart, pad in axes
    )


def _results(layer: Any, x: Tensor) -> list[int]:
    """Voxels of a convolution's result along every axis."""
    if layer.padding == "same":
        return list(x.shape[2:])
    pads = [0] * (x.ndim - 2) if isinstance(layer.padding, str) else layer.padding
    axes = zip(x.shape[2:], layer.kernel_size, layer.dilation, layer.stride, pads, strict=True)
    return [(n + 2 * pad - far * (k - 1) - 1) // step + 1 for n, k, far, step, pad in axes]


def _in_float32(
    convolve: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any
) -> Tensor:
    """What it makes of tensors in bfloat16, computed in float32; channels last."""
    bias = None if bias is None else bias.float()
    with torch.autocast("cpu", enabled=False):
        out = convolve(x.float(), weight.float(), bias, *numbers)
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return out.to(torch.bfloat16, memory_format=layout)


class Convolution2d(_Folding, nn.Conv2d):
    """`nn.Conv2d`, faster on CPUs where there are few channels."""


class Convolution3d(_Folding, nn.Conv3d):
    """`nn.Conv3d`, faster on CPUs where there are few channels."""


def folds(weight: Tensor, width: int) -> int:
    """How many voxels along the last axis are best taken as one."""
    if min(weight.shape[:2]) > _FEW:
        return 1
    most = max(weight.shape[:2])
    return next((n for n in (4, 2) if n * most <= _WIDEST and width % n == 0), 1)


def folded(x: Tensor, fold: int) -> Tensor:
    """(B, C, *S) as (B, fold * C, ..., S_last / fold), channels last; a view where x is so."""
    rows = x.movedim(1, -1).contiguous()
    shape = (*rows.shape[:-2], rows.shape[-2] // fold, fold * rows.shape[-1])
    return strictly_channels_last(rows.view(shape).movedim(-1, 1))


def unfolded(x: Tensor, fold: int) -> Tensor:
    """The inverse of `folded`."""
    rows = x.movedim(1, -1).contiguous()
    shape = (*rows.shape[:-2], fold * rows.shape[-2], rows.shape[-1] // fold)
    return rows.view(shape).movedim(-1, 1)


def folded_weight(weight: Tensor, fold: int) -> Tensor:
    """(O, I, ..., 3) as (fold * O, fold * I, ..., 3), for folded inputs and outputs."""
    outputs, inputs = weight.shape[:2]
    placed = torch.einsum("oi...k,pqbk->poqi...b", weight, _PLACES[fold].to(weight))
    placed = placed.reshape(fold * outputs, fold * inputs, *weight.shape[2:])
    layout = torch.channels_last if weight.ndim == 4 else torch.channels_last_3d
    return placed.contiguous(memory_format=layout)


def _places(fold: int) -> Tensor:
    """(p, q, b, k): 1 where output p of a block takes input q of block b - 1 by weight k."""
    places = torch.zeros(fold, fold, 3, 3, device="cpu")
    for output in range(fold):
        for k in range(3):
            block, place = divmod(output + k - 1, fold)
            places[output, place, block + 1, k] = 1
    return places


with torch.inference_mode(False):  # they take part in steps with gradients
    _PLACES = {fold: _places(fold) for fold in (2, 4)}


def to_channels_last(x: Tensor) -> Tensor:
    """The same values, channels last in memory."""
    layout = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
    return x.contiguous(memory_format=layout)


def strictly_channels_last(x: Tensor) -> Tensor:
    """The same, with the strides of channels last where there is one channel, too."""
    if x.shape[1] != 1 or not x.movedim(1, -1).is_contiguous():
        return x
    strides = x.movedim(1, -1).stride()
    return x.as_strided(x.shape, (strides[0], 1, *strides[1:-1]))


class _SummingBias(nn.Module):
    """Of `TransposedConvolution2d` and `TransposedConvolution3d`."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As of the class it stands for."""
        given: Any = self
        weight, bias = given.weight, given.bias
        if x.device.type != "cpu" or x.ndim != weight.ndim or not torch.is_grad_enabled():
            return super().forward(x, output_size)
        numbers = self._numbers(x, output_size)
        out: Tensor
        if _half(x, weight) and _is_small(self, self._results(x, numbers), x.shape[2:]):
            convolve = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
            out = _in_float32(convolve, x, weight, bias, *numbers)
        elif bias is None or x.dtype == torch.float64:
            out = super().forward(x, output_size)
        else:
            tensors = [x, weight, bias]
            if torch.is_autocast_enabled("cpu"):
                tensors = [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]
            out = _SummedBias.apply(*tensors, *numbers)
        return out

    def _numbers(self, x: Tensor, output_size: list[int] | None) -> tuple[Any, ...]:
        """Stride, padding, output padding, groups and dilation, in PyTorch's order."""
        given: Any = self
        more = given._output_padding(
            x, output_size, given.stride, given.padding, given.kernel_size, x.ndim - 2,
            given.dilation,
        )  # fmt: skip
        return given.stride, given.padding, tuple(more), given.groups, given.dilation

    def _results(self, x: Tensor, numbers: tuple[Any, ...]) -> list[int]:
        given: Any = self
        stride, padding, more, _, dilation = numbers
        axes = zip(x.shape[2:], given.kernel_size, stride, padding, more, dilation, strict=True)
        return [
            (n - 1) * step - 2 * pad + far * (k - 1) + extra + 1
            for n, k, step, pad, extra, far in axes
        ]


class TransposedConvolution2d(_SummingBias, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, faster on CPUs."""


class TransposedConvolution3d(_SummingBias, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`, faster on CPUs."""


class _SummedBias(torch.autograd.Function):
    """A transposed convolution whose gradient by the bias is summed by itself."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int],
        padding: Sequence[int], output_padding: Sequence[int], groups: int, dilation: Sequence[int],
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight)
        ctx.numbers = stride, padding, dilation, True, output_padding, groups
        ctx.dtype = bias.dtype
        return torch.ops.aten.convolution(x, weight, bias, *ctx.numbers)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, _ = torch.ops.aten.convolution_backward(
            upstream, x, weight, None, *ctx.numbers, [*ctx.needs_input_grad[:2], False]
        )
        by_bias = None
        if ctx.needs_input_grad[2]:
            by_bias = channel_sums(upstream).to(ctx.dtype)
        return by_x, by_weight, by_bias, *[None] * 5


FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Convolution2d,
    nn.Conv3d: Convolution3d,
    nn.ConvTranspose2d: TransposedConvolution2d,
    nn.ConvTranspose3d: TransposedConvolution3d,
}
