"""Sections of example scans and pairs: segmentations, registrations, deformations and folds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from deepatlas.report import markup
from deepatlas.report.curves import determinant_histogram, fold_histogram
from deepatlas.report.drawing import Array, busiest, structure_colours
from deepatlas.report.examples import PairExample, ScanExample
from deepatlas.report.figures import (
    deformation_grid,
    jacobian_map,
    registration_panel,
    segmentation_slices,
)
from deepatlas.report.results import Evaluation, unseen, value

_MOST_KEYS = 16  # structures named in a legend before it is folded away
RADIOLOGICAL = (
    "Letters mark right (R), left (L), anterior (A), posterior (P), superior (S) and inferior (I)."
)


def segmentation_section(
    examples: Sequence[ScanExample], names: Mapping[int, str], fault: str | None
) -> str:
    """The worst, median and best segmentation, in each scan's own space."""
    parts = [
        "<p>Test scans of the linked evaluation, chosen by their mean Dice. Slices go where most "
        "of the manual segmentation lies; each scan is shown in its own space.</p>"
    ]
    if not examples:
        return markup.section("segmentation", "Segmentation", markup.note(fault or _NONE))
    colours = structure_colours(list(names))
    shown = [m for e in examples for m in (e.manual, e.predicted)]
    lines = {"manual": "line", "predicted": "line dash"}
    parts.append(_legend(shown, names, colours, lines))
    figures = []
    for example in examples:
        figure = segmentation_slices(
            example.image, example.manual, example.predicted, example.spacing_mm, colours=colours
        )
        words = f"{example.rank.capitalize()}: scan {example.scan}, mean Dice"
        figures.append(
            markup.film(
                figure,
                alt=f"{words} {markup.number(example.dice)}. Slices with manual and predicted "
                "outlines.",
                caption=_title(example.rank, example.scan)
                + f", mean Dice {markup.number(example.dice)}",
            )
        )
    parts.append(f'<div class="flow">{"".join(figures)}</div>')
    parts.append(_orientation(examples[0].image.ndim))
    return markup.section("segmentation", "Segmentation", *parts)


def registration_section(
    examples: Sequence[PairExample], names: Mapping[int, str], fault: str | None
) -> str:
    """The worst, median and best registration, before and after."""
    if not examples:
        return markup.section("registration", "Registration", markup.note(fault or _NONE))
    colours = structure_colours(list(names))
    maps = [m for e in examples for m in (e.fixed_labels, e.moved_labels) if m is not None]
    parts = [
        "<p>Test pairs of the linked evaluation, chosen by their mean Dice after registration, on "
        "the fixed scan’s grid. Before: as the scans lie after the initial alignment. Differences "
        "are absolute, of intensities brought to one scale; dark is good.</p>",
        _legend(maps, names, colours, {"fixed": "line", "carried from moving": "line dash"}),
    ]
    for example in examples:
        figure = registration_panel(
            moving=example.moving,
            fixed=example.fixed,
            moved=example.moved,
            spacing_mm=example.spacing_mm,
            moving_labels=example.moving_labels,
            fixed_labels=example.fixed_labels,
            moved_labels=example.moved_labels,
            colours=colours,
        )
        score = (
            f"mean Dice {markup.number(example.dice_before)} before, "
            f"{markup.number(example.dice)} after"
        )
        pair = f"{example.moving_scan} to {example.fixed_scan}"
        parts.append(
            markup.film(
                figure,
                alt=f"{example.rank.capitalize()}: {pair}, {score}. Columns: moving, fixed, moved, "
                "difference before, difference after.",
                caption=f"{_title(example.rank, pair)}, {score}",
                most_bytes=450_000,
            )
        )
    parts.append(_orientation(examples[0].fixed.ndim))
    return markup.section("registration", "Registration", *parts)


