"""Cross-entropy of probability maps, right for soft targets and partly annotated scans."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepatlas.kernels.overlap import log_likelihood
from deepatlas.losses.overlap.checks import check_maps
from deepatlas.losses.precision import full_precision, widen


@dataclass(frozen=True)
class CrossEntropy:
    """Mean over voxels of -sum over classes of q log p, with targets q hard or soft.

    In a scan where some classes are not annotated, those and the background are one class, "not
    one of the annotated" (the marginal loss of Shi et al. 2021): its probability is the sum of
    theirs. Scans with no annotated class are left out of the mean; with no scan left it is 0.
    For a soft target the least value is the target's entropy, reached at p = q.

    Parameters
    ----------
    floor : probabilities are clamped to at least this before the logarithm, below it there is no
        gradient; so small that a softmax in float32 which is wrong with confidence still learns.
    """

    floor: float = 1e-12

    def __post_init__(self) -> None:
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, got {self.floor}")

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        present: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar from probabilities (B, C, *S); see `protocols.Overlap`."""
        check_maps(prediction, target, present, weight)
        with full_precision(prediction):
            p, q = widen(prediction, target)
            counted = p.new_ones(len(p))
            if present is not None and not bool(present.all()):
                counted = present.any(dim=1).to(p.dtype)
                p, q = _merged(p, q, present)
            voxels = p.new_full((len(p),), p[0, 0].numel())
            if weight is not None:
                weight = weight.to(p.dtype)
                q, voxels = q * weight, weight.flatten(1).sum(dim=1)
            total = -(counted * log_likelihood(p, q, self.floor)).sum()
            return total / (counted * voxels).sum().clamp_min(1e-12)


def _merged(p: Tensor, q: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps (B, C, *S) with the classes that are not annotated moved into channel 0."""
    keep = present.to(p.dtype).view(*present.shape, *[1] * (p.ndim - 2))

    def merge(x: Tensor) -> Tensor:
        foreground = x[:, 1:] * keep
        rest = x[:, :1] + (x[:, 1:] * (1 - keep)).sum(dim=1, keepdim=True)
        return torch.cat([rest, foreground], dim=1)

    return merge(p), merge(q)
