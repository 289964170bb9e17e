"""The steps of MONAI's DeepAtlas tutorial, with MONAI's parts and with ours.

Networks, losses, weights, optimisers and who gets gradient as in `deep_atlas_tutorial.ipynb`:
registration by UNet(16, 32, 32, 32, 32) to a displacement at full resolution, segmentation by
UNet(8, 16, 16, 32, 32, 64, 64) into 4 classes, both with batch norm, dropout 0.2 and PReLU; local
NCC of window 3, bending energy, Dice with background. The same layers stand on both sides; on ours
they run in bfloat16, channels last, with what follows a convolution as one operation, and softmax,
warps and losses are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from monai.losses import BendingEnergyLoss, DiceLoss, LocalNormalizedCrossCorrelationLoss
from monai.networks import one_hot
from monai.networks.blocks import Warp
from monai.networks.nets import UNet
from torch import Tensor, nn

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from deepatlas.data import batches
from deepatlas.kernels.softmax import softmax
from deepatlas.losses.overlap import SoftDice
from deepatlas.losses.regularity import Bending
from deepatlas.losses.similarity import LocalNCC
from deepatlas.networks.blocks import channels_last
from deepatlas.networks.convolving import to_channels_last
from deepatlas.networks.fuse import fuse
from deepatlas.spatial.warp import warp

CLASSES, WINDOW, FLOOR = 4, 3, 1e-5
ANATOMY, SUPERVISED = 2.0, 3.0
RATES = {"registration": 5e-4, "segmentation": 1e-3}
ROUND = {"registration": 40, "segmentation": 5}
Which = Literal["registration", "segmentation"]


def bending_weight(size: int) -> float:
    """7.5 at 128 cubed, as the tutorial scales it."""
    return 7.5 * (size / 128) ** 2


def networks(seed: int = 0) -> nn.ModuleDict:
    """Both, as the tutorial makes them (239,147 and 434,968 weights)."""
    torch.manual_seed(seed)
    common = {"dropout": 0.2, "norm": "batch"}
    registration = UNet(3, 2, 3, (16, 32, 32, 32, 32), (1, 2, 2, 2), **common)
    segmentation = UNet(
        3, 1, CLASSES, (8, 16, 16, 32, 32, 64, 64), (1, 2, 1, 2, 1, 2), **common
    )  # fmt: skip
    return nn.ModuleDict({"registration": registration, "segmentation": segmentation})


@dataclass(frozen=True)
class Pair:
    """A batch: images (B, 1, *S) and the fixed scans' labels (B, 1, *S); moving ones have none."""

    moving: Tensor
    fixed: Tensor
    fixed_labels: Tensor


