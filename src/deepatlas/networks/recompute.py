"""Activations computed again, not kept (Chen et al. 2016, arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepatlas.errors import BadInput


def level(function: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """function(*inputs); with `recompute` only the inputs are kept for its gradient.

    Gradients are the same bit for bit, random numbers within (dropout) included.
    """
    if not (recompute and torch.is_grad_enabled()):
        return function(*inputs)
    out: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return out


def make_recompute(network: nn.Module, what: str) -> None:
    """Let a network compute its levels again when it is trained.

    Raises
    ------
    BadInput : a network from outside, whose levels are not known.
    """
    if not hasattr(network, "recompute"):
        raise BadInput(
            f"training.recompute: {what} is a network from outside, whose levels are not known; "
            "take the setting back, or use such a setting of that network"
        )
    setattr(network, "recompute", True)  # noqa: B010 - a Module's own attribute to mypy
