"""Global normalised cross-correlation, the image loss of the DeepAtlas paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepatlas.losses.precision import full_precision, same_shape, widen

# An image whose standard deviation is below 1e-5 of its root mean square is called constant.
_CONSTANT = 1e-10


@dataclass(frozen=True)
class GlobalNCC:
    """1 - NCC of each pair of images, in [0, 2], mean over the batch (Xu & Niethammer 2019, Eq. 4).

    The sign is kept: inverted contrast is worst. Where one of the images is constant the
    correlation does not exist; the pair then counts 1 and has no gradient.
    """

    def __call__(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar from images (B, 1, *S); see `protocols.Similarity`."""
        same_shape(warped, fixed, "warped and fixed image")
        with full_precision(warped):
            warped, fixed = (x.flatten(1) for x in widen(warped, fixed))
            weight = torch.ones_like(fixed[:1])
            if mask is not None:
                same_shape(mask.flatten(1), fixed, "mask and fixed image")
                weight = mask.detach().to(fixed.dtype).flatten(1)
            weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-12)
            a, warped_varies = _centred(warped, weight)
            b, fixed_varies = _centred(fixed, weight)
            defined = warped_varies & fixed_varies
            # Both branches of a `where` are differentiated: no square root of zero in either.
            one, other = (
                torch.where(defined, (weight * x * x).sum(dim=1), 1.0).sqrt() for x in (a, b)
            )
            ncc = torch.where(defined, (weight * a * b).sum(dim=1) / one / other, 0.0)
            return (1 - ncc).mean()


def _centred(image: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Image (B, N) less its weighted mean, and whether (B,) it varies at all; NaN does."""
    centred = image - (weight * image).sum(dim=1, keepdim=True)
    with torch.no_grad():
        variance = (weight * centred.square()).sum(dim=1)
        power = (weight * image.square()).sum(dim=1)
    return centred, ~(variance <= _CONSTANT * power)
