"""Figures of images and maps, as pure functions of arrays in near-RAS axes (see `examples`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deepatlas.report.drawing import (
    FILM_INK,
    Array,
    Mosaic,
    View,
    busiest,
    caption,
    contours,
    cut,
    extent_mm,
    grey,
    mark_ends,
    middle,
    mosaic,
    show,
    structure_colours,
    views,
    window,
)

FOLD = (1.0, 0.0, 0.0)
DETERMINANT = LinearSegmentedColormap.from_list(
    "determinant", ["#12286b", "#3f6fc4", "#a9c4ea", "#f7f7f5", "#9bd3b4", "#2c8a63", "#07432d"]
)
LENGTH = LinearSegmentedColormap.from_list("length", ["#5f7aab", "#4cc9f0", "#c9e88f", "#fff6c9"])
_WIDTH = 10.6  # inches of every figure of images
_TALLEST = 3.6


def segmentation_slices(
    image: Array,
    manual: Array | None,
    predicted: Array,
    spacing_mm: Sequence[float],
    *,
    colours: dict[int, str] | None = None,
    position: Sequence[int] | None = None,
) -> Figure:
    """Slices of a scan with the manual (solid) and the predicted (dashed, paler) outlines.

    Parameters
    ----------
    image : (*S) any real values.
    manual, predicted : (*S) label values, 0 the background; `manual` may be None.
    spacing_mm : mm between voxels along each axis; panels keep the true aspect.
    colours : of the label values; default `structure_colours` of those present.
    position : voxel to cut through; default the slices with most labelled voxels.
    """
    reference = predicted if manual is None else manual
    colours = colours or structure_colours(_values(reference, predicted))
    position = position or busiest(reference > 0)
    limits = window(image)
    panels, board = _one_row(image.shape, spacing_mm)
    for ax, view in zip(board.axes[0], panels, strict=True):
        show(ax, cut(image, view, position), view, spacing_mm, limits=limits)
        if manual is not None:
            contours(ax, cut(manual, view, position), view, spacing_mm, colours)
        outline = cut(predicted, view, position)
        contours(ax, outline, view, spacing_mm, colours, dashed=True)
        caption(ax, view.name)
        mark_ends(ax, view)
    return board.figure


def registration_panel(
    *,
    moving: Array,
    fixed: Array,
    moved: Array,
    spacing_mm: Sequence[float],
    moving_labels: Array | None = None,
    fixed_labels: Array | None = None,
    moved_labels: Array | None = None,
    colours: dict[int, str] | None = None,
    position: Sequence[int] | None = None,
) -> Figure:
    """A pair before and after: moving, fixed, moved, and absolute differences, one row a view.

    Parameters
    ----------
    moving, fixed, moved : (*S) on the fixed grid; `moving` as it lay before registration.
    spacing_mm : mm between voxels of the fixed grid.
    moving_labels, fixed_labels, moved_labels : (*S) label values; outlines of the fixed scan are
        solid, those carried over from the moving scan dashed.
    """
    maps = [m for m in (moving_labels, fixed_labels, moved_labels) if m is not None]
    colours = colours or structure_colours(_values(*maps))
    if position is None:
        position = middle(fixed.shape) if fixed_labels is None else busiest(fixed_labels > 0)
    before, target, after = _alike(moving=moving, fixed=fixed, moved=moved)
    columns = (
        ("moving, before", before, fixed_labels, moving_labels),
        ("fixed", target, fixed_labels, None),
        ("moved, after", after, fixed_labels, moved_labels),
        ("difference before", np.abs(before - target), None, None),
        ("difference after", np.abs(after - target), None, None),
    )
    brightest = max(float(np.percentile(columns[3][1], 99.5)), 0.05)
    panels = views(fixed.ndim)
    rows = [[extent_mm(fixed.shape, spacing_mm, view)] * len(columns) for view in panels]
    board = mosaic(rows, width=_WIDTH, tallest=2.6)
    for line, view in zip(board.axes, panels, strict=True):
        for ax, (title, image, solid, dashed) in zip(line, columns, strict=True):
            is_difference = title.startswith("difference")
            limits = (0.0, brightest) if is_difference else (0.0, 1.0)
            cmap = "inferno" if is_difference else "gray"
            show(ax, cut(image, view, position), view, spacing_mm, limits=limits, cmap=cmap)
            if solid is not None:
                contours(ax, cut(solid, view, position), view, spacing_mm, colours)
            if dashed is not None:
                outline = cut(dashed, view, position)
                contours(ax, outline, view, spacing_mm, colours, dashed=True)
            if line is board.axes[0]:
                caption(ax, title)
        if len(panels) > 1:
            caption(line[0], view.name, side="left")
        mark_ends(line[0], view)
    return board.figure


def deformation_grid(
    displacement: Array,
    spacing_mm: Sequence[float],
    *,
    image: Array | None = None,
    position: Sequence[int] | None = None,
    lines: int = 22,
) -> Figure:
    """A square grid after the displacement, coloured by how far each point goes.

    Parameters
    ----------
    displacement : (d, *S) in voxels of the grid, one channel per axis.
    spacing_mm : mm between voxels along each axis.
    image : (*S) the fixed image, shown faintly behind.
    lines : about how many grid lines along the longest side.
    """
    shape = displacement.shape[1:]
    position = position or middle(shape)
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    moved_mm = displacement * spacing.reshape(-1, *[1] * len(shape))
    length = np.sqrt((moved_mm**2).sum(axis=0))
    scale = Normalize(0.0, max(float(np.percentile(length, 99.8)), 1e-3))
    step_mm = max(n * s for n, s in zip(shape, spacing_mm, strict=True)) / lines
    panels, board = _one_row(shape, spacing_mm, right=0.95)
    for ax, view in zip(board.axes[0], panels, strict=True):
        if image is not None:
            plane = 0.4 * cut(grey(image), view, position)
            show(ax, plane, view, spacing_mm, limits=(0.0, 1.0))
        wide, high = extent_mm(shape, spacing_mm, view)
        ax.set_xlim((wide, 0.0) if view.flipped else (0.0, wide))
        ax.set_ylim(0.0, high)
        planes = [cut(moved_mm[axis], view, position) for axis in (view.across, view.up)]
        grid = _grid_segments(planes, view, spacing_mm, step_mm, cut(length, view, position))
        ax.add_collection(LineCollection(grid[0], array=grid[1], cmap=LENGTH, norm=scale, lw=0.9))
        caption(ax, view.name)
        mark_ends(ax, view)
    bar = _colour_bar(board, ScalarMappable(scale, LENGTH))
    bar.set_ylabel("displacement (mm)", color=FILM_INK, fontsize=8.5)
    return board.figure


def jacobian_colours(
    determinant: Array, limit: float | None = None
) -> tuple[NDArray[np.float64], float]:
    """Colours (*S, 4) of a map of determinants: log scale, white at 1, pure red where det <= 0.

    Returns the colours and the largest |log2 det| of the scale (given as `limit`, or chosen).
    """
    folded = ~(determinant > 0)
    log = np.log2(np.where(folded, 1.0, determinant).astype(np.float64))
    if limit is None:
        spread = float(np.percentile(np.abs(log), 99.5)) if log.size else 0.0
        limit = float(np.clip(spread, np.log2(1.25), 3.0))
    colours = DETERMINANT(Normalize(-limit, limit, clip=True)(log))
    colours[folded] = to_rgba(FOLD)
    return colours, limit


def jacobian_map(
    determinant: Array, spacing_mm: Sequence[float], *, position: Sequence[int] | None = None
) -> Figure:
    """Slices of the Jacobian determinant (*S): log scale around 1, folds (det <= 0) in red.

    Without `position` the slices go where most folds are, else through the middle.
    """
    inner = np.zeros(determinant.shape, dtype=bool)
    inner[(slice(1, -1),) * determinant.ndim] = True  # at the border the differences are one-sided
    position = position or busiest(inner & ~(determinant > 0))
    colours, limit = jacobian_colours(determinant)
    panels, board = _one_row(determinant.shape, spacing_mm, right=0.95)
    for ax, view in zip(board.axes[0], panels, strict=True):
        plane = np.stack([cut(colours[..., k], view, position) for k in range(4)], axis=-1)
        show(ax, plane, view, spacing_mm)
        caption(ax, view.name)
        mark_ends(ax, view)
    bar = _colour_bar(board, ScalarMappable(Normalize(-limit, limit), DETERMINANT))
    marks = (0.125, 0.25, 0.5, 1, 2, 4, 8) if limit >= 1 else (0.6, 0.7, 0.8, 0.9, 1, 1.25, 1.5)
    ticks = [m for m in marks if abs(np.log2(m)) <= limit + 1e-9]
    bar.set_yticks(np.log2(ticks), [f"{m:g}" for m in ticks])
    bar.set_ylabel("Jacobian determinant", color=FILM_INK, fontsize=8.5)
    bar.add_patch(
        Rectangle((0.0, -0.1), 1.0, 0.05, transform=bar.transAxes, color=FOLD, clip_on=False)
    )
    bar.text(1.5, -0.075, "fold", transform=bar.transAxes, va="center", color=FILM_INK, fontsize=8)
    return board.figure


def _values(*maps: Array) -> list[int]:
    return sorted({int(v) for labels in maps for v in np.unique(labels)})


def _one_row(
    shape: Sequence[int], spacing_mm: Sequence[float], right: float = 0.3
) -> tuple[tuple[View, ...], Mosaic]:
    """The views of a grid side by side at one scale, with room for a colour bar at the right."""
    panels = views(len(shape))
    sizes = [extent_mm(shape, spacing_mm, view) for view in panels]
    return panels, mosaic([sizes], width=_WIDTH, tallest=_TALLEST, margins=(0.3, right, 0.34))


def _alike(*, moving: Array, fixed: Array, moved: Array) -> tuple[Array, Array, Array]:
    """The three images in [0, 1]; moved by the window of moving, from which its values come."""
    low, high = window(moving)
    before, after = (
        np.clip((image.astype(np.float64) - low) / (high - low), 0.0, 1.0)
        for image in (moving, moved)
    )
    return before, grey(fixed), after


def _grid_segments(
    planes: list[Array], view: View, spacing_mm: Sequence[float], step_mm: float, length: Array
) -> tuple[list[Array], Array]:
    """Segments ((x, y), (x, y)) in mm of a slice's moved grid lines, and a length for each."""
    rows, columns = length.shape
    sx, sy = spacing_mm[view.across], spacing_mm[view.up]
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    points = np.stack([(x + 0.5) * sx + planes[0], (y + 0.5) * sy + planes[1]], axis=-1)
    segments: list[Array] = []
    values: list[Array] = []
    for moved, far, step in (
        (points, length, max(1, round(step_mm / sy))),
        (points.swapaxes(0, 1), length.T, max(1, round(step_mm / sx))),
    ):
        start = (moved.shape[0] - 1) % step // 2  # the same margin on both sides
        lines, colour = moved[start::step], far[start::step]
        for line in lines:
            segments.extend(np.stack(ends) for ends in pairwise(line))
        values.append(((colour[:, 1:] + colour[:, :-1]) / 2).ravel())
    return segments, np.concatenate(values)


def _colour_bar(board: Mosaic, scale: ScalarMappable) -> Axes:
    """A colour bar at the right margin; its axes, to be labelled."""
    last = board.axes[0][-1].get_position()
    low, tall = min((ax.get_position().y0, ax.get_position().height) for ax in board.axes[0])
    inch = 1 / board.figure.get_figwidth()
    bar = board.figure.add_axes((last.x1 + 0.2 * inch, low + 0.18 * tall, 0.14 * inch, 0.72 * tall))
    board.figure.colorbar(scale, cax=bar)
    bar.tick_params(colors=FILM_INK, labelsize=8)
    bar.spines["outline"].set_edgecolor(FILM_INK)
    bar.spines["outline"].set_alpha(0.4)
    return bar
