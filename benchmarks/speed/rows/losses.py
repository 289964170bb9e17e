"""Losses, forward and backward, against MONAI and neurite."""

from __future__ import annotations

import math
from typing import Any

from monai.losses import (
    BendingEnergyLoss,
    DiceLoss,
    DiffusionLoss,
    LocalNormalizedCrossCorrelationLoss,
)
from torch import Tensor

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Row
from benchmarks.speed.rows.kernels import in_both
from deepatlas.losses.overlap import SoftDice
from deepatlas.losses.regularity import Bending, Diffusion
from deepatlas.losses.similarity import LocalNCC

SPACING = (1.0, 1.0, 1.0)
MONAI_FLOOR = 1e-5  # of the sum of squares in a window; ours is of the variance


def local_ncc(size: int, window: int, neurite: bool) -> Case:
    """Squared, of two batches of images; gradient by the first, as in a registration step."""
    shape = [size] * 3
    given = (inputs.image(2, shape), inputs.image(2, shape, seed=1))
    floor = MONAI_FLOOR / window**3
    ours = LocalNCC(window, signed=False, smallest_variance=floor, border="zeros")
    recipes = LocalNCC(window, signed=False, smallest_variance=floor)
    peer = LocalNormalizedCrossCorrelationLoss(3, kernel_size=window)
    candidates = [
        in_both("deepatlas", ours, given, [True, False]),
        in_both("ours, of recipes", recipes, given, [True, False]),
        in_both("MONAI", lambda a, b: 1 + peer(a, b), given, [True, False]),
    ]
    if neurite:
        candidates.append(_neurite(window, given))
    return Case(
        candidates,
        least_bytes=4 * 2 * math.prod(shape) * (2 + 3),
        note="batch 2; windows go on over zeros, in recipes they end at the border",
    )


def _neurite(window: int, given: Any) -> Candidate:
    from neurite.nn.modules import NCC

    peer = NCC(window)
    return in_both("neurite", lambda a, b: 1 - peer(a, b).squeeze(), given, [True, False])


def bending(size: int) -> Case:
    """MONAI's is the mean over components, ours their sum."""
    shape = [size] * 3
    given, peer = (inputs.field(2, shape),), BendingEnergyLoss()
    same, part = Bending("central"), Bending()
    return Case(
        [
            in_both("deepatlas", lambda u: same(u, SPACING), given, [True]),
            in_both("ours, of recipes", lambda u: part(u, SPACING), given, [True]),
            in_both("MONAI", lambda u: 3 * peer(u), given, [True]),
        ],
        least_bytes=4 * 2 * math.prod(shape) * 3 * 2,
        note="batch 2; mixed differences as MONAI's, in recipes those that see checkerboards",
    )


def diffusion(size: int) -> Case:
    """MONAI's are central differences, ours forward ones."""
    shape = [size] * 3
    given, peer, part = (inputs.field(2, shape),), DiffusionLoss(), Diffusion()
    return Case(
        [
            in_both("deepatlas", lambda u: part(u, SPACING), given, [True]),
            in_both("MONAI", lambda u: 3 * peer(u), given, [True]),
        ],
        least_bytes=4 * 2 * math.prod(shape) * 3 * 2,
        comparable=False,
        note="batch 2; forward differences in ours, central ones in MONAI's",
    )


def dice(size: int) -> Case:
    """The Dice semimetric of two soft maps of four classes; gradient by the first."""
    shape = [size] * 3
    given = (inputs.probabilities(2, 4, shape), inputs.probabilities(2, 4, shape, seed=1))
    peer, part = DiceLoss(include_background=False, soft_label=True), SoftDice()

    def ours(p: Tensor, q: Tensor) -> Tensor:
        return part(p, q)

    return Case(
        [
            in_both("deepatlas", ours, given, [True, False]),
            in_both("MONAI", peer, given, [True, False]),
        ],
        least_bytes=4 * 2 * math.prod(shape) * 4 * (2 + 3),
        note="batch 2, 4 classes",
    )


FULL, SMALL, TINY = {"size": 96}, {"size": 80}, {"size": 16}
NINE = {"window": 9, "neurite": True}
THREE = {"window": 3, "neurite": False}
ROWS = (
    Row(
        "lncc9", "local NCC, window 9", local_ncc, {**FULL, **NINE}, {**SMALL, **NINE},
        {**TINY, **NINE}, {"MONAI": 8.0, "neurite": 8.0},
    ),
    Row(
        "lncc3", "local NCC, window 3", local_ncc, {**FULL, **THREE}, {**SMALL, **THREE},
        {**TINY, **THREE},
    ),
    Row("bending", "bending energy", bending, FULL, SMALL, TINY, {"MONAI": 4.0}),
    Row("diffusion", "diffusion", diffusion, FULL, SMALL, TINY),
    Row("dice", "soft Dice", dice, FULL, SMALL, TINY),
)  # fmt: skip
