"""Registration of single pairs by optimisation, without a network."""

from __future__ import annotations

from deepatlas.classical.linear import Affine, Rigid
from deepatlas.classical.match import BlockNCC
from deepatlas.classical.optimise import Model, Registration, optimise, optimise_all

__all__ = ["Affine", "BlockNCC", "Model", "Registration", "Rigid", "optimise", "optimise_all"]
