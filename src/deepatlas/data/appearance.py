"""What a scan and a label map look like, in few numbers, to be compared with others of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from deepatlas.spatial.geometry import Geometry, Volume

BINS = 8  # of a thumbnail along each axis
_SAMPLES = 48  # along each axis: as many voxels as are looked at, about
_QUANTILES = np.arange(1, 20) / 20
_PERCENTILES = (0.005, 0.995)


@dataclass(frozen=True, eq=False)
class Appearance:
    """An image, whatever its unit and gain.

    Parameters
    ----------
    landmarks : (19,) quantiles 0.05 to 0.95 of the foreground, scaled by the 0.5th and 99.5th
        percentile of the image (landmarks as in Nyul et al. 2000).
    foreground : share of the voxels above the lowest percentile.
    negative : share of the voxels below 0.
    thumbnail : (8, 8[, 8]) means of the scaled image, axes to the right, front and up.
    """

    landmarks: np.ndarray
    foreground: float
    negative: float
    thumbnail: np.ndarray


@dataclass(frozen=True, eq=False)
class Structures:
    """Where the structures of a label map lie.

    Parameters
    ----------
    shares : label value to its share of the labelled voxels.
    centres_mm : label value to the mean position of its voxels (RAS mm); both of a sample of
        the voxels, from which a tiny structure may be missing.
    """

    shares: dict[int, float]
    centres_mm: dict[int, np.ndarray]


def appearance_of(volume: Volume) -> Appearance:
    """The appearance of an image of finite values that are not all the same."""
    sample = _canonical(volume.data.numpy(), volume.geometry)[_strides(volume.geometry)]
    values = np.sort(sample, axis=None)
    low, high = (float(_quantiles(values, share)) for share in _PERCENTILES)
    if high <= low:
        low, high = float(values[0]), float(values[-1])
    above = values[np.searchsorted(values, low, side="right") :]
    span = max(high - low, float(np.finfo(np.float32).tiny))
    inside = above if above.size else values
    return Appearance(
        landmarks=((_quantiles(inside, _QUANTILES) - low) / span).clip(0, 1),
        foreground=above.size / values.size,
        negative=float(np.searchsorted(values, 0) / values.size),
        thumbnail=_thumbnail(((sample - low) / span).clip(0, 1)),
    )


def structures_of(labels: Volume, values: Sequence[int]) -> Structures:
    """Where the values, ascending, lie in an int64 label map; others in it are left out."""
    strides = _strides(labels.geometry)
    sample = labels.data.numpy()[strides]
    index = np.nonzero(np.isin(sample, values))
    if not values or not index[0].size:
        return Structures({}, {})
    which = np.searchsorted(values, sample[index])
    counts = np.bincount(which, minlength=len(values))
    sums = [np.bincount(which, weights=along, minlength=len(values)) for along in index]
    with np.errstate(invalid="ignore"):
        centres = np.stack(sums, axis=1) * [s.step for s in strides] / counts[:, None]
    affine = labels.geometry.affine.numpy()
    centres = centres @ affine[:-1, :-1].T + affine[:-1, -1]
    found = [n for n in range(len(values)) if counts[n]]
    return Structures(
        shares={values[n]: float(counts[n] / counts.sum()) for n in found},
        centres_mm={values[n]: centres[n] for n in found},
    )


def _strides(geometry: Geometry) -> tuple[slice, ...]:
    """Every n-th voxel along each axis."""
    return tuple(slice(None, None, max(1, n // _SAMPLES)) for n in geometry.shape)


def _canonical(values: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A view whose axes run most nearly to the right, front and up."""
    turns = nib.orientations.io_orientation(geometry.affine.numpy())
    return nib.orientations.apply_orientation(values, turns)


def _quantiles(ascending: np.ndarray, shares: float | np.ndarray) -> np.ndarray:
    """Without interpolation, of sorted values, as float64."""
    places = np.rint(np.asarray(shares) * (ascending.size - 1)).astype(int)
    return ascending[places].astype(np.float64)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """Means over boxes, 8 along each axis; where there are fewer voxels they are repeated."""
    for axis, n in enumerate(image.shape):
        if n < BINS:
            image = np.repeat(image, -(-BINS // n), axis=axis)
        starts = np.linspace(0, image.shape[axis], BINS + 1).astype(int)
        sizes = np.diff(starts).reshape([-1 if k == axis else 1 for k in range(image.ndim)])
        image = np.add.reduceat(image, starts[:-1], axis=axis) / sizes
    return image.astype(np.float32)
