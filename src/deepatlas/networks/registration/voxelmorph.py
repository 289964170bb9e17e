"""The VoxelMorph network (Balakrishnan et al., TMI 2019; Dalca et al., MedIA 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deepatlas.networks.blocks import Block, convolution, crop, pad_to_multiple
from deepatlas.networks.convolving import to_channels_last
from deepatlas.networks.joined import join
from deepatlas.networks.recompute import level
from deepatlas.networks.registration.base import Deformation, RegistrationNetwork
from deepatlas.spatial.field import double
from deepatlas.spatial.velocity import integrate


@dataclass(frozen=True)
class VoxelMorph:
    """Features as in the paper, a displacement or a stationary velocity at full or half resolution.

    Parameters
    ----------
    encoder : channels after each strided convolution; the size halves each time.
    decoder : channels of one convolution per level on the way up; at half resolution the last
        one has no level and is left out.
    final : channels of the convolutions at the output resolution.
    velocity : predict a stationary velocity and integrate it (no folds); else a displacement.
    half_resolution : predict on a grid of half the resolution, then interpolate the displacement.
    squarings : of scaling and squaring.
    norm : normalise after each convolution (not in the paper; learns in fewer steps).
    repeats : convolutions per level of the encoder, 1 in the paper.
    flow_scale : factor on the output of the last layer; below 1 that layer, whose weights move
        whole fields by voxels, learns more slowly than the features under it.
    """

    encoder: tuple[int, ...] = (16, 32, 32, 32)
    decoder: tuple[int, ...] = (32, 32, 32, 32)
    final: tuple[int, ...] = (32, 16, 16)
    velocity: bool = True
    half_resolution: bool = True
    squarings: int = 7
    norm: bool = False
    repeats: int = 1
    flow_scale: float = 1.0

    def __post_init__(self) -> None:
        if len(self.decoder) != len(self.encoder):
            raise ValueError(
                f"decoder needs one entry per level of the encoder ({len(self.encoder)}), "
                f"got {len(self.decoder)}"
            )
        if not self.encoder:
            raise ValueError("encoder needs one level or more")
        if self.squarings < 0:
            raise ValueError(f"squarings must be 0 or more, got {self.squarings}")
        if self.repeats < 1 or self.flow_scale <= 0:
            raise ValueError("repeats must be 1 or more, and flow_scale positive")

    def build(self, *, ndim: int) -> VoxelMorphNetwork:
        """The network with fresh weights, drawn from torch's generator."""
        return VoxelMorphNetwork(self, ndim)


class VoxelMorphNetwork(RegistrationNetwork):
    """Forward: moving and fixed (B, 1, *S) of any size to a Deformation at full resolution.

    Attributes
    ----------
    recompute : levels are computed again in the backward pass, see `networks.recompute`.
    """

    def __init__(self, config: VoxelMorph, ndim: int) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.multiple = 2 ** len(config.encoder)
        self.down = nn.ModuleList()
        skips = [2]
        for outputs in config.encoder:
            blocks = [Block(ndim, skips[-1], outputs, stride=2, norm=config.norm)]
            for _ in range(config.repeats - 1):
                blocks.append(Block(ndim, outputs, outputs, norm=config.norm))
            self.down.append(nn.Sequential(*blocks))
            skips.append(outputs)
        channels = skips.pop()
        levels = len(config.encoder) - int(config.half_resolution)
        self.up = nn.ModuleList()
        for outputs in config.decoder[:levels]:
            self.up.append(Block(ndim, channels, outputs, norm=config.norm))
            channels = outputs + skips.pop()
        self.final = nn.ModuleList()
        for outputs in config.final:
            self.final.append(Block(ndim, channels, outputs, norm=config.norm))
            channels = outputs
        self.flow = convolution(ndim, channels, ndim)
        nn.init.normal_(self.flow.weight, std=1e-5)  # type: ignore[arg-type]
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        shape = fixed.shape[2:]
        x = to_channels_last(pad_to_multiple(torch.cat([moving, fixed], dim=1), self.multiple))
        skips = [x]
        for block in self.down:
            skips.append(level(block, skips[-1], recompute=self.recompute))
        inputs = [skips.pop()]
        for block in self.up:
            x = level(block, *inputs, recompute=self.recompute)
            inputs = [x, skips.pop()]
        for block in self.final:
            inputs = [level(block, *inputs, recompute=self.recompute)]
        x = join(*inputs)
        half = self.config.half_resolution
        wanted = [(n + 1) // 2 for n in shape] if half else list(shape)
        with torch.autocast(x.device.type, enabled=False):
            field = crop(self.flow(x.float()), wanted) * self.config.flow_scale
            velocity = field if self.config.velocity else None
            if self.config.velocity:
                field = integrate(field, squarings=self.config.squarings)
            return Deformation(double(field, shape) if half else field, velocity)
