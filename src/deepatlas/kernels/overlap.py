"""What losses of overlap sum over voxels, by the kernels of `agreement`, with closed gradients."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deepatlas.kernels import empty, to_rows, usable
from deepatlas.kernels.normalise import Rows


def differences(p: Tensor, q: Tensor, *, product: bool = False) -> tuple[Tensor, Tensor]:
    """Sums over voxels of |p - q| and of p + q.

    Parameters
    ----------
    p, q : (B, C, *S).
    product : sum p q in place of |p - q|.

    Returns
    -------
    both (B, C).
    """
    if usable(p, q) and p.numel() > 0:
        maps = p.shape[:2]
        if p.is_contiguous() and q.is_contiguous():  # channels first: each map by itself, no copies
            p, q = (x.flatten(0, 1).unsqueeze(1) for x in (p, q))
        first, both = _Sums.apply(p, q, product)
        return first.reshape(maps), both.reshape(maps)
    each = p * q if product else (p - q).abs()
    return each.flatten(2).sum(dim=2), (p + q).flatten(2).sum(dim=2)


def log_likelihood(p: Tensor, q: Tensor, floor: float) -> Tensor:
    """(B) sums over voxels and classes of q log max(p, floor); of (B, C, *S) both."""
    if usable(p, q) and p.numel() > 0:
        if p.is_contiguous() and q.is_contiguous():
            p, q = (x.flatten(1).unsqueeze(1) for x in (p, q))
        out: Tensor = _LogLikelihood.apply(p, q, floor)
        return out
    return (q * p.clamp_min(floor).log()).flatten(1).sum(dim=1)


def _agreement() -> ModuleType:
    from deepatlas.kernels import agreement  # numba, slow to import

    return agreement


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, product: bool) -> tuple[Tensor, ...]:
        p, q = to_rows(p), to_rows(q)
        rows = Rows(p, pooled=False)
        ctx.save_for_backward(p, q)
        ctx.product = product
        sums = rows.run(_agreement().sums_kernel(product), p, q)
        return tuple(x.float() for x in rows.summed(sums))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_first: Tensor, by_both: Tensor) -> tuple[Tensor | None, ...]:
        one, two = ctx.saved_tensors
        rows = Rows(one, pooled=False)
        kernel = _agreement().back_sums_kernel(ctx.product)
        along = rows.spread(by_first), rows.spread(by_both)
        found: list[Tensor | None] = []
        for wanted, p, q in zip(ctx.needs_input_grad[:2], (one, two), (two, one), strict=True):
            out = empty(p.shape) if wanted else None
            if out is not None:
                rows.run(kernel, p, q, out, *along)
            found.append(None if out is None else out.movedim(-1, 1))
        return *found, None


class _LogLikelihood(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, floor: float) -> Tensor:
        p, q = to_rows(p), to_rows(q)
        rows = Rows(p, pooled=False)
        (sums,) = rows.summed(rows.run(_agreement().likelihood_kernel, p, q, np.float32(floor)))
        ctx.save_for_backward(p, q)
        ctx.floor = np.float32(floor)
        return sums.sum(dim=1).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        p, q = ctx.saved_tensors
        rows, factor = Rows(p, pooled=False), upstream.float().contiguous()
        by_p = empty(p.shape) if ctx.needs_input_grad[0] else None
        by_q = empty(p.shape) if ctx.needs_input_grad[1] else None
        if by_p is not None:
            rows.run(_agreement().back_prediction_kernel, p, q, by_p, factor, ctx.floor)
        if by_q is not None:
            rows.run(_agreement().back_target_kernel, p, by_q, factor, ctx.floor)
        return *(None if x is None else x.movedim(-1, 1) for x in (by_p, by_q)), None
