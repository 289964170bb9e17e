"""What all figures share: colours, views through an image, panels, and figures as text for HTML."""

from __future__ import annotations

import base64
import colorsys
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Colour = tuple[float, float, float]

FILM = "#0c0f14"  # behind images, in light and dark pages alike
FILM_INK = "#d5dae2"
INK = "#010203"  # the page's text colour in SVG figures, where svg_text() makes it currentColor
LINES = ("#3b82f6", "#e0803a", "#1fa37a", "#b35bc9", "#c2a100", "#6b7fa3")  # readable on both pages
STRUCTURES = (
    "#4cc9f0",
    "#ffd166",
    "#7ae582",
    "#ff8fd0",
    "#ff9f5a",
    "#b79cff",
    "#c9e265",
    "#8fd3c8",
)

_FONT = ["DejaVu Sans"]
_FEW = 16  # structures with outlines of full width


@dataclass(frozen=True)
class View:
    """One way to look through an image: the axes shown across and up, and what lies at the ends."""

    name: str
    across: int
    up: int
    through: int | None = None
    flipped: bool = False  # first voxel at the right, as radiologists hang films
    ends: tuple[str, str, str, str] = ("", "", "", "")  # left, right, bottom, top


IMAGE_2D = (View("image", 0, 1),)
ORTHOGONAL = (
    View("axial", 0, 1, 2, True, ("R", "L", "P", "A")),
    View("coronal", 0, 2, 1, True, ("R", "L", "I", "S")),
    View("sagittal", 1, 2, 0, True, ("A", "P", "I", "S")),
)


def views(ndim: int) -> tuple[View, ...]:
    """The views of an image with axes near right, anterior, superior: one in 2-D, else three."""
    return IMAGE_2D if ndim == 2 else ORTHOGONAL


def cut(volume: Array, view: View, position: Sequence[int]) -> Array:
    """The slice of `volume` (*S) through voxel `position` as rows (up) by columns (across)."""
    index: list[slice | int] = [slice(None)] * volume.ndim
    if view.through is not None:
        index[view.through] = position[view.through]
    plane = volume[tuple(index)]
    return plane.T  # the remaining axes stand in the order across, up


