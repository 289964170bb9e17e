"""A light U-Net with LeakyReLU, after the segmentation network of the DeepAtlas paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.networks.blocks import Block, Stage, convolution, crop, pad_to_multiple
from deepatlas.networks.convolving import to_channels_last
from deepatlas.networks.recompute import level
from deepatlas.networks.segmentation.slabs import logits_in_slabs


@dataclass(frozen=True)
class UNet:
    """Two convolutions per level, strided on the way down, repeated voxels on the way up.

    The finest level, where a voxel costs most, has one convolution on the way down.

    Parameters
    ----------
    features : channels of each level, the finest first.
    """

    features: tuple[int, ...] = (16, 32, 64, 64)

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("features needs one level or more")

    def build(self, *, ndim: int, classes: int) -> UNetNetwork:
        """The network with fresh weights, drawn from torch's generator."""
        return UNetNetwork(self, ndim, classes)


class UNetNetwork(nn.Module):
    """Forward: image (B, 1, *S) of any size to logits (B, classes, *S), float32.

    Attributes
    ----------
    recompute : levels are computed again in the backward pass, see `networks.recompute`.
    """

    def __init__(self, config: UNet, ndim: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        levels = len(config.features)
        self.multiple = 2 ** (levels - 1)
        # Voxels to each side on which logits depend, but for normalisation.
        self.reach = 6 * self.multiple - 5
        features = config.features
        self.down = nn.ModuleList()
        channels = 1
        for n, outputs in enumerate(features):
            blocks = [Block(ndim, channels, outputs, stride=2 if n else 1, norm=True)]
            if n:
                blocks.append(Block(ndim, outputs, outputs, norm=True))
            self.down.append(nn.Sequential(*blocks))
            channels = outputs
        self.up = nn.ModuleList()
        for outputs in reversed(features[:-1]):
            first = Block(ndim, channels + outputs, outputs, norm=True)
            self.up.append(Stage(first, Block(ndim, outputs, outputs, norm=True)))
            channels = outputs
        self.logits = convolution(ndim, channels, classes, kernel=1)

    def forward(self, image: Tensor) -> Tensor:
        x = to_channels_last(pad_to_multiple(image, self.multiple))
        x = self._through(x, self.down, self.up)
        return crop(self.logits(x), image.shape[2:]).to(torch.float32)

    def _through(self, x: Tensor, down: Iterable[nn.Module], up: Iterable[nn.Module]) -> Tensor:
        skips: list[Tensor] = []
        for stage in down:
            x = level(stage, x, recompute=self.recompute)
            skips.append(x)
        skips.pop()
        for stage in up:
            x = level(stage, x, skips.pop(), recompute=self.recompute)
        return x

    def in_slabs(self, image: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
        """First row and logits (1, classes, rows, ...) float32 of one slab after the other.

        The same as forward, but for rounding, with less memory; see `slabs`. Needs two levels.
        """
        (first,), (strided, second) = _blocks(self.down[0]), _blocks(self.down[1])
        below = [nn.Sequential(strided.activation, second), *self.down[2:]]
        found = logits_in_slabs(
            pad_to_multiple(image, self.multiple),
            rows,
            first=first,
            strided=strided,
            coarser=lambda x: self._through(x, below, self.up[:-1]),
            up=_blocks(self.up[-1]),
            last=self.logits,
        )
        for start, logits in found:
            left = image.shape[2] - start
            if left > 0:
                here = (min(left, logits.shape[2]), *image.shape[3:])
                yield start, crop(logits, here).to(torch.float32)


def _blocks(stage: Any) -> list[Block]:
    """The blocks of a stage."""
    return list(stage)
