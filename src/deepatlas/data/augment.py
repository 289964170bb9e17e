"""Augmentation: all randomness is drawn in one place, applying it is pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.spatial.grid import identity_grid, sample

_SIZES = (
    "rotation_degrees", "scale", "shift_voxels", "deformation_voxels", "gamma", "contrast",
    "brightness", "noise", "blur",
)  # fmt: skip


@dataclass(frozen=True)
class Augmentation:
    """How strongly scans are varied; zeros switch a part off.

    Parameters
    ----------
    rotation_degrees, scale, shift_voxels : of a random affine map about the middle of the grid.
    deformation_voxels : standard deviation of each component of a smooth random displacement.
    deformation_spacing : voxels between its control points.
    gamma : the logarithm of the exponent is drawn from +- this.
    contrast, brightness : factor 1 +- contrast about the mean, offset +- brightness.
    noise : largest standard deviation of white noise.
    blur : probability of a light smoothing.
    flip_axis : array axis that is mirrored half of the time; -1 for none.
    flip_pairs : class indices that trade places when mirrored (left and right).
    """

    rotation_degrees: float = 15.0
    scale: float = 0.15
    shift_voxels: float = 4.0
    deformation_voxels: float = 0.8
    deformation_spacing: int = 12
    gamma: float = 0.4
    contrast: float = 0.25
    brightness: float = 0.1
    noise: float = 0.05
    blur: float = 0.2
    flip_axis: int = -1
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in _SIZES:
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.scale >= 1 or self.blur > 1:
            raise ValueError(
                f"scale is below 1 and blur a probability; got {self.scale}, {self.blur}"
            )
        if self.deformation_spacing < 1:
            raise ValueError(f"deformation_spacing is {self.deformation_spacing}; 1 is the least")
        if self.flip_axis < -1:
            raise ValueError(f"flip_axis is {self.flip_axis}; give an array axis, or -1 for none")
        paired = [index for pair in self.flip_pairs for index in pair]
        if paired and self.flip_axis < 0:
            raise ValueError("flip_pairs are exchanged when mirrored: they need a flip_axis")
        if len(set(paired)) < len(paired) or any(index < 1 for index in paired):
            raise ValueError(f"flip_pairs name a class twice, or the background: {self.flip_pairs}")

    def draw(
        self,
        count: int,
        shape: Sequence[int],
        random: torch.Generator,
        spacing_mm: Sequence[float] | None = None,
    ) -> View:
        """The random choices for a batch of `count` items on a grid of `shape`.

        Rotations are rotations in mm; without `spacing_mm` voxels are taken as cubes.
        Raises BadInput where the grid has no axis `flip_axis`.
        """
        if self.flip_axis >= len(shape):
            raise BadInput(f"augment.flip_axis is {self.flip_axis}; scans have {len(shape)} axes")
        spacing = torch.ones(len(shape)) if spacing_mm is None else torch.tensor(list(spacing_mm))
        items = [self._draw_item(shape, random, spacing) for _ in range(count)]
        flipped = torch.tensor([flip for _, flip, _ in items])
        intensity = torch.stack([i for _, _, i in items])
        positions = torch.stack([p for p, _, _ in items])
        noise_seed = int(torch.randint(2**62, (1,), generator=random))
        return View(positions, flipped, self.flip_pairs, intensity, noise_seed)

    def _draw_item(
        self, shape: Sequence[int], random: torch.Generator, spacing: Tensor
    ) -> tuple[Tensor, bool, Tensor]:
        """Positions (d, *S), whether mirrored, and (exponent, factor, offset, noise, blur)."""
        d = len(shape)

        def within(bound: float, size: int = 1) -> Tensor:
            return (torch.rand(size, generator=random) * 2 - 1) * bound

        angles = within(math.radians(self.rotation_degrees), 3)
        rotation = _rotation(angles, d) * spacing / spacing[:, None]
        matrix = rotation * (1 + within(self.scale, d))
        middle = (torch.tensor(shape, dtype=torch.float32) - 1) / 2
        grid = identity_grid(shape)[0].reshape(d, -1) - middle[:, None]
        flip = self.flip_axis >= 0 and float(torch.rand(1, generator=random)) < 0.5
        mirror = torch.ones(d)
        if flip:
            mirror[self.flip_axis] = -1.0
        mapped = matrix @ (grid * mirror[:, None])
        mapped = mapped + (middle + within(self.shift_voxels, d))[:, None]
        positions = mapped.reshape(d, *shape)
        if self.deformation_voxels > 0:
            positions = positions + self._smooth(shape, random)
        exponent = torch.exp(within(self.gamma))
        blurred = (torch.rand(1, generator=random) < self.blur).float()
        noise = torch.rand(1, generator=random) * self.noise
        values = [exponent, 1 + within(self.contrast), within(self.brightness), noise, blurred]
        return positions, flip, torch.cat(values)

    def _smooth(self, shape: Sequence[int], random: torch.Generator) -> Tensor:
        """A smooth displacement (d, *S) in voxels from random control points."""
        d = len(shape)
        control = [max(2, round(n / self.deformation_spacing)) + 3 for n in shape]
        noise = torch.randn(d, *control, generator=random) * self.deformation_voxels
        noise = noise * 3 ** (d / 2)  # smoothing and interpolation leave 1/3 of variance an axis
        index = torch.stack(
            torch.meshgrid(
                *[torch.linspace(1, c - 2, n) for c, n in zip(control, shape, strict=True)],
                indexing="ij",
            )
        )
        kernel = torch.tensor([0.25, 0.5, 0.25])
        for axis in range(1, d + 1):  # quadratic-spline-like smoothness at the cost of linear
            noise = _filter(noise, kernel, axis)
        return sample(noise[None], index[None], outside="border")[0]


@dataclass(frozen=True)
class View:
    """One drawn augmentation of a batch; applying it is pure.

    Attributes
    ----------
    positions : (B, d, *S) the voxel index each voxel is taken from.
    flipped : (B,) bool.
    intensity : (B, 5) exponent, contrast factor, offset, noise level, blurred.
    """

    positions: Tensor
    flipped: Tensor
    flip_pairs: tuple[tuple[int, int], ...]
    intensity: Tensor
    noise_seed: int

    @staticmethod
    def plain(image: Tensor) -> View:
        """A view that changes nothing of images (B, 1, *S)."""
        count, device = len(image), image.device
        positions = identity_grid(image.shape[2:], device=device).repeat(
            count, *[1] * (image.ndim - 1)
        )
        flipped = torch.zeros(count, dtype=torch.bool, device=device)
        intensity = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], device=device).repeat(count, 1)
        return View(positions, flipped, (), intensity, 0)

    def to(self, device: torch.device) -> View:
        """The same on a device."""
        return View(
            self.positions.to(device),
            self.flipped.to(device),
            self.flip_pairs,
            self.intensity.to(device),
            self.noise_seed,
        )

    def image(self, image: Tensor) -> Tensor:
        """Images (B, 1, *S) in [0, 1], moved and with another look, still in [0, 1]."""
        return self.look(sample(image, self.positions))

    def look(self, image: Tensor) -> Tensor:
        """The change of intensities alone."""
        shape = (-1, 1) + (1,) * (image.ndim - 2)
        exponent, factor, offset, level, blurred = (v.reshape(shape) for v in self.intensity.T)
        if bool((blurred > 0).any()):
            kernel = torch.tensor([0.25, 0.5, 0.25], device=image.device)
            smooth = image
            for axis in range(2, image.ndim):
                smooth = _filter(smooth, kernel, axis)
            image = torch.where(blurred > 0, smooth, image)
        image = image.clamp(min=1e-6) ** exponent
        mean = image.mean(dim=tuple(range(2, image.ndim)), keepdim=True)
        image = (image - mean) * factor + mean + offset
        random = torch.Generator().manual_seed(self.noise_seed)
        noise = torch.randn(image.shape, generator=random).to(image.device)
        return (image + noise * level).clamp(0, 1)

    def labels(self, labels: Tensor) -> Tensor:
        """Class indices (B, *S), moved; mirrored scans have their paired classes exchanged."""
        moved = sample(labels.float().unsqueeze(1), self.positions, mode="nearest")
        moved = moved[:, 0].to(labels.dtype)
        for a, b in self.flip_pairs:
            mirrored = self.flipped.reshape(-1, *[1] * (labels.ndim - 1))
            was_a, was_b = (moved == a) & mirrored, (moved == b) & mirrored
            moved = torch.where(was_a, b, torch.where(was_b, a, moved))
        return moved

    def present(self, present: Tensor) -> Tensor:
        """Which foreground classes were annotated, (B, K) bool, exchanged as their labels are."""
        if not self.flip_pairs:
            return present
        order = self._exchanged(present.shape[1] + 1)[1:]
        exchanged = present[:, [index - 1 for index in order]]
        return torch.where(self.flipped[:, None], exchanged, present)

    def probabilities(self, maps: Tensor) -> Tensor:
        """Label probabilities (B, C, *S), moved; beyond the grid is background."""
        foreground = sample(maps[:, 1:], self.positions)
        background = (1 - foreground.sum(dim=1, keepdim=True)).clamp(min=0)
        moved = torch.cat([background, foreground], dim=1)
        if self.flip_pairs:
            mirrored = self.flipped.reshape(-1, *[1] * (maps.ndim - 1))
            moved = torch.where(mirrored, moved[:, self._exchanged(maps.shape[1])], moved)
        return moved

    def _exchanged(self, classes: int) -> list[int]:
        """Class indices with the paired ones in each other's place."""
        order = list(range(classes))
        for a, b in self.flip_pairs:
            order[a], order[b] = order[b], order[a]
        return order


def _rotation(angles: Tensor, d: int) -> Tensor:
    """Rotation matrix (d, d) from one angle (2-D) or three (3-D)."""
    matrix = torch.eye(d)
    planes = [(0, 1)] if d == 2 else [(0, 1), (0, 2), (1, 2)]
    for angle, (a, b) in zip(angles.tolist(), planes, strict=False):
        turn = torch.eye(d)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[a, b], turn[b, a] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _filter(x: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Three-point filter along one axis, border voxels repeated."""
    n = x.shape[axis]
    before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, n - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, n - 1), x.narrow(axis, n - 1, 1)], dim=axis)
    return before * kernel[0] + x * kernel[1] + after * kernel[2]