class Monai:
    """The tutorial's losses by MONAI's parts, everything float32."""

    def __init__(self, size: int) -> None:
        self.weight = bending_weight(size)
        self.similarity = LocalNormalizedCrossCorrelationLoss(3, kernel_size=WINDOW)
        self.regularity = BendingEnergyLoss()
        self.overlap = DiceLoss(include_background=True)
        self.warp = Warp(mode="bilinear", padding_mode="border")
        self.nearest = Warp(mode="nearest", padding_mode="border")

    def prepare(self, both: nn.ModuleDict) -> None:
        """Change the networks in place; here not at all."""

    def apply(self, network: nn.Module, x: Tensor) -> Tensor:
        """A network's output."""
        out: Tensor = network(x)
        return out

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax over classes."""
        return logits.softmax(dim=1)

    def registration(self, field: Tensor, maps: tuple[Tensor, Tensor], pair: Pair) -> Tensor:
        """Loss of a registration step; `maps` of moving and fixed are constants."""
        similarity = self.similarity(self.warp(pair.moving, field), pair.fixed)
        anatomy = self.overlap(self.warp(maps[0], field), maps[1])
        return similarity + ANATOMY * anatomy + self.weight * self.regularity(field)

    def segmentation(self, maps: tuple[Tensor, Tensor], field: Tensor, pair: Pair) -> Tensor:
        """Loss of a segmentation step where the fixed scans are labelled."""
        target = one_hot(pair.fixed_labels, CLASSES)
        supervised = self.overlap(maps[1], target)
        anatomy = self.overlap(self.nearest(maps[0], field), target)
        return ANATOMY * anatomy + SUPERVISED * supervised


class Ours(Monai):
    """The same formulas by our parts; networks in bfloat16, channels last."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        floor = FLOOR / WINDOW**3
        self.ncc = LocalNCC(WINDOW, signed=False, smallest_variance=floor, border="zeros")
        self.bending = Bending("central")
        self.overlap = SoftDice(background=True, product=True)

    def prepare(self, both: nn.ModuleDict) -> None:
        fuse(channels_last(both, 3))

    def apply(self, network: nn.Module, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            out: Tensor = network(to_channels_last(x))
        return out

    def probabilities(self, logits: Tensor) -> Tensor:
        return softmax(logits)

    def registration(self, field: Tensor, maps: tuple[Tensor, Tensor], pair: Pair) -> Tensor:
        moved = warp(pair.moving, field, outside="border")
        anatomy = self.overlap(warp(maps[0], field, outside="border"), maps[1])
        # Ours is 1 - NCC^2 and the sum over components, MONAI's -NCC^2 and their mean.
        regularity = self.bending(field, (1.0, 1.0, 1.0)) / 3
        return self.ncc(moved, pair.fixed) - 1 + ANATOMY * anatomy + self.weight * regularity

    def segmentation(self, maps: tuple[Tensor, Tensor], field: Tensor, pair: Pair) -> Tensor:
        target = batches.one_hot(pair.fixed_labels[:, 0], CLASSES)
        supervised = self.overlap(maps[1], target)
        carried = warp(maps[0], field, mode="nearest", outside="border")
        return ANATOMY * self.overlap(carried, target) + SUPERVISED * supervised


class Trainer:
    """Networks and their optimisers."""

    def __init__(self, parts: Monai) -> None:
        self.parts = parts
        self.networks = networks()
        parts.prepare(self.networks)
        self.optimisers = {
            name: torch.optim.Adam(network.parameters(), lr=RATES[name])
            for name, network in self.networks.items()
        }

    def step(self, which: Which, pair: Pair) -> Outputs:
        """One step of one of the networks, the other a constant; the loss."""
        for name, network in self.networks.items():
            network.train(name == which).requires_grad_(name == which)
        loss = self.loss(which, pair)
        loss.backward()
        self.optimisers[which].step()
        self.optimisers[which].zero_grad(set_to_none=True)
        return (loss.detach(),)

    def loss(self, which: Which, pair: Pair) -> Tensor:
        """That of a step."""
        if which == "registration":
            field = self._field(pair)
            with torch.no_grad():  # as in 95 % of the tutorial's batches, no scan has labels
                maps = self._maps(pair)
            return self.parts.registration(field, maps, pair)
        with torch.no_grad():
            field = self._field(pair)
        return self.parts.segmentation(self._maps(pair), field, pair)

    def _field(self, pair: Pair) -> Tensor:
        both = torch.cat([pair.fixed, pair.moving], dim=1)
        return self.parts.apply(self.networks["registration"], both).float()

    def _maps(self, pair: Pair) -> tuple[Tensor, Tensor]:
        network = self.networks["segmentation"]
        moving, fixed = (
            self.parts.probabilities(self.parts.apply(network, x))
            for x in (pair.moving, pair.fixed)
        )
        return moving, fixed


def made_up(size: int) -> Pair:
    """A batch of images and labels that are smooth noise."""
    shape = [size] * 3
    fixed_labels = inputs.labels(2, CLASSES, shape).unsqueeze(1)
    return Pair(inputs.image(2, shape), inputs.image(2, shape, seed=1), fixed_labels)


def stepping(parts: Monai, which: Which, pair: Pair) -> Callable[[], Outputs]:
    """A step at each call, from fresh networks on."""
    trainer = Trainer(parts)
    return lambda: trainer.step(which, pair)


def step(size: int, which: Which) -> Case:
    """A training step of one of the networks, batch 2."""
    pair = made_up(size)
    return Case(
        [
            Candidate(
                "deepatlas", stepping(Ours(size), which, pair),
                "bfloat16 channels-last, losses float32",
            ),
            Candidate("MONAI", stepping(Monai(size), which, pair)),
        ],
        comparable=False,
        note="batch 2; same layers, widths, normalisation, dropout and formulas",
    )  # fmt: skip


def _row(which: Which, title: str) -> Row:
    return Row(
        f"tutorial-{which}", title, step,
        {"size": 96, "which": which}, {"size": 64, "which": which}, {"size": 16, "which": which},
        {"MONAI": 8.0}, seconds=0.0, least=ROUND[which],
    )  # fmt: skip


ROWS = (
    _row("registration", "MONAI tutorial, registration step"),
    _row("segmentation", "MONAI tutorial, segmentation step"),
)
