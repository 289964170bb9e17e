"""A network on a grid too large for it: overlapping tiles, blended smoothly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """How a grid is cut.

    Parameters
    ----------
    shape : the grid.
    starts : first voxels of the tiles, along each axis.
    size : of every tile.
    """

    shape: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(list(itertools.product(*self.starts)))

    def weights(self, axis: int) -> Tensor:
        """(tiles, shape[axis]) float32, 0 outside a tile, and 1 at each voxel in sum.

        Within an overlap they go from one tile to the next along straight lines.
        """
        at = torch.arange(self.shape[axis], dtype=torch.float32)
        size, starts = self.size[axis], self.starts[axis]
        rows = torch.ones(len(starts), self.shape[axis])
        for n, start in enumerate(starts):
            rows[n] *= (at >= start) & (at < start + size)
            if n > 0:
                rows[n] *= ((at - start + 0.5) / (starts[n - 1] + size - start)).clamp(0, 1)
            if n + 1 < len(starts):
                overlap = start + size - starts[n + 1]
                rows[n] *= ((start + size - at - 0.5) / overlap).clamp(0, 1)
        return rows / rows.sum(dim=0)


def choose_tiles(
    shape: Sequence[int], *, multiple: int, reach: int, fits: Callable[[Sequence[int]], bool]
) -> Tiles | None:
    """The largest tiles that fit, by cutting the axis whose tiles are longest; None if none do.

    Parameters
    ----------
    multiple : the size along each axis is one of these, but where the grid ends before.
    reach : how far from a voxel the network looks; tiles overlap by so much, or by half their
        size where that is less, so that a voxel counts little in a tile that does not show its
        surroundings.
    fits : whether there is room for a tile of this size.
    """
    counts = [1] * len(shape)
    while True:
        cuts = [_cut(n, k, multiple, reach) for n, k in zip(shape, counts, strict=True)]
        size = tuple(cut[0] for cut in cuts)
        if fits(size):
            return Tiles(tuple(shape), tuple(cut[1] for cut in cuts), size)
        longest = max(range(len(shape)), key=lambda axis: size[axis])
        if size[longest] <= 2 * multiple:
            return None
        while _cut(shape[longest], counts[longest], multiple, reach)[0] == size[longest]:
            counts[longest] += 1


def _cut(length: int, count: int, multiple: int, reach: int) -> tuple[int, tuple[int, ...]]:
    """Size and starts of that many tiles along an axis; fewer where fewer of the size do."""
    if count == 1:
        return length, (0,)
    with_reach = -(-(length + (count - 1) * reach) // count)
    by_half = -(-2 * length // (count + 1))  # tiles that overlap by half
    size = with_reach if with_reach >= 2 * reach else by_half
    size = min(-(-size // multiple) * multiple, length)
    last = length - size
    starts = [round(last * n / (count - 1)) for n in range(count)]
    return size, tuple(sorted(set(starts)))


def blended(
    image: Tensor, tiles: Tiles, classes: int, probabilities: Callable[[Tensor], Tensor]
) -> Tensor:
    """Class probabilities (1, classes, *S) float16 on the CPU, channels last, of an image.

    Parameters
    ----------
    image : (1, 1, *S).
    probabilities : of one tile, on any device.
    """
    total = torch.zeros(1, *tiles.shape, classes, dtype=torch.float16).movedim(-1, 1)
    weights = [tiles.weights(axis) for axis in range(len(tiles.shape))]
    for number in itertools.product(*[range(len(starts)) for starts in tiles.starts]):
        starts = [tiles.starts[axis][n] for axis, n in enumerate(number)]
        places = [slice(a, a + size) for a, size in zip(starts, tiles.size, strict=True)]
        box = (slice(None), slice(None), *places)
        part = probabilities(image[box])
        for axis, n in enumerate(number):
            along = [-1 if other == axis else 1 for other in range(len(number))]
            part *= weights[axis][n, places[axis]].reshape(along).to(part.device)
        total[box] += part.half().cpu()
    return total
