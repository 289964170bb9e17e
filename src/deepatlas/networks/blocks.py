"""What the networks share: convolutions for 2-D and 3-D, normalisation, padding to a size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepatlas.networks.convolving import Convolution2d, Convolution3d
from deepatlas.networks.joined import convolve_joined
from deepatlas.networks.normalisation import NormActivation

SLOPE = 0.2  # of LeakyReLU, as in VoxelMorph


def convolution(
    ndim: int, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1
) -> nn.Module:
    """A 2-D or 3-D convolution that keeps voxel 0 on voxel 0 when it strides."""
    kind = Convolution2d if ndim == 2 else Convolution3d
    return kind(inputs, outputs, kernel, stride=stride, padding=kernel // 2)


class Block(nn.Module):
    """Convolution, optional normalisation, LeakyReLU."""

    def __init__(
        self, ndim: int, inputs: int, outputs: int, *, stride: int = 1, norm: bool = False
    ) -> None:
        super().__init__()
        self.convolution = convolution(ndim, inputs, outputs, stride=stride)
        self.activation: nn.Module = (
            NormActivation(outputs, slope=SLOPE, inplace=True)
            if norm
            else nn.LeakyReLU(SLOPE, inplace=True)
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Of x, or of x at twice its size beside `skip`, as `join` puts them together."""
        return self.activation(convolve_joined(self.convolution, x, skip))


class Stage(nn.Sequential):
    """Blocks one after another, the first of one map or of two, as `Block` takes them."""

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        first, *others = self
        x = first(x, skip)
        for block in others:
            x = block(x)
        return x


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zeros after the last voxel of each axis until its size is a multiple."""
    amounts: list[int] = []
    for size in reversed(x.shape[2:]):
        amounts += [0, -size % multiple]
    return F.pad(x, amounts) if any(amounts) else x


def crop(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The first `shape` voxels along each axis of space."""
    box = (slice(None), slice(None), *[slice(n) for n in shape])
    return x[box]


def channels_last(module: nn.Module, ndim: int) -> nn.Module:
    """The module with its weights laid out for channels-last convolutions."""
    layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
    for parameter in module.parameters():
        if parameter.ndim == ndim + 2:  # Module.to(memory_format=...) trips over any other
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return module
