"""Registration by optimisation: a pyramid of resolutions, any model, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from deepatlas.classical.candidates import SCALES
from deepatlas.classical.match import BlockNCC
from deepatlas.classical.pyramid import Level, Scan, level, ready, spacings
from deepatlas.spatial.geometry import Volume
from deepatlas.spatial.transform import Affine, Transform

_OVERLAP = 0.25  # of the fixed foreground, below which scans do not overlap
_LOSS = 0.02  # in correlation at the coarsest level; found maps are no worse than their start
_LIKENESS = 0.25  # correlation where they overlap, below which scans do not show the same
_VOXELS = 40_000_000  # of moving scans that are worked on at once


class Model(Protocol):
    """A kind of map and how it is found, one level at a time."""

    def begin(self, starts: Sequence[Sequence[Affine]]) -> Any:
        """A state, from several starts (as many for each) of every moving scan."""

    def improve(
        self, state: Any, level: Level, similarity: BlockNCC, *, first: bool, last: bool
    ) -> Any:
        """The state after a level."""

    def transforms(self, state: Any) -> list[Transform]:
        """The maps of a state, one for every moving scan."""


@dataclass(frozen=True)
class Registration:
    """What an optimisation found.

    Parameters
    ----------
    transform : fixed mm -> moving mm.
    start, similarity : mean correlation in blocks (1 is best) at the start and in the end.
    overlap : share of the fixed foreground that lies within the moving field of view.
    fault : why the optimisation was given up and `transform` is its start; empty if it was not.
    """

    transform: Transform
    start: float
    similarity: float
    overlap: float
    fault: str = ""


def optimise(
    *,
    moving: Volume,
    fixed: Volume,
    model: Model,
    similarity: BlockNCC | None = None,
    levels: Sequence[float] | None = None,
    initial: Affine | None = None,
    device: torch.device | str = "cpu",
) -> Registration:
    """Register one scan to another from coarse to fine.

    Parameters
    ----------
    moving, fixed : of any grids.
    model : what is sought: `Rigid()`, `Affine()`.
    similarity : `BlockNCC()` by default.
    levels : spacings in mm, coarse to fine; None for `pyramid.spacings`.
    initial : where to start; None for the best of several starts (see `optimise_all`).

    Returns
    -------
    The map, and in `fault` what speaks against it; the map is then the start itself: `initial`, or
    centres of mass put together.
    """
    starts = None if initial is None else [initial]
    return optimise_all(
        moving=[moving], fixed=fixed, model=model, similarity=similarity, levels=levels,
        initial=starts, device=device,
    )[0]  # fmt: skip


def optimise_all(
    *,
    moving: Sequence[Volume],
    fixed: Volume,
    model: Model,
    similarity: BlockNCC | None = None,
    levels: Sequence[float] | None = None,
    initial: Sequence[Affine] | None = None,
    device: torch.device | str = "cpu",
) -> list[Registration]:
    """`optimise` of many moving scans to one fixed scan, side by side.

    Without `initial`, the starts are: centres of mass together, centres of the fields of view
    together, and the world as the headers say; linear models also look at rotations of them.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _optimise_all(
            moving, fixed, model, similarity or BlockNCC(), levels, initial, device
        )


def _optimise_all(
    moving: Sequence[Volume],
    fixed: Volume,
    model: Model,
    measure: BlockNCC,
    levels: Sequence[float] | None,
    initial: Sequence[Affine] | None,
    device: torch.device | str,
) -> list[Registration]:
    target = ready(fixed, device)
    if target is None:
        raise ValueError("the fixed scan is constant")
    steps = spacings(target) if levels is None else sorted(levels, reverse=True)
    found: dict[int, Registration] = {}
    scans: dict[int, Scan] = {}
    for index, volume in enumerate(moving):
        scan = ready(volume, device)
        if scan is None:
            shift = Affine.translation(volume.geometry.centre_mm - fixed.geometry.centre_mm)
            found[index] = Registration(shift, 0.0, 0.0, 0.0, "the moving scan is constant")
            continue
        scans[index] = scan
    for part in _batches(scans):
        own = None if initial is None else [initial[i] for i in part]
        results = _batch([scans[i] for i in part], target, model, measure, steps, own)
        found |= dict(zip(part, results, strict=True))
    return [found[index] for index in range(len(moving))]


def _batches(scans: dict[int, Scan]) -> list[list[int]]:
    """Indices that are worked on together."""
    parts: list[list[int]] = []
    voxels = 0
    for index, scan in scans.items():
        size = scan.volume.data.numel()
        if not parts or voxels + size > _VOXELS:
            parts.append([])
            voxels = 0
        parts[-1].append(index)
        voxels += size
    return parts


def _batch(
    scans: Sequence[Scan],
    target: Scan,
    model: Model,
    measure: BlockNCC,
    steps: Sequence[float],
    initial: Sequence[Affine] | None,
) -> list[Registration]:
    if initial is None:
        starts = [_starts(scan, target) for scan in scans]
    else:
        starts = [[start] for start in initial]
    state = model.begin(starts)
    for number, spacing in enumerate(steps):
        now = level(scans, target, spacing)
        if number == 0:
            match = measure.match(now)
        state = model.improve(state, now, measure, first=number == 0, last=number == len(steps) - 1)
    found = model.transforms(state)
    before = [start[0] for start in starts]
    scores = [match.score(maps) for maps in (before, found)]
    judged = []
    for number, (start, end) in enumerate(zip(before, found, strict=True)):
        numbers = [(1 - float(s.cost[number, 0]), float(s.overlap[number, 0])) for s in scores]
        judged.append(_judged(start, end, *numbers))
    return judged


def _starts(moving: Scan, fixed: Scan) -> list[Affine]:
    """Centre of mass first."""
    return [
        Affine.translation(moving.centre_of_mass_mm - fixed.centre_of_mass_mm),
        Affine.translation(moving.volume.geometry.centre_mm - fixed.volume.geometry.centre_mm),
        Affine.identity(fixed.volume.geometry.ndim),
    ]


def _judged(
    start: Affine, found: Transform, begun: tuple[float, float], ended: tuple[float, float]
) -> Registration:
    """What was found, or the start and why; both with their similarity and overlap."""
    fault = ""
    if ended[1] < _OVERLAP:
        fault = f"only {100 * ended[1]:.0f} % of the fixed scan's foreground would be covered"
    elif isinstance(found, Affine) and not _plausible(found):
        fault = f"no scale between {SCALES[0]:g} and {SCALES[1]:g} fits"
    elif ended[0] < begun[0] - _LOSS:
        fault = "nothing found that fits as well as the start"
    elif ended[0] < _LIKENESS * ended[1]:
        fault = "the scans are not alike wherever they are put"
    if fault:
        return Registration(start, begun[0], begun[0], begun[1], fault)
    return Registration(found, begun[0], ended[0], ended[1])


def _plausible(found: Affine) -> bool:
    stretches = torch.linalg.svdvals(found.matrix[:-1, :-1])
    low, high = SCALES
    return bool(low * 1.02 < stretches.min()) and bool(stretches.max() < high / 1.02)
