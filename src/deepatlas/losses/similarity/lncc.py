"""Local normalised cross-correlation over box windows, with its gradient in closed form.

Autograd through five box filters would keep some twenty maps and run slow pooling backwards.
Here the value and its gradient are computed together, from five box filters for the value and
three for the gradient, and one map per image is kept.

Pooling along an axis is fast (vectorised) only while another axis lies inside it in memory. So
the maps of window statistics live "rolled", last axis first: (S[-1], B, *S[:-1]).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from deepatlas.kernels import usable
from deepatlas.kernels.local_correlation import local_correlation
from deepatlas.losses.fused import with_gradient
from deepatlas.losses.precision import full_precision, same_shape, widen


@dataclass(frozen=True)
class LocalNCC:
    """1 - mean over voxels of the correlation in a window around each voxel (Avants et al. 2008).

    Always float32 or wider.

    Parameters
    ----------
    window : side of the window in voxels, odd.
    signed : mean of NCC, so that inverted contrast is worst, in [0, 2];
        if false the mean of NCC^2, which is blind to inversion, in [0, 1].
    smallest_variance : variances in a window are clamped to this, in squared units of intensity
        (images lie in [0, 1]); a flat window thus counts as uncorrelated.
    border : "ends": windows end at the border and at the mask, only voxels inside count. "zeros":
        they go on, over zeros that count: MONAI's 1.6, where `smallest_variance` is its smooth_dr
        by the voxels of a window, and neurite's.
    """

    window: int = 9
    signed: bool = True
    smallest_variance: float = 1e-5
    border: Literal["ends", "zeros"] = "ends"

    def __post_init__(self) -> None:
        if self.window < 3 or self.window % 2 == 0:
            raise ValueError(f"window must be odd and at least 3, got {self.window}")
        if self.smallest_variance <= 0:
            raise ValueError(f"smallest_variance must be above 0, got {self.smallest_variance}")
        if self.border not in ("ends", "zeros"):
            raise ValueError(f"border must be ends or zeros, got {self.border!r}")

    def __call__(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar from images (B, 1, *S); see `protocols.Similarity`. An empty mask counts 1."""
        same_shape(warped, fixed, "warped and fixed image")
        if warped.shape[1] != 1:
            raise ValueError(f"images must have one channel, got shape {tuple(warped.shape)}")
        with full_precision(warped):
            warped, fixed = (x.squeeze(1) for x in widen(warped, fixed))
            if mask is not None:
                same_shape(mask.squeeze(1), fixed, "mask and fixed image")
                mask = mask.detach().squeeze(1).to(fixed.dtype).contiguous()

            def compute(wanted: Sequence[bool]) -> tuple[Tensor, Sequence[Tensor | None]]:
                if usable(warped, fixed):
                    return _compiled(warped, fixed, mask, self, wanted)
                return _value_and_gradients(warped, fixed, mask, self, wanted)

            return with_gradient(compute, warped, fixed)


