"""A U-Net whose finest level, the widest of its maps by far, is never whole in memory.

The result is that of one pass, but for rounding: of the finest level, slabs of a few rows of the
first axis are computed with the rows beside them that convolutions look at, and the sums that
normalisation needs are gathered in a pass of their own. Only one map of that level is kept; the
others are computed again where they are needed, which costs less than half of a pass more. All
coarser levels, an eighth of the voxels and less, are computed as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepatlas import kernels
from deepatlas.kernels import normalise
from deepatlas.networks.blocks import Block
from deepatlas.networks.convolving import to_channels_last
from deepatlas.networks.joined import convolve_joined
from deepatlas.networks.normalisation import NormActivation

# Of one map, or of two that are joined: rows from the first to before the last.
Rows = Callable[[int, int], Sequence[Tensor]]


class _Known:
    """A normalisation with LeakyReLU whose sums are gathered from slabs first."""

    def __init__(self, norm: nn.Module) -> None:
        assert isinstance(norm, NormActivation)
        self.norm, self.count = norm, 0
        self.one = self.two = torch.zeros((), dtype=torch.float64)

    def add(self, part: Tensor) -> Tensor:
        """Gather the sums of a slab; returns it."""
        space = list(range(2, part.ndim))
        wide = part.float()
        self.one = self.one + wide.sum(space, keepdim=True, dtype=torch.float64).cpu()
        self.two = self.two + wide.square().sum(space, keepdim=True, dtype=torch.float64).cpu()
        self.count += part[0, 0].numel()
        return part

    def __call__(self, part: Tensor) -> Tensor:
        norm, shape = self.norm, self.one.shape
        mean = self.one / self.count
        variance = (self.two / self.count - mean.square()).clamp_min(0)
        scale = norm.weight.detach().double().cpu().view(shape) * variance.add(norm.epsilon).rsqrt()
        shift = norm.bias.detach().double().cpu().view(shape) - mean * scale
        if kernels.usable(part, half=True):
            flat = scale.flatten().float(), shift.flatten().float()
            return normalise.scale_and_shift(part, *flat, norm.slope)
        out = (
            part.to(torch.float32, copy=True)
            .mul_(scale.float().to(part.device))
            .add_(shift.float().to(part.device))
        )
        return F.leaky_relu_(out, norm.slope).to(part.dtype)


def logits_in_slabs(
    image: Tensor,
    rows: int,
    *,
    first: Block,
    strided: Block,
    coarser: Callable[[Tensor], Tensor],
    up: Sequence[Block],
    last: nn.Module,
) -> Iterator[tuple[int, Tensor]]:
    """First row and logits (1, C, rows, ...) of one slab after the other.

    Parameters
    ----------
    image : (1, 1, *S), padded.
    rows : of a slab; made even.
    first : the finest level on the way down, one block.
    strided : the first block of the next level.
    coarser : the raw map of that block to the map of its level on the way up.
    up : both blocks of the finest level on the way up.
    last : to logits, voxel by voxel.
    """
    image, size = to_channels_last(image), image.shape[2]
    cuts = range(0, size, max(2, rows - rows % 2))
    slabs = [(a, min(a + cuts.step, size)) for a in cuts]
    norm, inner, outer = (_Known(block.activation) for block in (first, *up))

    def around(inside: Rows, a: int, b: int, beside: int, block: Block) -> Tensor:
        low = max(0, a - beside)
        out = convolve_joined(block.convolution, *inside(low, min(size, b + beside)))
        return out.narrow(2, a - low, b - a)

    def raw(a: int, b: int) -> Tensor:
        return around(lambda low, high: [image.narrow(2, low, high - low)], a, b, 1, first)

    def halved(a: int, b: int) -> Tensor:
        low = max(0, a - 2)  # even, so that strides fall on the same rows
        return strided.convolution(norm(raw(low, b))).narrow(2, (a - low) // 2, (b - a) // 2)

    def both(a: int, b: int) -> list[Tensor]:
        return [below.narrow(2, a // 2, (b - a) // 2), norm(raw(a, b))]

    def once(a: int, b: int) -> list[Tensor]:
        return [inner(kept.narrow(2, a, b - a))]

    def twice(a: int, b: int) -> Tensor:
        return around(once, a, b, 1, up[1])

    for slab in slabs:
        norm.add(raw(*slab))
    below = coarser(_joined((halved(*slab) for slab in slabs), size // 2))
    kept = _joined((inner.add(around(both, *slab, 2, up[0])) for slab in slabs), size)
    for slab in slabs:
        outer.add(twice(*slab))
    for a, b in slabs:
        yield a, last(outer(twice(a, b)))


def _joined(parts: Iterable[Tensor], size: int) -> Tensor:
    """Slabs as one map, channels last."""
    whole, at = None, 0
    for part in parts:
        if whole is None:
            shape = (*part.shape[:2], size, *part.shape[3:])
            layout = torch.channels_last if part.ndim == 4 else torch.channels_last_3d
            whole = torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout)
        whole.narrow(2, at, part.shape[2]).copy_(part)
        at += part.shape[2]
    assert whole is not None
    return whole
