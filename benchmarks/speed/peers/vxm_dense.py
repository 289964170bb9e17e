"""The layout of VoxelMorph's VxmDense (2024), in plain torch, from its description.

Balakrishnan et al., TMI 2019; Dalca et al., MedIA 2019. Encoder 16-32-32-32 with a convolution and
a pooling by 2 at each level, decoder 32-32-32-32 with repeated voxels and skips, then 32-16-16 at
full resolution, a velocity from these, halved in resolution, 7 squarings, and back to the full
grid: 327,331 weights, as the package's own has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepatlas.networks.blocks import channels_last
from deepatlas.networks.convolving import to_channels_last
from deepatlas.networks.fuse import fuse
from deepatlas.networks.joined import convolve_joined
from deepatlas.spatial.grid import identity_grid
from deepatlas.spatial.velocity import integrate

ENCODER = (16, 32, 32, 32)
DECODER = (32, 32, 32, 32)
FINAL = (32, 16, 16)
SQUARINGS = 7


class VxmDense(nn.Module):
    """Moving and fixed (B, 1, *S), S divisible by 16, to a displacement (B, 3, *S) in voxels."""

    def __init__(self) -> None:
        super().__init__()
        channels = 2
        self.down = nn.ModuleList()
        for outputs in ENCODER:
            self.down.append(nn.Conv3d(channels, outputs, 3, padding=1))
            channels = outputs
        self.up = nn.ModuleList()
        for outputs, skip in zip(DECODER, reversed(ENCODER), strict=True):
            self.up.append(nn.Conv3d(channels, outputs, 3, padding=1))
            channels = outputs + skip
        self.final = nn.ModuleList()
        for outputs in FINAL:
            self.final.append(nn.Conv3d(channels, outputs, 3, padding=1))
            channels = outputs
        self.flow = nn.Conv3d(channels, 3, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees."""
        skips = []
        for layer in self.down:
            x = F.leaky_relu(layer(x), 0.2)
            skips.append(x)
            x = F.max_pool3d(x, 2)
        for layer in self.up:
            x = F.leaky_relu(layer(x), 0.2)
            x = torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()], dim=1)
        for layer in self.final:
            x = F.leaky_relu(layer(x), 0.2)
        return x

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        flow = self.flow(self.features(torch.cat([moving, fixed], dim=1)))
        return through_half_resolution(flow, squarings)


def through_half_resolution(flow: Tensor, integrated: Callable[[Tensor], Tensor]) -> Tensor:
    """A velocity at full resolution, integrated on a grid of half the resolution."""
    return resized(integrated(resized(flow, 0.5)), 2.0)


def resized(field: Tensor, factor: float) -> Tensor:
    """A field on another grid, its outermost voxels on those of the old one, values scaled."""
    return factor * F.interpolate(
        field,
        scale_factor=factor,
        mode="trilinear",
        align_corners=True,
        recompute_scale_factor=False,
    )


def squarings(velocity: Tensor) -> Tensor:
    """Scaling and squaring as plain torch has it, the grid of voxels kept between calls."""
    field = velocity / 2**SQUARINGS
    for _ in range(SQUARINGS):
        field = field + plain_warp(field, field)
    return field


def plain_warp(image: Tensor, displacement: Tensor) -> Tensor:
    """image(x + displacement(x)), zero outside."""
    shape = displacement.shape[2:]
    index = identity_grid(shape, device=image.device) + displacement
    scaled = [2 * (index[:, k] / (n - 1) - 0.5) for k, n in enumerate(shape)]
    grid = torch.stack(scaled[::-1], dim=-1)
    return F.grid_sample(image, grid, align_corners=True)


class Fast(nn.Module):
    """The same layers with the same weights, run our way: bfloat16, channels last, our integral."""

    def __init__(self, network: VxmDense) -> None:
        super().__init__()
        self.network = fuse(channels_last(copy.deepcopy(network), 3))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        x = to_channels_last(torch.cat([moving, fixed], dim=1))
        with torch.autocast(x.device.type, torch.bfloat16):
            flow = self.network.flow(self._features(x)).float()
        return through_half_resolution(flow, lambda v: integrate(v, squarings=SQUARINGS))

    def _features(self, x: Tensor) -> Tensor:
        layers, skips = self.network, []
        for layer in layers.down:
            skips.append(F.leaky_relu_(layer(x), 0.2))
            with torch.autocast(x.device.type, enabled=False):  # which would pool in float32
                x = F.max_pool3d(skips[-1], 2)
        skip = None
        for layer in layers.up:
            x = F.leaky_relu_(convolve_joined(layer, x, skip), 0.2)
            skip = skips.pop()
        for layer in layers.final:
            x = F.leaky_relu_(convolve_joined(layer, x, skip), 0.2)
            skip = None
        return x


@torch.no_grad()
def lively(network: VxmDense, seed: int = 0) -> VxmDense:
    """Weights so drawn that velocities are of the order of a voxel, as a trained network's are."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=0.2)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    flow = network.flow(network.features(torch.rand(1, 2, 32, 32, 32)))
    network.flow.weight /= flow.std()
    return network.eval()


class Layout(VxmDense):
    """The same for recipes: moving and fixed as channels (B, 2, *S) to a displacement."""

    def __init__(self, ndim: int) -> None:
        if ndim != 3:
            raise ValueError(f"VxmDense is for 3-D, not {ndim}-D")
        super().__init__()
        nn.init.normal_(self.flow.weight, std=1e-5)
        nn.init.zeros_(self.flow.bias)  # type: ignore[arg-type]

    def forward(self, pair: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(pair[:, :1], pair[:, 1:])
