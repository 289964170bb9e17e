"""The anatomy that every phantom subject is a deformed copy of, as functions of position.

Each structure is a level function: the approximate signed distance to its surface, negative inside.
Positions and distances are in template units; the anatomy fills a box of 40 x 48 x 40 of them, the
first axis from left to right and mirrored at 0. A structure covers those before it, so the
structures are nested (ribbon around core around the deep ones) and neighbours touch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EXTENT = (40.0, 48.0, 40.0)
RIBBON = 2.1  # thickness

Level = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Structure:
    """One structure: its level function, mean intensity and, if annotators outline it, its label.

    Parameters
    ----------
    level : points (..., 3) in template units -> signed distance (...), negative inside.
    intensity : mean over subjects, between 0 (air) and 1.
    label : value in the label map; 0 for what is seen in the image but not annotated.
    thin : whether it is only two to three units thick somewhere all along.
    """

    name: str
    level: Level
    intensity: float
    label: int = 0
    thin: bool = False


def _ellipsoid(points: Tensor, centre: Sequence[float], radii: Sequence[float]) -> Tensor:
    """First-order signed distance to an ellipsoid."""
    radius = torch.tensor(list(radii), dtype=points.dtype)
    offset = points - torch.tensor(list(centre), dtype=points.dtype)
    scaled = torch.linalg.norm(offset / radius, dim=-1)
    slope = torch.linalg.norm(offset / radius**2, dim=-1).clamp(min=1e-9)
    return scaled * (scaled - 1) / slope


def _mirrored(points: Tensor) -> Tensor:
    """Left folded onto right."""
    return torch.cat([points[..., :1].abs(), points[..., 1:]], dim=-1)


def _scalp(points: Tensor) -> Tensor:
    return _ellipsoid(points, (0, 0, 0), (18.7, 22.4, 18.7))


def _gap(points: Tensor) -> Tensor:
    return _ellipsoid(points, (0, 0, 0), (17.2, 20.9, 17.2))


def _organ(points: Tensor) -> Tensor:
    """An ellipsoid with folds, like the convolutions of a brain."""
    x, y, z = points.unbind(-1)
    folds = torch.cos(0.62 * x) * torch.sin(0.66 * y + 0.4)
    folds = folds + torch.cos(0.7 * z) * torch.sin(0.5 * y - 0.7)
    return _ellipsoid(points, (0, 0, 0), (15.8, 19.3, 15.8)) - 0.7 * folds


def _core(points: Tensor) -> Tensor:
    return _organ(points) + RIBBON


def _ventricle(points: Tensor) -> Tensor:
    """A pair of horns, joined in the middle, that bend outwards at the front."""
    x, y, z = _mirrored(points).unbind(-1)
    bent = torch.stack([x - 2.0 - 0.04 * (y + 2) ** 2, y, z - 2.0 + 0.03 * y**2], dim=-1)
    return _ellipsoid(bent, (0, 2.5, 0), (2.5, 7.5, 4.5))


def _nucleus(points: Tensor) -> Tensor:
    return _ellipsoid(_mirrored(points), (8.2, 0.5, -0.5), (3.2, 6.0, 5.5))


def _bead(points: Tensor) -> Tensor:
    """A small one below the nucleus, touching it."""
    return _ellipsoid(_mirrored(points), (7.2, -7.0, -1.0), (2.8, 2.8, 3.0))


def _plate(points: Tensor) -> Tensor:
    """A thin arched plate behind the horns."""
    x, y, z = points.unbind(-1)
    across = (y + 12.0 - 0.035 * x**2 + 0.02 * z**2).abs() / torch.sqrt(1 + (0.07 * x) ** 2)
    edge = torch.sqrt((x / 8.5) ** 2 + (z / 8.0) ** 2 + 1e-9) * 8.2 - 8.2
    return torch.maximum(across - 1.35, edge)


STRUCTURES = (
    Structure("scalp", _scalp, 0.62),
    Structure("gap", _gap, 0.38),
    Structure("ribbon", _organ, 0.60, label=2, thin=True),
    Structure("core", _core, 0.72, label=3),
    Structure("ventricle", _ventricle, 0.24, label=7),
    Structure("nucleus", _nucleus, 0.55, label=10),
    Structure("bead", _bead, 0.60, label=11, thin=True),
    Structure("plate", _plate, 0.84, label=20, thin=True),
)

LANDMARKS = (  # template units; on or inside structures, all within the slice z = 0 or near it
    (0.0, 0.0, 0.0),
    (8.3, 1.5, 0.0),
    (-8.3, 1.5, 0.0),
    (5.6, -0.5, 0.0),
    (-5.6, -0.5, 0.0),
    (3.0, 1.0, 0.0),
    (-3.0, 1.0, 0.0),
    (0.0, -10.2, 0.0),
    (6.0, -8.4, 0.0),
    (-6.0, -8.4, 0.0),
    (0.0, 16.0, 0.0),
    (0.0, -16.5, 0.0),
)


def label_names() -> dict[int, str]:
    """Names of the annotated structures by label value."""
    return {s.label: s.name for s in STRUCTURES if s.label}


def draw_labels(points: Tensor) -> Tensor:
    """Label value (...), int64, at points (..., d) in template units; 2-D is the slice z = 0."""
    points = _in_space(points)
    labels = torch.zeros(points.shape[:-1], dtype=torch.int64)
    for structure in STRUCTURES:
        labels[structure.level(points) < 0] = structure.label
    return labels


def draw_intensities(points: Tensor, intensities: Sequence[float], blur: float) -> Tensor:
    """Intensity (...) at points (..., d), with partial volume over `blur` units at surfaces.

    Parameters
    ----------
    intensities : one for each of STRUCTURES; outside all of them it is 0.
    """
    points = _in_space(points)
    image = torch.zeros(points.shape[:-1], dtype=points.dtype)
    for structure, value in zip(STRUCTURES, intensities, strict=True):
        share = (0.5 - structure.level(points) / blur).clamp(0, 1)
        image = image + share * (value - image)
    return image


def landmarks(ndim: int) -> Tensor:
    """Landmarks of the template, (n, ndim) float64, in template units."""
    return torch.tensor(LANDMARKS, dtype=torch.float64)[:, :ndim]


def _in_space(points: Tensor) -> Tensor:
    missing = 3 - points.shape[-1]
    return torch.nn.functional.pad(points, (0, missing)) if missing else points
