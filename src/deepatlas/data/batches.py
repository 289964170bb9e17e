"""What a task may ask for at a step, and the batch it gets: a function of (seed, stage, step)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.data.augment import Augmentation, View
from deepatlas.data.prepare import PreparedScan, inside
from deepatlas.data.randomness import generator
from deepatlas.errors import BadInput
from deepatlas.io.packing import zlib
from deepatlas.spatial.geometry import Geometry

Labelled = Literal["any", "yes", "no"]
_KNOWN = 1e-3  # of a voxel; rounding in warps leaves less than this of one that is ignored


@dataclass(frozen=True)
class Scans:
    """Some prepared scans, stacked.

    Attributes
    ----------
    image : (B, 1, *S) float32 in [0, 1].
    labels : (B, *S) class indices; zeros where a scan has none, and the number of classes, one
        beyond the last, where a voxel is ignored.
    labelled : (B,) bool, whether the scan has a manual segmentation.
    present : (B, K) bool, which foreground classes were annotated in it.
    ids : their ids.
    inside : (B, 1, *S) float32, 1 within the scan's field of view and 0 in what was padded; None
        where that is not known.
    ignoring : whether any voxel may be ignored.
    """

    image: Tensor
    labels: Tensor
    labelled: Tensor
    present: Tensor
    ids: tuple[str, ...]
    inside: Tensor | None = None
    ignoring: bool = False

    @property
    def classes(self) -> int:
        """Number of classes with the background."""
        return self.present.shape[1] + 1

    def one_hot(self, labels: Tensor | None = None) -> Tensor:
        """The labels, or others like them, as probabilities (B, classes, *S), float32.

        Where voxels may be ignored there is one more channel, of those: it goes through warps and
        means like a class, and `known` parts with it in the end.
        """
        return one_hot(self.labels if labels is None else labels, self.classes + self.ignoring)

    def known(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """What `one_hot` gave, warped or not, as probabilities and the weight of each voxel.

        The weight (B, 1, *S) is what is not ignored, a constant; None where nothing can be.
        """
        if not self.ignoring:
            return maps, None
        classes, weight = maps[:, :-1], 1 - maps[:, -1:]
        sure = weight > _KNOWN
        return classes / torch.where(sure, weight, 1.0), (weight * sure).detach()

    def to(self, device: torch.device) -> Scans:
        """The same on a device."""
        tensors = {n: getattr(self, n).to(device) for n in ("image", "labels", "labelled")}
        inside = None if self.inside is None else self.inside.to(device)
        return replace(self, present=self.present.to(device), inside=inside, **tensors)


@dataclass(frozen=True)
class Draw:
    """One group of scans to draw: how many, with labels or not, varied or not.

    Parameters
    ----------
    apart_from : another group of the request, itself free; item i differs from its item i, and
        where this group is larger, its items are taken in turn, and those that share one differ
        from each other as long as there are enough scans.
    """

    count: int
    labelled: Labelled = "any"
    augment: Augmentation | None = None
    apart_from: str | None = None


Request = Mapping[str, Draw]  # by role: "moving", "fixed", "scan", ...


@dataclass(frozen=True)
class Batch:
    """The scans by role, and the augmentation drawn for each role that asked for one."""

    scans: Mapping[str, Scans]
    views: Mapping[str, View]

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(
            {role: scans.to(device) for role, scans in self.scans.items()},
            {role: view.to(device) for role, view in self.views.items()},
        )


class Batches:
    """Draws batches from prepared training scans.

    Parameters
    ----------
    scans : the training scans; those without labels are unlabelled to every task.
    grid : the working grid, so that augmentation rotates in mm and padding is told from scan;
        None for cubic voxels and scans that fill their grid.
    """

    def __init__(self, scans: Sequence[PreparedScan], grid: Geometry | None = None) -> None:
        self.scans = sorted(scans, key=lambda scan: scan.id)
        self.spacing_mm = None if grid is None else grid.spacing_mm
        self.grid = grid
        self._inside: dict[int, bytes] = {}
        self.pools: dict[str, list[int]] = {
            "any": list(range(len(self.scans))),
            "yes": [i for i, scan in enumerate(self.scans) if scan.labels is not None],
            "no": [i for i, scan in enumerate(self.scans) if scan.labels is None],
        }
        self.ignoring = any(
            bool((scan.labels > len(scan.present)).any())
            for scan in self.scans
            if scan.labels is not None
        )

    def draw(self, request: Request, *key: object) -> Batch:
        """The batch of a place; `key` names it (seed, stage, step).

        What a role gets depends on the key, its own draw and the group it must differ from, and
        on nothing else in the request. Raises BadInput where there are too few scans.
        """
        chosen: dict[str, list[int]] = {}
        views: dict[str, View] = {}
        for role in sorted(request, key=lambda role: request[role].apart_from is not None):
            draw, random = request[role], generator(*key, role)
            others = None if draw.apart_from is None else chosen[draw.apart_from]
            chosen[role] = self._choose(draw, others, random)
            if draw.augment is not None:
                shape = self.scans[0].image.shape[1:]
                views[role] = draw.augment.draw(draw.count, shape, random, self.spacing_mm)
        return Batch({role: self._stack(chosen[role]) for role in request}, views)

    def _choose(self, draw: Draw, others: list[int] | None, random: torch.Generator) -> list[int]:
        pool = self.pools[draw.labelled]
        indices: list[int] = []
        for item in range(draw.count):
            allowed = pool
            if others is not None:
                place = item % len(others)
                allowed = [i for i in pool if i != others[place]]
                drawn = indices[place :: len(others)]
                allowed = [i for i in allowed if i not in drawn] or allowed
            if not allowed:
                wanted = {"any": "", "yes": " with labels", "no": " without labels"}[draw.labelled]
                raise BadInput(f"the recipe needs more training scans{wanted} than there are")
            indices.append(allowed[int(torch.randint(len(allowed), (1,), generator=random))])
        return indices

    def _stack(self, indices: Sequence[int]) -> Scans:
        chosen = [self.scans[i] for i in indices]
        blank = torch.zeros(chosen[0].image.shape[1:], dtype=torch.int16)
        return Scans(
            image=torch.stack([scan.image for scan in chosen]).float(),
            labels=torch.stack(
                [blank if scan.labels is None else scan.labels.to(torch.int16) for scan in chosen]
            ),
            labelled=torch.tensor([scan.labels is not None for scan in chosen]),
            present=torch.stack([scan.present & (scan.labels is not None) for scan in chosen]),
            ids=tuple(scan.id for scan in chosen),
            inside=None
            if self.grid is None
            else torch.stack([self._within(i, self.grid) for i in indices]).float(),
            ignoring=self.ignoring,
        )

    def _within(self, index: int, grid: Geometry) -> Tensor:
        """(1, *S) of a scan, 0 or 1: found when it is first drawn, and kept in some kilobytes.

        Finding it takes a hundred times as long as unpacking it where a scan lies obliquely.
        """
        if index not in self._inside:
            found = inside(self.scans[index].preparation, grid)
            self._inside[index] = zlib.compress(np.packbits(found.numpy()).tobytes(), 1)
        packed = np.frombuffer(zlib.decompress(self._inside[index]), np.uint8)
        bits = np.unpackbits(packed, count=math.prod(grid.shape))
        return torch.from_numpy(bits).view(1, *grid.shape)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Class indices (B, *S) as probabilities (B, classes, *S), float32, channels last.

    Rows of the identity matrix: a fifth of the time of `F.one_hot`, which goes through int64.
    """
    return F.embedding(labels.int(), torch.eye(classes, device=labels.device)).movedim(-1, 1)
