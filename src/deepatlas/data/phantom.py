"""Anatomy-like volumes with known labels and known maps: deformed copies of one template.

Subject s has the label map template(phi_s(x)), where phi_s is a diffeomorphism (the flow of a
smooth random stationary velocity) from the world of the scan to the template. The template is a
function of position, so nothing is interpolated and the map between two subjects is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from deepatlas.data import phantom_template as template
from deepatlas.errors import BadInput
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Composite, Transform, VelocityField

DEFAULT_SHAPE = {2: (64, 76), 3: (40, 48, 40)}
MARGIN = 3.0  # template units by which the velocity's grid is wider than the field of view
WAVES = 64  # in the sum that makes one smooth random field


@dataclass(frozen=True, eq=False)
class PhantomSubject:
    """One subject.

    Parameters
    ----------
    image : float32, about 0 to 1.
    labels : int64, on the image's grid.
    to_template : scan mm -> template mm.
    """

    image: Volume
    labels: Volume
    to_template: Transform


@dataclass(frozen=True)
class Phantom:
    """A population; subject k is the same however many are drawn.

    Parameters
    ----------
    shape, spacing_mm : of every scan; two or three axes. The anatomy scales with the field of view.
    deformation : root mean square length of the velocity, in template units (the template spans
        40 x 48 x 40 of them).
    smoothness : length over which velocities agree, in template units.
    jitter : how far the anatomy's middle lies from the scan's at most, along each axis, in units.
    origin_mm : how far the scan's middle lies from the world's origin at most, along each axis.
    contrast : standard deviation of a structure's intensity between subjects.
    bias : standard deviation of the logarithm of the smooth bias field.
    texture : standard deviation of fine texture, as a share of the intensity.
    noise : standard deviation of the noise (Rician), in intensity.
    """

    seed: int = 0
    shape: tuple[int, ...] = DEFAULT_SHAPE[3]
    spacing_mm: tuple[float, ...] | None = None
    deformation: float = 1.65
    smoothness: float = 9.0
    jitter: float = 0.5
    origin_mm: float = 8.0
    contrast: float = 0.035
    bias: float = 0.12
    texture: float = 0.08
    noise: float = 0.07

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3) or min(self.shape) < 8:
            raise BadInput(f"a phantom needs 2 or 3 axes of 8 voxels or more; got {self.shape}")
        if self.spacing_mm is not None and len(self.spacing_mm) != len(self.shape):
            raise BadInput(f"spacing {self.spacing_mm} does not fit the shape {self.shape}")
        if self.seed < 0:
            raise BadInput(f"a seed is 0 or more; got {self.seed}")

    @property
    def ndim(self) -> int:
        """Number of axes of space."""
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Spacing in mm, 1 mm where none was given."""
        return self.spacing_mm or (1.0,) * self.ndim

    @property
    def unit_mm(self) -> float:
        """Length of a template unit: the largest with which the template fits the scan."""
        sides = zip(self.shape, self.spacing, template.EXTENT, strict=False)
        return min(n * step / extent for n, step, extent in sides)

    def geometry(self, index: int) -> Geometry:
        """The grid of a subject's scan; every subject has its own origin."""
        offset = self._random(index, "origin").uniform(-1, 1, self.ndim) * self.origin_mm
        return Geometry.axis_aligned(self.shape, self.spacing, np.round(offset, 1).tolist())

    def to_template(self, index: int) -> Transform:
        """The true map of a subject, scan mm -> template mm."""
        shift = self._random(index, "jitter").uniform(-1, 1, self.ndim) * self.jitter * self.unit_mm
        margins = [math.ceil(MARGIN * self.unit_mm / step) for step in self.spacing]
        velocity = smooth_field(
            self._random(index, "map"), self._axes(margins), self.smoothness, self.ndim
        )
        voxels_of_unit = self.unit_mm / np.array(self.spacing).reshape(-1, *[1] * self.ndim)
        flow = VelocityField(
            torch.from_numpy(velocity * self.deformation / self.ndim**0.5 * voxels_of_unit),
            Geometry.axis_aligned(velocity.shape[1:], self.spacing),
        )
        to_middle = Affine.translation(torch.from_numpy(shift) - self.geometry(index).centre_mm)
        return Composite([to_middle, flow])

    def subject(self, index: int) -> PhantomSubject:
        """Draw one subject."""
        grid = self.geometry(index)
        to_template = self.to_template(index)
        points = to_template(grid.points_mm()) / self.unit_mm
        labels = template.draw_labels(points)
        image = self._image(index, points)
        return PhantomSubject(Volume(image, grid), Volume(labels, grid), to_template)

    def landmarks_mm(self, index: int) -> Tensor:
        """The template's landmarks in a subject's scan, (n, d) float64, RAS mm."""
        to_subject = self.to_template(index).inverse()
        return to_subject(template.landmarks(self.ndim) * self.unit_mm)

    def true_map(self, *, moving: int, fixed: int) -> Transform:
        """The map between two subjects, fixed mm -> moving mm."""
        return Composite([self.to_template(fixed), self.to_template(moving).inverse()])

    def _image(self, index: int, points: Tensor) -> Tensor:
        random = self._random(index, "image")
        means = np.array([s.intensity for s in template.STRUCTURES])
        own = means + self.contrast * random.standard_normal(len(means))
        blur = float(np.mean(self.spacing)) / self.unit_mm
        clean = template.draw_intensities(points, own.tolist(), blur).numpy()
        rough = gaussian_filter(random.standard_normal(self.shape), 1.0)
        clean = clean * (1 + self.texture * rough / rough.std())
        bias = smooth_field(random, self._axes([0] * self.ndim), 20.0, 1)[0]
        noise = self.noise * random.standard_normal((2, *self.shape))
        image = np.hypot(clean * np.exp(self.bias * bias) + noise[0], noise[1])
        return torch.from_numpy(image.astype(np.float32))

    def _axes(self, margins: Sequence[int]) -> list[np.ndarray]:
        """Coordinates in template units along each axis, 0 in the middle, some voxels beyond."""
        return [
            (np.arange(-margin, n + margin) - (n - 1) / 2) * step / self.unit_mm
            for n, step, margin in zip(self.shape, self.spacing, margins, strict=True)
        ]

    def _random(self, index: int, purpose: str) -> np.random.Generator:
        """Counter-based random numbers of one subject for one purpose."""
        key = (index, self.ndim, *purpose.encode())
        return np.random.Generator(
            np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=key))
        )


def smooth_field(
    random: np.random.Generator, axes: list[np.ndarray], length: float, components: int
) -> np.ndarray:
    """A smooth Gaussian random field on a grid, with variance 1 and squared-exponential covariance.

    A sum of plane waves of random direction (random Fourier features, Rahimi and Recht 2007): it is
    a function of position, the same on every grid.

    Parameters
    ----------
    axes : coordinates along each axis.
    length : the covariance's length, in the coordinates' unit.

    Returns
    -------
    (components, *S) float64.
    """
    frequency = random.standard_normal((WAVES, len(axes))) / length
    phase = random.uniform(0, 2 * np.pi, WAVES)
    weight = random.standard_normal((components, WAVES)) * np.sqrt(2 / WAVES)
    field = torch.from_numpy(weight * np.exp(1j * phase))
    waves = [
        torch.from_numpy(np.exp(1j * np.outer(axis, frequency[:, n])))
        for n, axis in enumerate(axes)
    ]
    for wave in waves[:-1]:
        field = field[..., None, :] * wave
    return (field.reshape(-1, WAVES) @ waves[-1].T).real.reshape(*field.shape[:-1], -1).numpy()
