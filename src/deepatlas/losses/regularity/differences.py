"""What the regularities share: differences along an axis, their adjoint, a loop over components.

Autograd through slices fills a field of zeros for each of them, three to five times the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deepatlas.losses.fused import with_gradient
from deepatlas.losses.precision import full_precision, widen

# (component (*S), its gradient to add to or None, weight of a squared length) -> energy
Energy = Callable[[Tensor, "Tensor | None", float], Tensor]


def difference(x: Tensor, axis: int) -> Tensor:
    """Forward difference, one shorter along `axis`."""
    n = x.shape[axis]
    return x.narrow(axis, 1, n - 1) - x.narrow(axis, 0, n - 1)


def add_adjoint(into: Tensor, x: Tensor, axis: int, scale: float = 1.0) -> None:
    """Add `scale` times the adjoint of `difference` of x to `into`, in place."""
    n = x.shape[axis]
    into.narrow(axis, 1, n).add_(x, alpha=scale)
    into.narrow(axis, 0, n).sub_(x, alpha=scale)


def sum_over_components(
    field: Tensor, spacing_mm: Sequence[float], shortest: int, energy: Energy
) -> Tensor:
    """Mean over the batch of the sum over components of an energy, differentiable.

    Parameters
    ----------
    field : (B, d, *S) in voxels of its own grid.
    spacing_mm : of that grid; d positive numbers.
    shortest : voxels that the energy needs along each axis.
    energy : called for each component of each item with the component (*S) in voxels, the tensor
        to add its gradient to (or None), and the millimetres of a voxel along the component.
    """
    check_field(field, spacing_mm, shortest)
    with full_precision(field):
        field = widen(field)[0].contiguous()

        def compute(wanted: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
            items = field.shape[0]
            gradient = torch.zeros_like(field, memory_format=torch.contiguous_format)
            value = field.new_zeros(())
            for item, item_gradient in zip(field, gradient, strict=True):
                for n, mm in enumerate(spacing_mm):
                    value += energy(item[n], item_gradient[n] if wanted[0] else None, float(mm))
            return value / items, [gradient.div_(items) if wanted[0] else None]

        return with_gradient(compute, field)


def check_field(field: Tensor, spacing_mm: Sequence[float], shortest: int) -> None:
    """Raise ValueError for a field, or spacings, whose shape does not fit."""
    d = field.ndim - 2
    if d not in (2, 3) or field.shape[1] != d or len(spacing_mm) != d:
        raise ValueError(
            "a field has shape (B, d, *S) with d axes of space, two or three, and d spacings; "
            f"got shape {tuple(field.shape)} and spacings {tuple(spacing_mm)}"
        )
    if min(spacing_mm) <= 0 or min(field.shape[2:]) < shortest:
        raise ValueError(
            f"spacings must be positive and every axis at least {shortest} voxels long; "
            f"got spacings {tuple(spacing_mm)} and shape {tuple(field.shape)}"
        )