def _value_and_gradients(
    a: Tensor, b: Tensor, mask: Tensor | None, part: LocalNCC, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """Loss of images (B, *S) and its gradients by the images that want one.

    With E the mean over a window: cov = E[ab] - E[a]E[b], ncc = cov / sqrt(var_a var_b). A box
    filter is its own adjoint, so with p = dL/dcov / n and q = 2 dL/dvar_a / n,
    dL/da = b box(p) + a box(q) - box(p E[b] + q E[a]).
    """
    a, b = (_centred(x, mask, part) for x in (a, b))
    ma, mb = (a, b) if mask is None else (mask * a, mask * b)
    count = _counts(a, mask, part)
    mean_a, mean_b = (_box(x, part.window).div_(count) for x in (ma, mb))
    var_a = _box(ma * a, part.window).div_(count).addcmul_(mean_a, mean_a, value=-1)
    var_b = _box(mb * b, part.window).div_(count).addcmul_(mean_b, mean_b, value=-1)
    ncc = _box(ma * b, part.window).div_(count).addcmul_(mean_a, mean_b, value=-1)
    clamped_a = var_a.clamp_min(part.smallest_variance)
    clamped_b = var_b.clamp_min(part.smallest_variance)
    scale = (clamped_a * clamped_b).rsqrt_()
    ncc.mul_(scale)

    share = _shares(a, mask)
    local = ncc if part.signed else ncc.square()
    value = 1 - (share * local).sum()

    gradients: list[Tensor | None] = [None, None]
    if any(wanted):
        slope = (share if part.signed else share * ncc * 2) / count
        p = scale.mul_(slope).neg_()
        slope = ncc.mul_(slope)
        box_p = _box_back(p, part.window)
        stats = ((a, mean_a, var_a, clamped_a), (b, mean_b, var_b, clamped_b))
        for k in (0, 1):
            if not wanted[k]:
                continue
            image, mean, variance, clamped = stats[k]
            other, other_mean = stats[1 - k][:2]
            q = (slope / clamped).masked_fill_(variance <= part.smallest_variance, 0)
            offset = (p * other_mean).addcmul_(q, mean)
            gradient = _box_back(offset, part.window).neg_()
            gradient.addcmul_(other, box_p).addcmul_(image, _box_back(q, part.window))
            gradients[k] = gradient if mask is None else gradient.mul_(mask)
    return value, gradients


def _compiled(
    a: Tensor, b: Tensor, mask: Tensor | None, part: LocalNCC, wanted: Sequence[bool]
) -> tuple[Tensor, list[Tensor | None]]:
    """What `_value_and_gradients` returns."""
    one, other = (_centred(x, mask, part).contiguous() for x in (a, b))
    turned = wanted[1] and not wanted[0]  # both images are treated alike
    if turned:
        one, other = other, one
    value, found = local_correlation(
        one, other, mask, part.window // 2, part.signed, part.smallest_variance, sum(wanted),
        ends=part.border == "ends",
    )  # fmt: skip
    gradients: list[Tensor | None] = [*found, None, None][:2]
    return 1 - value, gradients[::-1] if turned else gradients


def _centred(image: Tensor, mask: Tensor | None, part: LocalNCC) -> Tensor:
    """Image (B, *S) less its mean: changes nothing but the rounding error of E[a^2] - E[a]^2.

    Beside zeros that count it would: there the image itself.
    """
    if part.border == "zeros":
        return image
    axes = tuple(range(1, image.ndim))
    if mask is None:
        return image - image.mean(dim=axes, keepdim=True)
    total = mask.sum(dim=axes, keepdim=True).clamp_min(1e-12)
    return image - (image * mask).sum(dim=axes, keepdim=True) / total


def _shares(image: Tensor, mask: Tensor | None) -> Tensor:
    """Weight of each voxel in the mean over voxels and batch, rolled."""
    if mask is None:
        return image.new_tensor(1 / image.numel())
    rolled = _roll(mask)
    total = rolled.sum(dim=(0, *range(2, rolled.ndim)), keepdim=True).clamp_min(1e-12)
    return rolled / (total * image.shape[0])


def _counts(image: Tensor, mask: Tensor | None, part: LocalNCC) -> Tensor:
    """Voxels that count in each window, rolled, (S[-1], B or 1, *S[:-1]); or their one number."""
    if part.border == "zeros":
        return image.new_tensor(part.window ** (image.ndim - 1))
    if mask is not None:
        return _box(mask, part.window).clamp_min_(1e-6)
    *outer, last = (_sum_along(image.new_ones(n, 1), 0, part.window) for n in image.shape[1:])
    counts = last
    for along in outer:
        counts = counts.unsqueeze(-1) * along.squeeze(1)
    return counts


def _box(x: Tensor, window: int) -> Tensor:
    """Sums over windows around each voxel, (B, *S) -> rolled; zero outside the grid."""
    for axis in range(1, x.ndim - 1):
        x = _sum_along(x, axis, window)
    return _sum_along(_roll(x), 0, window)


def _box_back(x: Tensor, window: int) -> Tensor:
    """The adjoint of `_box`: the same sums, rolled -> (B, *S)."""
    x = _unroll(_sum_along(x, 0, window))
    for axis in range(1, x.ndim - 1):
        x = _sum_along(x, axis, window)
    return x


def _roll(x: Tensor) -> Tensor:
    """(B, *S) -> (S[-1], B, *S[:-1]), contiguous; as a matrix, which PyTorch transposes fast."""
    return x.reshape(-1, x.shape[-1]).t().contiguous().view(x.shape[-1], *x.shape[:-1])


def _unroll(x: Tensor) -> Tensor:
    """The inverse of `_roll`."""
    return x.reshape(x.shape[0], -1).t().contiguous().view(*x.shape[1:], x.shape[0])


def _sum_along(x: Tensor, axis: int, window: int) -> Tensor:
    """Window sums along one axis of a contiguous tensor, all axes inside it taken as channels."""
    outer, n, inner = math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])
    channels_last = x.reshape(outer, n, 1, inner).permute(0, 3, 1, 2)
    summed = F.avg_pool2d(channels_last, (window, 1), 1, (window // 2, 0), divisor_override=1)
    return summed.permute(0, 2, 3, 1).reshape(x.shape)
