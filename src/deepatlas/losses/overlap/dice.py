"""Soft Dice that is zero for equal maps, hard or soft."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepatlas.kernels.overlap import differences
from deepatlas.losses.overlap.checks import check_maps
from deepatlas.losses.precision import full_precision, widen

# A class that weighs less than this many voxels, both sides together, is absent. It is above
# zero because a softmax never is, and the ratio of two such sums has no useful gradient.
_ABSENT = 1e-3


@dataclass(frozen=True)
class SoftDice:
    """Dice semimetric loss: mean over classes of sum|p - q| / (sum p + sum q), in [0, 1].

    Wang et al. 2023 (arXiv 2303.16296). Where one side is 0/1 it equals
    1 - 2 sum(pq) / (sum p + sum q), the DeepAtlas paper's Eq. 3 with the usual factor 2; unlike
    that, it is 0 for two equal soft maps. Each class of each scan counts the same; a class that
    is not annotated or absent on both sides is left out. With no class left the loss is 0.

    Parameters
    ----------
    background : count the background as a class, in scans where every class is annotated
        (elsewhere nobody knows where it is).
    product : 1 - 2 sum(pq) / (sum p + sum q) for soft maps, too, as MONAI's Dice has it, to repeat
        what was trained with it; two equal soft maps then have a loss, least where they are hard.
    """

    background: bool = False
    product: bool = False

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
            annotated = self._annotated(p, present)
            if weight is not None:
                weight = weight.to(p.dtype)
                p, q = p * weight, q * weight
            apart, mass = differences(p, q, product=self.product)
            if self.product:
                apart = mass - 2 * apart
            if not self.background:
                apart, mass = apart[:, 1:], mass[:, 1:]
            counted = annotated & (mass.detach() > _ABSENT)
            ratio = apart / torch.where(counted, mass, 1.0)
            return torch.where(counted, ratio, 0.0).sum() / counted.sum().clamp_min(1)

    def _annotated(self, p: Tensor, present: Tensor | None) -> Tensor:
        """(B, K) or with background (B, K + 1) bool."""
        if present is None:
            present = torch.ones(p.shape[0], p.shape[1] - 1, dtype=torch.bool, device=p.device)
        present = present.bool()
        if self.background:
            return torch.cat([present.all(dim=1, keepdim=True), present], dim=1)
        return present
