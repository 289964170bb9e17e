"""Diffusion: first derivatives of a displacement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deepatlas.losses.regularity.differences import add_adjoint, difference, sum_over_components


@dataclass(frozen=True)
class Diffusion:
    """Mean over voxels of the squared (or absolute) first derivatives of u; it has no unit.

    Derivatives of u in mm by x in mm, forward differences, summed over components and axes, each
    term's mean over the places where it fits.

    Parameters
    ----------
    norm : "l2", squares (Balakrishnan et al. 2019), or "l1", absolute values.
    """

    norm: Literal["l2", "l1"] = "l2"

    def __post_init__(self) -> None:
        if self.norm not in ("l1", "l2"):
            raise ValueError(f'norm must be "l1" or "l2", got {self.norm!r}')

    def __call__(self, field: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """Scalar from a field (B, d, *S) in voxels; see `protocols.Regularity`."""

        def energy(u: Tensor, gradient: Tensor | None, mm: float) -> Tensor:
            value = u.new_zeros(())
            for a in range(u.ndim):
                first = difference(u, a)
                ratio = mm / spacing_mm[a]
                if self.norm == "l2":
                    scale = ratio**2 / first.numel()
                    if gradient is not None:
                        add_adjoint(gradient, first, a, 2 * scale)
                    value += first.square_().sum() * scale
                else:
                    scale = ratio / first.numel()
                    if gradient is not None:
                        add_adjoint(gradient, first.sign(), a, scale)
                    value += first.abs_().sum() * scale
            return value

        return sum_over_components(field, spacing_mm, 2, energy)
