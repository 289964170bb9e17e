"""DeepAtlas: two networks that teach each other (Xu & Niethammer 2019, sections 2.1 to 2.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from deepatlas.data.augment import Augmentation, View
from deepatlas.data.batches import Batch, Draw, Request, Scans
from deepatlas.data.randomness import uniform
from deepatlas.kernels.softmax import softmax
from deepatlas.losses.overlap import OVERLAPS
from deepatlas.losses.regularity import REGULARITIES
from deepatlas.losses.similarity import SIMILARITIES
from deepatlas.spatial.grid import sample
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
from deepatlas.training.tasks.predictions import Predictions
from deepatlas.training.tasks.registration import add_alignment, compare, pair_of
from deepatlas.training.tasks.segmentation import supervised


@dataclass(frozen=True)
class Joint:
    """Settings of joint training; a zero among the steps freezes that network (Semi-DA).

    Parameters
    ----------
    registration_steps, segmentation_steps : of one round of the alternation (paper: 20 and 1).
    similarity, regularity, regularity_weight, anatomy : as in the registration task.
    anatomy_weight : of the anatomy loss in registration steps (paper: 3).
    segmentation_anatomy_weight : of the anatomy loss in segmentation steps (paper: 3).
    supervised_weight : of the supervised loss in segmentation steps (paper: 3).
    ramp : share of the stage over which the anatomy weight of segmentation steps grows from 0.
    overlap : supervised loss.
    labelled_pairs : probability of a segmentation step on a pair with two manual maps; the rest
        have one labelled and one unlabelled scan, in either direction.
    moving_labelled : share of the latter in which the moving scan is the labelled one.
    atlases : labelled scans that are carried to each unlabelled fixed scan, at most as many as
        there are; their mean is its target (1 in the paper).
    sharpen : predicted maps are raised to this power, and made to add up to one, before they
        stand for a missing segmentation (1: the softmax, as in the paper). A softmax spreads thin
        probability over the background; its mass outweighs the structures and dilutes the Dice.
    carried : probability that a labelled scan of the supervised loss is first carried, image and
        labels together, into the anatomy of an unlabelled scan: its labels stay exact, its shape
        is one of those to be expected (Zhao et al. 2019, arXiv 1902.09383, without the change of
        appearance). 0 in the DeepAtlas paper.
    augment : of the labelled scans of the supervised loss; null for not at all.
    augment_target : of the unlabelled fixed scan together with the segmentation carried to it.
    batch : pairs in a step.
    """

    registration_steps: int = 20
    segmentation_steps: int = 1
    similarity: Any = "lncc"
    regularity: Any = "bending"
    regularity_weight: float = 1.0
    anatomy: Any = "dice"
    anatomy_weight: float = 3.0
    segmentation_anatomy_weight: float = 3.0
    supervised_weight: float = 3.0
    ramp: float = 0.0
    overlap: Any = "dice"
    labelled_pairs: float = 0.1
    moving_labelled: float = 0.5
    atlases: int = 1
    sharpen: float = 1.0
    carried: float = 0.0
    augment: Augmentation | None = field(default_factory=Augmentation)
    augment_target: Augmentation | None = None
    batch: int = 2

    def __post_init__(self) -> None:
        for name, table in (
            ("similarity", SIMILARITIES),
            ("regularity", REGULARITIES),
            ("anatomy", OVERLAPS),
            ("overlap", OVERLAPS),
        ):
            object.__setattr__(self, name, make_part(table, getattr(self, name), f"task.{name}"))
        check_batch(self.batch)
        if min(self.registration_steps, self.segmentation_steps) < 0 or not self.trains:
            raise ValueError("a round needs at least one step of registration or segmentation")
        check_shares(self, "ramp", "labelled_pairs", "moving_labelled", "carried")
        check_weights(
            self, "regularity_weight", "anatomy_weight", "segmentation_anatomy_weight",
            "supervised_weight",
        )  # fmt: skip
        if not 0 < self.sharpen < math.inf:
            raise ValueError(f"sharpen must be positive, not {self.sharpen}")
        if self.atlases < 1:
            raise ValueError(f"atlases must be at least 1, not {self.atlases}")

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the networks that it trains."""
        steps = {"registration": self.registration_steps, "segmentation": self.segmentation_steps}
        return tuple(name for name, count in steps.items() if count)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the networks that it works with."""
        return ("registration", "segmentation")

    @property
    def uses_labels(self) -> bool:
        """Whether it looks at manual segmentations."""
        return True

    def build(self, networks: nn.ModuleDict, context: Context) -> JointTask:
        """The task over given networks."""
        return JointTask(self, networks, context)


class JointTask(Task):
    """Trains one network at a time while the other is a constant."""

    def __init__(self, config: Joint, networks: nn.ModuleDict, context: Context) -> None:
        super().__init__()
        self.config = config
        self.networks = networks
        self.constants = networks if context.constants is None else context.constants
        self.context = context
        frozen = "segmentation" not in config.trains
        self.predicted = Predictions(self.constants["segmentation"], frozen=frozen)

    def groups(self) -> tuple[str, ...]:
        return self.config.trains

    def group(self, step: int) -> str:
        c = self.config
        place = step % (c.registration_steps + c.segmentation_steps)
        return "registration" if place < c.registration_steps else "segmentation"

    def request(self, step: int) -> Request:
        c = self.config
        if self.group(step) == "registration":
            return pair_of("any", "any", c.batch)
        scan = {"scan": Draw(c.batch, "yes", augment=c.augment)}
        if c.carried > 0 and self.context.unlabelled:
            scan["anatomy"] = Draw(c.batch, "no")
        two = uniform(*self.context.key, step, "two labelled") < c.labelled_pairs
        if two or not self.context.unlabelled or c.segmentation_anatomy_weight == 0:
            return scan  # two manual maps: the anatomy loss is a constant, only L_sp is left
        if uniform(*self.context.key, step, "direction") < c.moving_labelled:
            fixed = Draw(c.batch, "no", augment=c.augment_target)
            atlases = min(c.atlases, self.context.labelled)
            moving = Draw(c.batch * atlases, "yes", apart_from="fixed")
            return {**scan, "fixed": fixed, "moving": moving}
        return {**scan, **pair_of("no", "yes", c.batch)}

    def forward(self, batch: Batch, step: int) -> Terms:
        if self.group(step) == "registration":
            return self._registration_step(batch)
        return self._segmentation_step(batch, step)

    def _registration_step(self, batch: Batch) -> Terms:
        """Gradient through the displacement only; missing maps are predicted, as constants."""
        moving, fixed = batch.scans["moving"], batch.scans["fixed"]
        maps = self._maps(moving, fixed)
        deformation = self.networks["registration"](moving.image, fixed.image)
        terms = Terms()
        add_alignment(terms, deformation, self.config, self.context.spacing_mm, batch)
        warped = warp(maps[0], deformation.displacement, outside="border")
        # A predicted map speaks about every structure, a manual one about those annotated.
        present = (moving.present | ~moving.labelled[:, None]) & (
            fixed.present | ~fixed.labelled[:, None]
        )
        loss = compare(self.config.anatomy, fixed, warped, maps[1], present)
        terms.add("anatomy", loss, self.config.anatomy_weight)
        return terms

    @torch.no_grad()
    def _maps(self, moving: Scans, fixed: Scans) -> tuple[Tensor, Tensor]:
        """Manual segmentations where they exist, softmax of the segmentation network elsewhere."""
        manual = torch.cat([moving.one_hot(), fixed.one_hot()])
        missing = ~torch.cat([moving.labelled, fixed.labelled])
        if bool(missing.any()):
            images = torch.cat([moving.image, fixed.image])[missing]
            every = zip((*moving.ids, *fixed.ids), missing.tolist(), strict=True)
            logits = self.predicted(images, [name for name, lacks in every if lacks])
            manual[missing, : moving.classes] = softmax(logits, self.config.sharpen)
        first, second = manual.split(len(moving.ids))
        return first, second

    def _segmentation_step(self, batch: Batch, step: int) -> Terms:
        """Gradient through the predicted side only; the displacement is a constant."""
        c = self.config
        network = self.networks["segmentation"]
        terms = Terms()
        seen = self._carried(batch, step) if "anatomy" in batch.scans else batch
        terms.add("supervised", supervised(network, seen, c), c.supervised_weight)
        if "fixed" in batch.scans:
            predicted, target, present = (
                self._carry_to_fixed(batch)
                if bool(batch.scans["moving"].labelled.all())
                else self._carry_prediction(batch)
            )
            target, weight = batch.scans["fixed"].known(target)
            ramp = min(1.0, (step + 1) / (c.ramp * self.context.steps)) if c.ramp > 0 else 1.0
            loss = c.anatomy(predicted, target, present=present, weight=weight)
            terms.add("anatomy", loss, c.segmentation_anatomy_weight * ramp)
        return terms

    @torch.no_grad()
    def _carried(self, batch: Batch, step: int) -> Batch:
        """The batch with some labelled scans seen in the anatomy of others, by one sampling."""
        scans, others = batch.scans["scan"], batch.scans["anatomy"]
        draws = [uniform(*self.context.key, step, "carried", i) for i in range(len(scans.ids))]
        moved = [i for i, draw in enumerate(draws) if draw < self.config.carried]
        if not moved:
            return batch
        view = batch.views.get("scan") or View.plain(scans.image)
        positions = view.positions.clone()
        displacement = self._displacement(scans.image[moved], others.image[moved])
        positions[moved] += sample(displacement, positions[moved], outside="border")
        return replace(batch, views={**batch.views, "scan": replace(view, positions=positions)})

    @torch.no_grad()
    def _displacement(self, moving: Tensor, fixed: Tensor) -> Tensor:
        return self.constants["registration"](moving, fixed).displacement

    def _carry_to_fixed(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed unlabelled: manual maps of the moving scans, carried to it, are its target."""
        moving, fixed = batch.scans["moving"], batch.scans["fixed"]
        count = len(fixed.ids)
        atlases = len(moving.ids) // count
        repeated = fixed.image.repeat(atlases, *[1] * (fixed.image.ndim - 1))
        displacement = self._displacement(moving.image, repeated)
        with torch.no_grad():
            carried = warp(moving.one_hot(), displacement, outside="border")
            carried = carried.unflatten(0, (atlases, count))
            present = moving.present.unflatten(0, (atlases, count))
            carried, present = agreed(carried, present), present.any(dim=0)
            image = fixed.image
            if "fixed" in batch.views:
                view = batch.views["fixed"]
                image, carried = view.image(image), view.probabilities(carried)
                present = view.present(present)
        return softmax(self.networks["segmentation"](image)), carried, present

    def _carry_prediction(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Moving unlabelled: its prediction, carried over, should be the fixed manual map."""
        moving, fixed = batch.scans["moving"], batch.scans["fixed"]
        displacement = self._displacement(moving.image, fixed.image)
        predicted = softmax(self.networks["segmentation"](moving.image))
        return warp(predicted, displacement, outside="border"), fixed.one_hot(), fixed.present


def agreed(maps: Tensor, present: Tensor) -> Tensor:
    """The mean of several maps, that of a structure over the scans in which it was annotated.

    Parameters
    ----------
    maps : (atlases, B, classes, *S), or one channel more for what is ignored, see `Scans.one_hot`;
        where the scans speak of different structures, a voxel that one ignores is ignored.
    present : (atlases, B, K) bool.
    """
    if len(maps) == 1 or bool((present == present[0]).all()):
        return maps.mean(dim=0)
    classes = present.shape[2] + 1
    share = present / present.sum(dim=0).clamp_min(1)
    share = share.view(*share.shape, *[1] * (maps.ndim - 3))
    ignored = (maps[:, :, classes:] > 0).any(dim=0)
    foreground = (maps[:, :, 1:classes] * share).sum(dim=0) * ~ignored.any(dim=1, keepdim=True)
    foreground = foreground / foreground.sum(dim=1, keepdim=True).clamp_min(1)
    rest = torch.cat([foreground, ignored], dim=1)
    return torch.cat([(1 - rest.sum(dim=1, keepdim=True)).clamp_min(0), rest], dim=1)
