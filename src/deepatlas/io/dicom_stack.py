"""Where the slices of a DICOM series lie, and whether they make one volume; LPS becomes RAS here.

A slice says where its first pixel is and which way its rows and columns run (DICOM PS3.3 C.7.6.2).
The slices are put in order along their common normal, so that the axes are right-handed in LPS, as
in ITK; the spacing between them comes from their positions and from nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deepatlas.errors import BadInput

_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PARALLEL = 1e-3  # by which directions of slices may differ, as their numbers are rounded
_SAME_MM = 1e-3  # slices nearer to each other than this are at one place
_UNEVEN = 0.05  # of the spacing, by which a gap may differ from the others
_ROUNDED_MM = 0.02
_TILT = 5e-3  # shift across the slices by height of the stack, above which it leans
_SHIFT_MM = 0.1
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Slice:
    """What one image says of its pixels and of their place.

    Attributes
    ----------
    name : for errors.
    shape : columns and rows.
    pixel_mm : distance between columns, and between rows.
    thickness_mm : where there is no other slice to tell the spacing.
    position, axes : (3,) LPS mm of the first pixel, and (3, 2) unit vectors along a row and along a
        column; None for an image that is not placed in space, such as a radiograph.
    """

    name: str
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]
    thickness_mm: float
    position: np.ndarray | None
    axes: np.ndarray | None


def stack(slices: Sequence[Slice], path: object) -> tuple[list[int], np.ndarray]:
    """The order of the slices, and (4, 4) from voxel (column, row, slice) to RAS mm.

    Raises
    ------
    BadInput : slices of other sizes, not parallel, several at one place, uneven or missing, or
        shifted across each other (a tilted gantry).
    """
    _refuse_mixed(slices, path)
    first = slices[0]
    if first.position is None or first.axes is None:
        if len(slices) > 1:
            raise BadInput(
                f"{path}: its images do not say where they lie in the patient; convert the series "
                "to NIfTI with dcm2niix"
            )
        return [0], _RAS @ np.diag([*first.pixel_mm, first.thickness_mm, 1.0])
    normal = np.cross(first.axes[:, 0], first.axes[:, 1])
    positions = np.array([image.position for image in slices])
    heights = positions @ normal
    order = [int(n) for n in np.argsort(heights, kind="stable")]
    spacing = first.thickness_mm
    if len(order) > 1:
        names = [slices[n].name for n in order]
        _refuse_repeated(heights[order], names, path)
        _refuse_tilted(positions[order], heights[order], normal, path)
        _refuse_uneven(np.diff(heights[order]), names, path)
        spacing = float(np.ptp(heights)) / (len(order) - 1)
    matrix = np.eye(4)
    matrix[:3, :2] = first.axes * first.pixel_mm
    matrix[:3, 2] = normal * spacing
    matrix[:3, 3] = positions[order[0]]
    return order, _RAS @ matrix


def _refuse_mixed(slices: Sequence[Slice], path: object) -> None:
    """BadInput where the slices have not one size, one pixel spacing and one direction."""
    first = slices[0]
    for image in slices[1:]:
        if image.shape != first.shape:
            raise BadInput(
                f"{path}: {first.name} has {_by(first.shape)} pixels and {image.name} "
                f"{_by(image.shape)}; put images of one size into a folder of their own"
            )
        if not np.allclose(image.pixel_mm, first.pixel_mm, rtol=1e-3):
            raise BadInput(
                f"{path}: {first.name} has pixels of {_by(first.pixel_mm)} mm and {image.name} of "
                f"{_by(image.pixel_mm)} mm; put images of one kind into a folder of their own"
            )
        here, there = (np.zeros((3, 2)) if s.axes is None else s.axes for s in (first, image))
        if not np.allclose(here, there, atol=_PARALLEL):
            raise BadInput(
                f"{path}: {first.name} and {image.name} do not lie in parallel (a localiser?); put "
                "parallel slices into a folder of their own"
            )


def _refuse_repeated(heights: np.ndarray, names: Sequence[str], path: object) -> None:
    """BadInput where slices lie at one place; both are in order of height."""
    steps = np.diff(heights) > _SAME_MM
    if steps.all():
        return
    counts = Counter(np.concatenate([[0], np.cumsum(steps)]).tolist())
    if len(set(counts.values())) == 1:
        raise BadInput(
            f"{path}: holds {counts[0]} images at every place (echoes, times or directions), such "
            f"as {names[0]} and {names[1]}; put those of one volume into a folder of their own",
            kind="several-volumes",
        )
    where = [n for n, step in enumerate(steps) if not step]
    pairs = [f"{names[n]} and {names[n + 1]}" for n in where]
    raise BadInput(
        f"{path}: several images at one place: {_some(pairs)}; keep one image of each place"
    )


def _refuse_tilted(
    positions: np.ndarray, heights: np.ndarray, normal: np.ndarray, path: object
) -> None:
    """BadInput where the slices are shifted across each other; both are in order of height."""
    rise = heights - heights[0]
    shift = np.linalg.norm(positions - positions[0] - rise[:, None] * normal, axis=1)
    if (shift > np.maximum(_SHIFT_MM, _TILT * rise)).any():
        angle = np.degrees(np.arctan2(shift[-1], rise[-1]))
        raise BadInput(
            f"{path}: its slices are shifted across each other by up to {shift.max():.1f} mm (a "
            f"gantry tilted by {angle:.1f} degrees?), so its axes are not at right angles, which "
            "most tools do not read; resample the scan, as dcm2niix does"
        )


def _refuse_uneven(gaps: np.ndarray, names: Sequence[str], path: object) -> None:
    """BadInput where gaps between neighbours differ, with their names."""
    usual = float(np.median(gaps))
    found = []
    for n, gap in enumerate(gaps):
        if abs(gap - usual) > max(_UNEVEN * usual, _ROUNDED_MM):
            missing = round(gap / usual) - 1
            fits = missing > 0 and abs(gap / usual - missing - 1) < _UNEVEN * (missing + 1)
            why = f", {missing} missing between them" if fits else ""
            found.append(f"{names[n]} and {names[n + 1]} {gap:.4g} mm{why}")
    if found:
        raise BadInput(
            f"{path}: uneven or missing slices: they lie {usual:.4g} mm apart, but {_some(found)}; "
            "copy the series again, or resample it to one spacing",
            kind="uneven-slices",
        )


def _some(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return "; ".join(words[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _by(numbers: Sequence[float]) -> str:
    return " x ".join(str(n) if isinstance(n, int) else f"{n:.4g}" for n in numbers)