def deformation_section(
    examples: Sequence[PairExample], evaluation: Evaluation | None, fault: str | None
) -> str:
    """Deformation grids, determinants with folds in red, and histograms."""
    parts = [
        "<p>The map sends each point of the fixed scan into the moving scan. The grid shows the "
        "network’s part of it, beyond the initial alignment. The Jacobian determinant is the local "
        "change of volume: below 1 (blue) the moving tissue there is smaller than the fixed, "
        "above 1 (green) larger; where it is not positive (red) the map folds.</p>"
    ]
    for example in examples:
        parts.append(_deformation(example))
    if not examples:
        parts.append(markup.note(fault or _NONE))
    histograms = _fold_histogram(evaluation) if evaluation else ""
    if examples:
        histograms += _determinants(examples)
    if histograms:
        parts.append(f'<h3>Distributions</h3><div class="row">{histograms}</div>')
    return markup.section("deformation", "Deformation and folds", *parts)


_NONE = "The linked evaluation has no scored test scan or pair of this kind to show."


def _deformation(example: PairExample) -> str:
    pair = f"{example.moving_scan} to {example.fixed_scan}"
    labels = example.fixed_labels
    position = None if labels is None else busiest(labels > 0)
    grid = deformation_grid(
        example.displacement, example.spacing_mm, image=example.fixed, position=position
    )
    folds = int((~(_inner(example.determinant) > 0)).sum())
    told = f"{folds:,} folded voxels" if folds else "no folds"
    spread = np.percentile(example.determinant, (1, 99))
    return (
        f"<h3>{markup.text(example.rank.capitalize())}: {markup.text(pair)}</h3>"
        '<div class="flow">'
        + markup.film(
            grid,
            alt=f"Deformed grid of {pair}, coloured by the length of the displacement.",
            caption="Deformation grid on the fixed scan; colour: displacement in mm.",
        )
        + markup.film(
            jacobian_map(
                example.determinant, example.spacing_mm, position=None if folds else position
            ),
            alt=f"Map of the Jacobian determinant of {pair}: {told}.",
            caption=f"Jacobian determinant, log scale: {told}; 98 % of voxels between "
            f"{markup.number(float(spread[0]), 2)} and {markup.number(float(spread[1]), 2)}."
            + (" Slices go where most folds are." if folds else ""),
            exact=True,
        )
        + "</div>"
    )


def _inner(determinant: Array) -> Array:
    """Voxels that have neighbours on all sides, where folds are counted."""
    return determinant[(slice(1, -1),) * determinant.ndim]


def _fold_histogram(evaluation: Evaluation) -> str:
    rows = unseen(evaluation.pairs)
    voxels = [v for v in (value(row, "left_out") for row in rows) if math.isfinite(v)]
    unit = "folded voxels per pair"
    if not voxels:
        voxels = [v for v in (value(r, "folds_percent") for r in rows) if math.isfinite(v)]
        unit = "folds per pair (% of voxels)"
    if not voxels:
        return ""
    clean = sum(v <= 0 for v in voxels)
    told = f"{clean} of {len(voxels)} pairs have no folds"
    return markup.plot(
        fold_histogram(voxels, unit=unit),
        name="folds",
        alt=f"Histogram of {unit}: {told}.",
        caption=f"Folds over the pairs of the evaluation: {told}.",
    )


def _determinants(examples: Sequence[PairExample]) -> str:
    named = {e.rank: e.determinant for e in examples}
    return markup.plot(
        determinant_histogram(named),
        name="determinants",
        alt="Distribution of the Jacobian determinant in the example pairs, on a log scale.",
        caption="Jacobian determinant of the example pairs, folds left out.",
    )


def _legend(
    maps: Sequence[Array], names: Mapping[int, str], colours: dict[int, str], lines: dict[str, str]
) -> str:
    present = sorted({int(v) for labels in maps for v in np.unique(labels)} & set(colours))
    named = {f"{names.get(v, v)}": colours[v] for v in present}
    if len(named) <= _MOST_KEYS:
        return markup.keys(named, lines)
    return markup.keys({}, lines) + markup.folded(f"{len(named)} structures", markup.keys(named))


def _title(rank: str, name: str) -> str:
    return f"<strong>{markup.text(rank.capitalize())}</strong>: {markup.text(name)}"


def _orientation(ndim: int) -> str:
    return f'<p class="about">{RADIOLOGICAL}</p>' if ndim == 3 else ""
