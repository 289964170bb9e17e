"""Bending energy: squared second derivatives of a displacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import Literal

import torch
from torch import Tensor

from deepatlas import kernels
from deepatlas.kernels.bending import bending
from deepatlas.losses.fused import with_gradient
from deepatlas.losses.regularity.differences import (
    add_adjoint,
    check_field,
    difference,
    sum_over_components,
)

_SHORTEST = 3  # voxels along each axis
# Of what a central difference is made: factor, and voxels away along one axis and the other.
_VOXELS_OF_ONE = ((1, 1, 0), (-2, 0, 0), (1, -1, 0))
_VOXELS_OF_TWO = ((0.25, 1, 1), (-0.25, 1, -1), (-0.25, -1, 1), (0.25, -1, -1))


@dataclass(frozen=True)
class Bending:
    """Mean over voxels of |Hessian of u|^2, in mm^-2 (Rueckert 1999; Xu & Niethammer 2019, Eq. 5).

    Derivatives of u in mm by x in mm, summed over components, mixed terms twice; weights are in
    mm^2. Quadratic fields are exact, affine maps cost nothing.

    Parameters
    ----------
    mixed : how mixed terms are taken. "compact": over 2 x 2 voxels, every term's mean over the
        places where it fits. "central": of four diagonal neighbours, which sees no checkerboard,
        and every term at inner voxels only: MONAI's 1.6, whose weight w on voxels of s mm is here
        w s^2 / d, since it is a mean over components, in voxels.
    """

    mixed: Literal["compact", "central"] = "compact"

    def __post_init__(self) -> None:
        if self.mixed not in ("compact", "central"):
            raise ValueError(f"mixed must be compact or central, got {self.mixed!r}")

    def __call__(self, field: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """Scalar from a field (B, d, *S) in voxels; see `protocols.Regularity`."""
        central = self.mixed == "central"
        if kernels.usable(field) and field.numel() > 0:
            check_field(field, spacing_mm, _SHORTEST)

            def compute(wanted: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
                value, gradient = bending(field, spacing_mm, central=central, gradient=wanted[0])
                return value, [gradient]

            return with_gradient(compute, field)

        energy = _central_energy if central else _compact_energy
        return sum_over_components(field, spacing_mm, _SHORTEST, partial(energy, spacing_mm))


def _compact_energy(
    spacing_mm: Sequence[float], u: Tensor, gradient: Tensor | None, mm: float
) -> Tensor:
    value = u.new_zeros(())
    for a in range(u.ndim):
        first = difference(u, a)
        by_first = None if gradient is None else first.new_zeros(first.shape)
        for b in range(a, u.ndim):
            second = difference(first, b)
            scale = (mm / (spacing_mm[a] * spacing_mm[b])) ** 2 / second.numel()
            scale *= 1 if a == b else 2
            if by_first is not None:
                add_adjoint(by_first, second, b, 2 * scale)
            value += second.square_().sum() * scale
        if gradient is not None and by_first is not None:
            add_adjoint(gradient, by_first, a)
    return value


def _central_energy(
    spacing_mm: Sequence[float], u: Tensor, gradient: Tensor | None, mm: float
) -> Tensor:
    def around(x: Tensor, along: Sequence[int]) -> Tensor:
        """The voxels so many from the inner ones along each axis."""
        return x[tuple(slice(1 + k, n - 1 + k) for k, n in zip(along, x.shape, strict=True))]

    value = u.new_zeros(())
    for a, b in combinations_with_replacement(range(u.ndim), 2):
        second = torch.zeros_like(around(u, [0] * u.ndim))
        voxels = _VOXELS_OF_ONE if a == b else _VOXELS_OF_TWO
        taken = [
            (factor, [one * (axis == a) + other * (axis == b) for axis in range(u.ndim)])
            for factor, one, other in voxels
        ]
        for factor, along in taken:
            second.add_(around(u, along), alpha=factor)
        scale = (mm / (spacing_mm[a] * spacing_mm[b])) ** 2 / second.numel()
        scale *= 1 if a == b else 2
        if gradient is not None:
            for factor, along in taken:
                around(gradient, along).add_(second, alpha=2 * scale * factor)
        value += second.square_().sum() * scale
    return value
