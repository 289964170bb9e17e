"""Bending energy: squared second derivatives of a displacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Bending:
    """Mean over voxels of |Hessian of u|^2, in mm^-2 (Rueckert 1999; Xu & Niethammer 2019, Eq. 5).

    Derivatives of u in mm by x in mm, summed over components, mixed terms twice; weights are in
    mm^2. Compact differences (three voxels; 2 x 2 for mixed terms), each term's mean over the
    places where it fits, so that quadratic fields are exact and a checkerboard is seen. Affine
    maps cost nothing.
    """

    def __call__(self, field: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """Scalar from a field (B, d, *S) in voxels; see `protocols.Regularity`."""
        if kernels.usable(field) and field.numel() > 0:
            check_field(field, spacing_mm, _SHORTEST)

            def compute(wanted: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
                value, gradient = bending(field, spacing_mm, gradient=wanted[0])
                return value, [gradient]

            return with_gradient(compute, field)

        def energy(u: Tensor, gradient: Tensor | None, mm: float) -> Tensor:
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

        return sum_over_components(field, spacing_mm, _SHORTEST, energy)