def middle(shape: Sequence[int]) -> tuple[int, ...]:
    """The voxel in the middle of a grid."""
    return tuple(n // 2 for n in shape)


def busiest(mask: Array) -> tuple[int, ...]:
    """Per axis, the slice with most voxels of `mask` (*S); the grid's middle if it is empty."""
    if not mask.any():
        return middle(mask.shape)
    axes = range(mask.ndim)
    sums = [mask.sum(axis=tuple(a for a in axes if a != axis)) for axis in axes]
    return tuple(_centre_of_peak(profile) for profile in sums)


def _centre_of_peak(profile: Array) -> int:
    """The middle one of the fullest slices, so that a plateau is not shown at its edge."""
    fullest = np.flatnonzero(profile == profile.max())
    return int(fullest[len(fullest) // 2])


def window(image: Array) -> tuple[float, float]:
    """Darkest and brightest grey to show: percentiles 0.5 and 99.5, never an empty range."""
    low, high = (float(v) for v in np.percentile(image, (0.5, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def grey(image: Array) -> NDArray[np.float64]:
    """`image` brought to [0, 1] by its window."""
    low, high = window(image)
    return np.clip((image.astype(np.float64) - low) / (high - low), 0.0, 1.0)


def structure_colours(values: Sequence[int]) -> dict[int, str]:
    """One colour per label value, the same wherever the same list of values is shown."""
    listed = sorted(v for v in set(values) if v != 0)
    colours = dict(zip(listed, STRUCTURES, strict=False))
    hue = 0.0
    for value in listed[len(STRUCTURES) :]:
        hue = (hue + 0.61803399) % 1.0
        colours[value] = to_hex(colorsys.hls_to_rgb(0.13 + 0.72 * hue, 0.7, 0.75))
    return colours


def paler(colour: str, share: float = 0.7) -> Colour:
    """`colour` mixed with white."""
    r, g, b = (int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5))
    return (r + (1 - r) * share, g + (1 - g) * share, b + (1 - b) * share)


def film(width: float, height: float) -> Figure:
    """An empty dark figure of `width` by `height` inches, for images."""
    figure = Figure(figsize=(width, height), facecolor=FILM)
    return figure


def sheet(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """A transparent figure of plots in the page's ink (see `svg_text`), and its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.patch.set_alpha(0.0)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            ax.spines[side].set_color(INK)
            ax.spines[side].set_alpha(0.35)
        ax.tick_params(colors=INK, labelsize=8.5, length=3)
        ax.xaxis.label.set_color(INK)
        ax.yaxis.label.set_color(INK)
        ax.xaxis.label.set_size(9)
        ax.yaxis.label.set_size(9)
        ax.grid(axis="y", color=INK, alpha=0.12, linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, list(axes.flat)


@dataclass(frozen=True)
class Mosaic:
    """Axes for views of one grid, drawn to one scale in mm within a row: `axes[row][column]`."""

    figure: Figure
    axes: list[list[Axes]]


def extent_mm(shape: Sequence[int], spacing_mm: Sequence[float], view: View) -> tuple[float, float]:
    """Width and height in mm of the field of view as seen in `view`."""
    return shape[view.across] * spacing_mm[view.across], shape[view.up] * spacing_mm[view.up]


def mosaic(
    rows: Sequence[Sequence[tuple[float, float]]],
    *,
    width: float,
    tallest: float,
    margins: tuple[float, float, float] = (0.3, 0.12, 0.34),
    gap: float = 0.1,
) -> Mosaic:
    """Lay out axes by their sizes in mm.

    Parameters
    ----------
    rows : per row the (width, height) in mm of each panel; a row keeps one scale.
    width, tallest : most inches of the figure's width and of a panel's height.
    margins : inches at the left, right and top of the figure.
    gap : inches between panels.
    """
    left, right, top = margins
    gaps = [gap * (len(row) - 1) for row in rows]
    room = width - left - right
    scales = [
        min((room - between) / sum(w for w, _ in row), tallest / max(h for _, h in row))
        for between, row in zip(gaps, rows, strict=True)
    ]
    used = [
        scale * sum(w for w, _ in row) + between
        for scale, row, between in zip(scales, rows, gaps, strict=True)
    ]
    width = left + max(used) + right  # narrow images make a narrow figure
    heights = [s * max(h for _, h in row) for s, row in zip(scales, rows, strict=True)]
    height = top + sum(heights) + gap * len(rows)
    figure = film(width, height)
    axes: list[list[Axes]] = []
    y = height - top
    for scale, row, tall, wide in zip(scales, rows, heights, used, strict=True):
        spare = (max(used) - wide) / len(row)  # spread, so that equal panels stand in columns
        x = left + spare / 2
        line = []
        for w, h in row:  # the tops of a row stand at one height, and so do the captions
            box = (x / width, (y - scale * h) / height, scale * w / width, scale * h / height)
            ax = figure.add_axes(box)
            ax.set_axis_off()
            line.append(ax)
            x += scale * w + gap + spare
        axes.append(line)
        y -= tall + gap
    return Mosaic(figure, axes)


def show(
    ax: Axes,
    plane: Array,
    view: View,
    spacing_mm: Sequence[float],
    *,
    limits: tuple[float, float] | None = None,
    cmap: str = "gray",
) -> None:
    """Draw a slice from `cut` (greys, or RGBA as its last axis) with its true aspect in mm."""
    rows, columns = plane.shape[:2]
    wide, high = columns * spacing_mm[view.across], rows * spacing_mm[view.up]
    low, top = limits if limits else (None, None)
    ax.imshow(
        plane,
        cmap=cmap,
        vmin=low,
        vmax=top,
        origin="lower",
        extent=(0.0, wide, 0.0, high),
        interpolation="nearest" if plane.ndim == 3 else "bilinear",
        aspect="equal",
    )
    ax.set_xlim((wide, 0.0) if view.flipped else (0.0, wide))
    ax.set_ylim(0.0, high)
    ax.set_axis_off()


def contours(
    ax: Axes,
    plane: Array,
    view: View,
    spacing_mm: Sequence[float],
    colours: dict[int, str],
    *,
    dashed: bool = False,
) -> None:
    """Outline every label of a slice from `cut`; dashed outlines are paler, to show over solid."""
    thinner = 1.0 if len(colours) <= _FEW else 0.55
    padded = np.pad(plane, 1)  # a structure that touches the border is closed there
    x = (np.arange(padded.shape[1]) - 0.5) * spacing_mm[view.across]
    y = (np.arange(padded.shape[0]) - 0.5) * spacing_mm[view.up]
    for value in np.unique(plane):
        if int(value) not in colours:
            continue
        colour = colours[int(value)]
        ax.contour(
            x,
            y,
            (padded == value).astype(np.float32),
            levels=[0.5],
            colors=[paler(colour) if dashed else colour],
            linewidths=thinner * (1.1 if dashed else 1.7),
            linestyles=[(0, (2.4, 1.8))] if dashed else ["solid"],
        )


def mark_ends(ax: Axes, view: View) -> None:
    """Write the anatomical directions at the four borders of a panel."""
    places = (
        (0.02, 0.5, "left"),
        (0.98, 0.5, "right"),
        (0.5, 0.03, "center"),
        (0.5, 0.97, "center"),
    )
    for end, (x, y, side) in zip(view.ends, places, strict=True):
        upright = "center" if y == 0.5 else ("bottom" if y < 0.5 else "top")
        ax.text(
            x, y, end, transform=ax.transAxes, ha=side, va=upright, color=FILM_INK, fontsize=7.5,
            fontfamily=_FONT, path_effects=[withStroke(linewidth=1.6, foreground=FILM)],
        )  # fmt: skip


def caption(ax: Axes, text: str, *, side: str = "top") -> None:
    """A small title above a panel, or to its left and turned."""
    if side == "top":
        ax.set_title(text, color=FILM_INK, fontsize=9, pad=6, fontfamily=_FONT)
        return
    ax.text(
        -0.03, 0.5, text, transform=ax.transAxes, rotation=90, ha="right", va="center",
        color=FILM_INK, fontsize=9, fontfamily=_FONT,
    )  # fmt: skip


def pixels(figure: Figure, dpi: float) -> Image.Image:
    """The figure drawn at `dpi`, RGB."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def png_uri(figure: Figure, *, most_bytes: int = 280_000, exact: bool = False) -> str:
    """The figure as a data URI, as fine as fits in `most_bytes` (and at most 140 dots per inch).

    A figure that is too large is brought to 256 colours first, unless it must be `exact`.
    """
    dpi = 140.0
    while True:
        picture = pixels(figure, dpi)
        data = _png(picture)
        if len(data) > most_bytes and not exact:
            data = _png(_fewer_colours(picture))
        if len(data) <= most_bytes or dpi < 50:
            return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
        dpi *= min(0.95, 0.97 * (most_bytes / len(data)) ** 0.5)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _fewer_colours(picture: Image.Image) -> Image.Image:
    """The same picture with a palette of 256 colours: noise then costs a third of the bytes."""
    # the octree keeps rare colours, such as thin outlines; median cut would shift their hue
    return picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


def svg_text(figure: Figure, *, label: str, name: str) -> str:
    """The figure as an inline SVG element whose ink follows the page (light, dark, print).

    Parameters
    ----------
    label : what a reader hears who does not see it.
    name : prefix of the ids inside, different for every figure of a page.
    """
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    text = text.replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
