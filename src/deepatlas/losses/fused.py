"""A scalar whose gradient is computed together with its value, in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Compute = Callable[[Sequence[bool]], "tuple[Tensor, Sequence[Tensor | None]]"]


def with_gradient(compute: Compute, *inputs: Tensor) -> Tensor:
    """A scalar function of `inputs`, of which autograd keeps the gradients and nothing else.

    Parameters
    ----------
    compute : called with one bool per input, whether its gradient is wanted; returns the value
        and for each input its gradient, or None where it is not wanted. It has the inputs already.
    inputs : the tensors that the value depends on.
    """
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in inputs]
    return _WithGradient.apply(compute, wanted, *inputs)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Compute, wanted: Sequence[bool], *inputs: Tensor) -> Tensor:
        value, gradients = compute(wanted)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (None if g is None else upstream * g for g in ctx.saved_tensors)
        return (None, None, *gradients)
