"""A light U-Net with LeakyReLU, after the segmentation network of the DeepAtlas paper."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepatlas.networks.blocks import (
    Block,
    convolution,
    crop,
    pad_to_multiple,
    to_channels_last,
    upsample,
)


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
    """Forward: image (B, 1, *S) of any size to logits (B, classes, *S), float32."""

    def __init__(self, config: UNet, ndim: int, classes: int) -> None:
        super().__init__()
        self.config = config
        levels = len(config.features)
        self.multiple = 2 ** (levels - 1)
        # Voxels to each side on which logits depend, but for normalisation: at level n of size
        # 2^n two convolutions each way (one at the finest, half as far where they stride), and
        # repeated voxels.
        self.reach = 1 + sum(3 * 2 ** (n - 1) + 3 * 2**n - 1 for n in range(1, levels))
        features = config.features
        self.down = nn.ModuleList()
        channels = 1
        for level, outputs in enumerate(features):
            blocks = [Block(ndim, channels, outputs, stride=2 if level else 1, norm=True)]
            if level:
                blocks.append(Block(ndim, outputs, outputs, norm=True))
            self.down.append(nn.Sequential(*blocks))
            channels = outputs
        self.up = nn.ModuleList()
        for outputs in reversed(features[:-1]):
            first = Block(ndim, channels + outputs, outputs, norm=True)
            self.up.append(nn.Sequential(first, Block(ndim, outputs, outputs, norm=True)))
            channels = outputs
        self.logits = convolution(ndim, channels, classes, kernel=1)

    def forward(self, image: Tensor) -> Tensor:
        x = to_channels_last(pad_to_multiple(image, self.multiple))
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(torch.cat([upsample(x), skips.pop()], dim=1))
        return crop(self.logits(x), image.shape[2:]).to(torch.float32)
