"""Other packages' networks with our parts: what follows a convolution as one operation, and it.

MONAI's `ADN`, and every `nn.Sequential` of norm, dropout and activation in this order, does the
same as before: its parts, their names, weights and running statistics stay. Only the random numbers
of dropout differ. Convolutions are those of `convolving`. The gradient of MONAI's `SkipConnection`
is taken apart into tensors that have their memory to themselves, which autograd adds faster.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from deepatlas import kernels
from deepatlas.kernels import normalise
from deepatlas.networks.convolving import FASTER

_BATCH = (nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE = (nn.InstanceNorm2d, nn.InstanceNorm3d)
_ACTIVATIONS = (nn.PReLU, nn.LeakyReLU, nn.ReLU)


class NormDropActivation(nn.Sequential):
    """What it is made of, run by one kernel where that can be; see `fuse`."""

    def forward(self, x: Tensor) -> Tensor:
        norm, *rest = cast("list[Any]", list(self))
        if not kernels.usable(x, half=True) or not _fits_norm(x, norm):
            return super().forward(x)
        slope = _slope(rest[-1])
        drop = sum(part.p for part in rest[:-1] if part.training)
        if isinstance(norm, _BATCH) and not norm.training:
            if torch.is_grad_enabled() or drop:
                return super().forward(x)
            return self._fixed(x, norm, slope)
        weight, bias = _learned(norm, x)
        pooled = isinstance(norm, _BATCH)
        y, mean, variance = normalise.normalise(
            x, weight, bias, slope, norm.eps, drop=drop, pooled=pooled
        )
        if pooled:
            _follow(norm, mean[0], variance[0], x.numel() // x.shape[1])
        return y

    def _fixed(self, x: Tensor, norm: Any, slope: Tensor | float) -> Tensor:
        """With running statistics, as a constant."""
        weight, bias = _learned(norm, x)
        scale = weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = bias - norm.running_mean * scale
        return normalise.scale_and_shift(x, scale, shift, float(slope))


def fuse(network: nn.Module) -> nn.Module:
    """The network, in place, with our convolutions and such sequences run as one operation."""
    for part in network.modules():
        if type(part) in FASTER:
            part.__class__ = FASTER[type(part)]
        elif _concatenates(part):
            part.__class__ = Skip
        elif _runs_in_order(part) and _fits(list(part.children())):
            part.__class__ = NormDropActivation
    return network


class Skip(nn.Module):
    """MONAI's `SkipConnection` that concatenates: x beside what its submodule makes of x."""

    submodule: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return _Concatenated.apply(x, self.submodule(x))


class _Concatenated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.channels = one.shape[1], other.shape[1]
        fit = one.dtype == other.dtype and one[:, 0].shape == other[:, 0].shape
        if not fit or not kernels.usable(one, other, half=True):
            return torch.cat([one, other], dim=1)
        out = kernels.empty((*one.shape[:1], *one.shape[2:], sum(ctx.channels)), one.dtype)
        out = out.movedim(-1, 1)
        for place, part in zip(out.split(ctx.channels, dim=1), (one, other), strict=True):
            place.copy_(part)
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        return upstream.split(ctx.channels, dim=1)  # views: the sum they go into reads them once


def _concatenates(module: nn.Module) -> bool:
    """Whether it is such a connection, and nobody listens to it."""
    made: Any = module
    return (
        _is_monai(module, "SkipConnection")
        and (made.mode, made.dim) == ("cat", 1)
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    )


def _is_monai(module: nn.Module, name: str) -> bool:
    kind = type(module)
    return (kind.__name__, kind.__module__.split(".")[0]) == (name, "monai")


def _runs_in_order(module: nn.Module) -> bool:
    """Whether calling it is calling its parts one after the other."""
    plain = type(module) is nn.Sequential or _is_monai(module, "ADN")
    hooks = any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
        for part in module.modules()
    )
    return plain and not hooks


def _fits(parts: list[nn.Module]) -> bool:
    """Whether these are a norm, perhaps a dropout, and an activation that the kernels know."""
    if len(parts) not in (2, 3):
        return False
    norm, activation = parts[0], parts[-1]
    if type(norm) not in (*_BATCH, *_INSTANCE) or type(activation) not in _ACTIVATIONS:
        return False
    follows = isinstance(norm, _BATCH) and norm.track_running_stats and norm.momentum is not None
    known = follows or (isinstance(norm, _INSTANCE) and not norm.track_running_stats)
    dropout = all(type(part) is nn.Dropout and part.p < 1 for part in parts[1:-1])
    one_slope = not isinstance(activation, nn.PReLU) or activation.num_parameters == 1
    return known and dropout and one_slope


def _fits_norm(x: Tensor, norm: Any) -> bool:
    """Whether PyTorch's norm would take it, of a batch and with more than one value to compare."""
    axes = 3 if isinstance(norm, (nn.BatchNorm3d, nn.InstanceNorm3d)) else 2
    if x.ndim != axes + 2 or x.shape[1] != norm.num_features:
        return False
    of_one = x[:, 0] if isinstance(norm, _BATCH) else x[:1, 0]
    return of_one.numel() > 1


def _slope(activation: Any) -> Tensor | float:
    slope: Tensor | float = getattr(activation, "negative_slope", 0.0)  # none: of ReLU
    return activation.weight if isinstance(activation, nn.PReLU) else slope


def _learned(norm: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, (C) each; one and zero where the norm has none."""
    if norm.weight is not None:
        return norm.weight, norm.bias
    return torch.ones(x.shape[1]), torch.zeros(x.shape[1])


@torch.no_grad()
def _follow(norm: Any, mean: Tensor, variance: Tensor, count: int) -> None:
    """Running statistics, as PyTorch keeps them."""
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    unbiased = variance * (count / max(count - 1, 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var), norm.momentum)
    norm.num_batches_tracked += 1
