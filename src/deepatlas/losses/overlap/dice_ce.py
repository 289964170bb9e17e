"""Sum of soft Dice and cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from deepatlas.losses.overlap.cross_entropy import CrossEntropy
from deepatlas.losses.overlap.dice import SoftDice


@dataclass(frozen=True)
class DiceCE:
    """`SoftDice` + `cross_entropy` times `CrossEntropy`.

    Parameters
    ----------
    cross_entropy : weight of the cross-entropy beside Dice, not negative.
    background, floor, product : as in `SoftDice` and `CrossEntropy`.
    """

    cross_entropy: float = 1.0
    background: bool = SoftDice.background
    floor: float = CrossEntropy.floor
    product: bool = SoftDice.product

    def __post_init__(self) -> None:
        if self.cross_entropy < 0:
            raise ValueError(f"cross_entropy must not be negative, got {self.cross_entropy}")
        CrossEntropy(self.floor)

    def __call__(
        self,
        prediction: Tensor,
        target: Tensor,
        present: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Scalar from probabilities (B, C, *S); see `protocols.Overlap`."""
        maps = (prediction, target, present, weight)
        dice, cross_entropy = SoftDice(self.background, self.product), CrossEntropy(self.floor)
        return dice(*maps) + self.cross_entropy * cross_entropy(*maps)
