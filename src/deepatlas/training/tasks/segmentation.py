"""Supervised segmentation from the labelled scans, strongly augmented."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from deepatlas.data.augment import Augmentation
from deepatlas.data.batches import Batch, Draw, Request
from deepatlas.kernels.softmax import softmax
from deepatlas.losses.overlap import OVERLAPS
from deepatlas.training.tasks.base import Context, Task, Terms, check_batch, make_part


@dataclass(frozen=True)
class Segmentation:
    """Settings of the supervised task.

    Parameters
    ----------
    overlap : loss between the softmax and the manual labels.
    augment : how strongly scans are varied; null for not at all.
    batch : scans in a step.
    """

    overlap: Any = "dice_ce"
    augment: Augmentation | None = field(default_factory=Augmentation)
    batch: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "overlap", make_part(OVERLAPS, self.overlap, "task.overlap"))
        check_batch(self.batch)

    @property
    def trains(self) -> tuple[str, ...]:
        """Names of the networks that it trains."""
        return ("segmentation",)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the networks that it works with."""
        return ("segmentation",)

    @property
    def uses_labels(self) -> bool:
        """Whether it looks at manual segmentations."""
        return True

    def build(self, networks: nn.ModuleDict, context: Context) -> SegmentationTask:
        """The task over given networks."""
        return SegmentationTask(self, networks)


class SegmentationTask(Task):
    """Eq. 2 of the DeepAtlas paper with the anatomy loss left out."""

    def __init__(self, config: Segmentation, networks: nn.ModuleDict) -> None:
        super().__init__()
        self.config = config
        self.networks = networks

    def groups(self) -> tuple[str, ...]:
        return self.config.trains

    def group(self, step: int) -> str:
        return "segmentation"

    def request(self, step: int) -> Request:
        return {"scan": Draw(self.config.batch, "yes", augment=self.config.augment)}

    def forward(self, batch: Batch, step: int) -> Terms:
        terms = Terms()
        terms.add("supervised", supervised(self.networks["segmentation"], batch, self.config))
        return terms


def supervised(network: nn.Module, batch: Batch, config: Any) -> Tensor:
    """Loss of the softmax of (augmented) labelled scans, role "scan", against their labels."""
    scans = batch.scans["scan"]
    image, labels, present = scans.image, scans.labels, scans.present
    if "scan" in batch.views:
        view = batch.views["scan"]
        image, labels, present = view.image(image), view.labels(labels), view.present(present)
    probabilities = softmax(network(image))
    target, weight = scans.known(scans.one_hot(labels))
    return config.overlap(probabilities, target, present=present, weight=weight)
