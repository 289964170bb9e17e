"""MONAI's batch norm, dropout and PReLU after a convolution, as one operation.

The same formulas and weights. PyTorch draws a dropout mask one random number at a time on one
thread, which costs more than the convolutions; here a number of 64 bits serves four voxels (the
probability is right to 1 in 65536). Between reading the convolution's output and writing the
activation nothing is kept but one byte a voxel, and the gradient is in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from monai.networks.blocks import ADN
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_ROW = 64  # voxels taken as one row of contiguous memory


class FusedADN(nn.Module):
    """An `ADN` of batch norm, dropout and a PReLU of one weight; its parts keep their names."""

    def __init__(self, parts: ADN) -> None:
        super().__init__()
        self.N, self.D, self.A = parts.N, parts.D, parts.A

    def forward(self, x: Tensor) -> Tensor:
        slope, norm = self.A.weight, self.N
        if self.training:
            drop = self.D.p
            out, mean, variance = _Fused.apply(x, norm.weight, norm.bias, slope, drop, norm.eps)
            with torch.no_grad():
                count = x.numel() / x.shape[1]
                norm.running_mean.lerp_(mean, norm.momentum)
                norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
                norm.num_batches_tracked += 1
            return out
        with torch.no_grad():  # in a step, a network in eval mode is a constant
            scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            shift = norm.bias - norm.running_mean * scale
            rows = _rows(x)
            out = torch.addcmul(_spread(shift, rows), rows, _spread(scale, rows))
            return _back(F.leaky_relu_(out, float(slope)), x)


def fused(network: nn.Module) -> nn.Module:
    """The network with every `ADN` replaced, in place; weights and their names stay."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ADN):
                setattr(parent, name, FusedADN(child))
    return network


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, drop: float, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows, channels = _rows(x), x.shape[1]
        count = x.numel() / channels
        mean = _sum(rows, channels) / count
        variance = (_sum(rows * rows, channels) / count - mean * mean).clamp_min(0)
        inverse = torch.rsqrt(variance + eps)
        keep = 1 / (1 - drop)  # what stays grows by it; PReLU lets a positive factor through
        scale = weight * inverse * keep
        shift = bias * keep - mean * scale
        out = torch.addcmul(_spread(shift, rows), rows, _spread(scale, rows))
        out = F.leaky_relu_(out, float(slope))
        kept = _draw(out, drop) if drop else None
        if kept is not None:
            out.mul_(kept)  # masked_fill_ takes many times as long
        ctx.save_for_backward(x, out, mean, inverse, scale, slope, kept)
        ctx.keep = keep
        ctx.mark_non_differentiable(mean, variance)
        return _back(out, x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, out, mean, inverse, scale, slope, kept = ctx.saved_tensors
        rows, channels = _rows(x), x.shape[1]
        count = x.numel() / channels
        gradient = _rows(upstream.to(x.dtype))
        if kept is not None:
            gradient = gradient * kept
        by_slope = _sum(gradient * out.clamp_max(0), channels).sum() / slope
        gradient = torch.ops.aten.leaky_relu_backward(gradient, out, float(slope), True)
        total = _sum(gradient, channels)
        along = (_sum(gradient * rows, channels) - mean * total) * inverse
        by_x = -scale * along * inverse / count
        constant = -scale * total / count - by_x * mean
        result = torch.addcmul(_spread(constant, rows), rows, _spread(by_x, rows))
        result = result.addcmul_(gradient, _spread(scale, rows))
        return _back(result, x), along * ctx.keep, total * ctx.keep, by_slope, None, None


def _draw(like: Tensor, probability: float) -> Tensor:
    """False with that probability, at every place independently; one byte each."""
    count = like.numel()
    numbers = torch.empty(math.ceil(count / 4), dtype=torch.int64, device=like.device)
    bits = numbers.random_(-(2**63), None).view(torch.int16)[:count]
    return (bits >= round(probability * 2**16) - 2**15).view(like.shape)


def _rows(x: Tensor) -> Tensor:
    """(B, C, *S) as (rows, voxels of a row * C); a view where channels are last in memory."""
    count, channels = x.numel() // x.shape[1], x.shape[1]
    row = math.gcd(count, _ROW)
    return x.movedim(1, -1).reshape(count // row, row * channels)


def _back(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`, channels last in memory."""
    return rows.reshape(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1)


def _sum(rows: Tensor, channels: int) -> Tensor:
    """Sum over batch and voxels, (C) float32; bfloat16 by a product, which sums in float32."""
    if rows.dtype == torch.bfloat16:
        with torch.autocast(rows.device.type, enabled=False):
            total = (rows.new_ones(1, rows.shape[0]) @ rows).float()
    else:
        total = rows.sum(dim=0)
    return total.reshape(-1, channels).sum(dim=0)


def _spread(values: Tensor, rows: Tensor) -> Tensor:
    """(C) values as one row, in the dtype of the rows."""
    return values.to(rows.dtype).repeat(rows.shape[1] // len(values))
