"""Registration without labels, or with the anatomy loss on pairs that have two manual maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from deepatlas.data.batches import Batch, Draw, Request, Scans
from deepatlas.data.randomness import uniform
from deepatlas.losses.overlap import OVERLAPS
from deepatlas.losses.regularity import REGULARITIES
from deepatlas.losses.similarity import SIMILARITIES
from deepatlas.networks.registration.base import Deformation
from deepatlas.spatial.warp import warp
from deepatlas.training.tasks.base import (
    Context,
    Task,
    Terms,
    check_batch,
    check_shares,
    check_weights,
    make_part,
)

_COVERED = 0.99  # share of a voxel that must lie within the moving scan to be compared


@dataclass(frozen=True)
class Registration:
    """Settings of the registration task; Eq. 1 of the DeepAtlas paper.

    Parameters
    ----------
    similarity : of the warped moving and the fixed image.
    regularity, regularity_weight : of the displacement (bending: weight in mm^2).
    anatomy, anatomy_weight : overlap of the warped moving and the fixed manual segmentation.
    labelled_pairs : probability of drawing a pair with two manual segmentations; only such pairs
        have the anatomy loss.
    batch : pairs in a step.
    """

    similarity: Any = "lncc"
    regularity: Any = "bending"
    regularity_weight: float = 1.0
    anatomy: Any = "dice"
    anatomy_weight: float = 1.0
    labelled_pairs: float = 0.0
    batch: int = 2

    def __post_init__(self) -> None:
        for name, table in (
            ("similarity", SIMILARITIES),
            ("regularity", REGULARITIES),
            ("anatomy", OVERLAPS),
        ):
            object.__setattr__(self, name, make_part(table, getattr(self, name), f"task.{name}"))
        check_batch(self.batch)
        check_shares(self, "labelled_pairs")
        check_weights(self, "regularity_weight", "anatomy_weight")

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the networks that it trains."""
        return ("registration",)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the networks that it works with."""
        return ("registration",)

    @property
    def uses_labels(self) -> bool:
        """Whether it looks at manual segmentations."""
        return self.labelled_pairs > 0

    def build(self, networks: nn.ModuleDict, context: Context) -> RegistrationTask:
        """The task over given networks."""
        return RegistrationTask(self, networks, context)


class RegistrationTask(Task):
    """Trains the registration network alone."""

    def __init__(self, config: Registration, networks: nn.ModuleDict, context: Context) -> None:
        super().__init__()
        self.config = config
        self.networks = networks
        self.context = context

    def groups(self) -> tuple[str, ...]:
        return self.config.trains

    def group(self, step: int) -> str:
        return "registration"

    def request(self, step: int) -> Request:
        which = "yes" if self._labelled_pair(step) else "any"
        return pair_of(which, which, self.config.batch)

    def _labelled_pair(self, step: int) -> bool:
        """Whether a step is one of those with two manual segmentations."""
        drawn = uniform(*self.context.key, step, "labelled pair") < self.config.labelled_pairs
        return drawn and self.context.labelled >= 2

    def forward(self, batch: Batch, step: int) -> Terms:
        moving, fixed = batch.scans["moving"], batch.scans["fixed"]
        deformation = self.networks["registration"](moving.image, fixed.image)
        terms = Terms()
        add_alignment(terms, deformation, self.config, self.context.spacing_mm, batch)
        if self._labelled_pair(step):
            warped = warp(moving.one_hot(), deformation.displacement, outside="border")
            present = moving.present & fixed.present
            loss = compare(self.config.anatomy, fixed, warped, fixed.one_hot(), present)
            terms.add("anatomy", loss, self.config.anatomy_weight)
        return terms


def compare(anatomy: Any, scans: Scans, warped: Tensor, other: Tensor, present: Tensor) -> Tensor:
    """The overlap of two segmentations of `scans` as `Scans.one_hot` has them, one of them warped.

    A voxel that is ignored on either side weighs nothing.
    """
    (one, first), (two, second) = scans.known(warped), scans.known(other)
    weight = None if first is None or second is None else first * second
    return anatomy(one, two, present=present, weight=weight)


def pair_of(moving: Any, fixed: Any, count: int) -> Request:
    """A request for pairs of two different scans."""
    return {"fixed": Draw(count, fixed), "moving": Draw(count, moving, apart_from="fixed")}


def add_alignment(
    terms: Terms, deformation: Deformation, config: Any, spacing_mm: Any, batch: Batch
) -> None:
    """Add image similarity and regularity of a pair.

    Only voxels that both scans cover are compared: else the borders of the fields of view, the
    strongest edges there are, would be registered to each other.
    """
    moving, fixed = batch.scans["moving"], batch.scans["fixed"]
    warped = warp(moving.image, deformation.displacement, outside="border")
    mask = None
    if moving.inside is not None and fixed.inside is not None:
        covered = warp(moving.inside, deformation.displacement.detach())
        mask = fixed.inside * (covered > _COVERED)
    terms.add("similarity", config.similarity(warped, fixed.image, mask))
    regularity = config.regularity(deformation.displacement, spacing_mm)
    terms.add("regularity", regularity, config.regularity_weight)
