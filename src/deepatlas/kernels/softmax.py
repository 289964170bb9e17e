"""Softmax over channels by the kernels of `exponential`, as an autograd function."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import empty, flat, flat_values, in_parts, to_rows, usable

_FEW = 6  # channels, for each number of which a kernel is compiled


def softmax(logits: Tensor, sharpen: float = 1.0) -> Tensor:
    """Probabilities (B, C, *S) float32 of logits times a factor, channels last on CPUs.

    Parameters
    ----------
    logits : (B, C, *S).
    sharpen : above zero.
    """
    if usable(logits, half=True) and logits.numel() > 0:
        out: Tensor = _Softmax.apply(logits, sharpen)
        return out
    logits = logits.float()
    return (logits if sharpen == 1 else logits * sharpen).softmax(dim=1)


def softmax_(logits: Tensor) -> Tensor:
    """Probabilities of logits (B, C, *S), in their memory if they are float32 and channels last."""
    if usable(logits):
        rows = to_rows(logits)
        _fill(rows, rows, 1.0)
        return rows.movedim(-1, 1)
    logits.sub_(logits.amax(dim=1, keepdim=True)).exp_()
    return logits.div_(logits.sum(dim=1, keepdim=True))


def _fill(x: Tensor, out: Tensor, sharpen: float) -> None:
    """Write the softmax of rows (B, *S, C) to others, which may be the same."""
    channels, voxels = x.shape[-1], x.numel() // x.shape[-1]
    kernel = _exponential().softmax_kernel(x.dtype == torch.bfloat16, _few(channels))
    in_parts(kernel, voxels, flat_values(x), flat(out), channels, np.float32(sharpen))


def _few(channels: int) -> int:
    return channels if channels <= _FEW else 0


def _exponential() -> ModuleType:
    from deepatlas.kernels import exponential  # numba, slow to import

    return exponential


class _Softmax(torch.autograd.Function):
    """Keeps what it gives."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, sharpen: float) -> Tensor:
        x = to_rows(logits)
        out = empty(x.shape)
        _fill(x, out, sharpen)
        ctx.save_for_backward(out)
        ctx.sharpen, ctx.dtype = sharpen, logits.dtype
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None]:
        (y,) = ctx.saved_tensors
        grad = to_rows(upstream)
        out = empty(y.shape, ctx.dtype)
        channels, voxels = y.shape[-1], y.numel() // y.shape[-1]
        given = flat(y), flat(grad), flat_values(out), channels, np.float32(ctx.sharpen)
        kernel = _exponential().back_kernel(ctx.dtype == torch.bfloat16, _few(channels))
        in_parts(kernel, voxels, *given)
        return out.movedim(-1, 1), None
