"""The contract of registration networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Deformation(NamedTuple):
    """What a registration network says about a pair.

    Attributes
    ----------
    displacement : (B, d, *S) float32, voxels of the fixed grid: warped(x) = moving(x + u(x)).
    velocity : the stationary velocity it came from, in voxels of its own (perhaps half) grid.
    """

    displacement: Tensor
    velocity: Tensor | None = None


class RegistrationNetwork(nn.Module, ABC):
    """Two images to the map from fixed to moving."""

    @abstractmethod
    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        """Deformation of a batch of pairs, each (B, 1, *S) in [0, 1]."""
