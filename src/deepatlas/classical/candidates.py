"""Maps that are still in the running."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SCALES = (0.5, 2.0)  # plausible stretch along any direction; no step leads out of them


class Candidates(NamedTuple):
    """C maps of each of B moving scans, x -> M (x + u(x)).

    Attributes
    ----------
    matrices : (B, C, d + 1, d + 1) float64, fixed mm -> moving mm.
    displacements : (B, C, d, *n) mm, u at control points spread over the fixed scan; None where
        there is none.
    """

    matrices: Tensor
    displacements: Tensor | None = None


def plausible(matrices: Tensor) -> Tensor:
    """(...) bool of matrices (..., d + 1, d + 1): no direction is stretched beyond `SCALES`."""
    stretches = torch.linalg.svdvals(matrices[..., :-1, :-1])
    low, high = SCALES
    return (stretches.amin(-1) > low) & (stretches.amax(-1) < high)
