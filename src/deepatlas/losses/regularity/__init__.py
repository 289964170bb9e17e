"""Measures of how rough a field is."""

from __future__ import annotations

from deepatlas.losses.regularity.bending import Bending
from deepatlas.losses.regularity.diffusion import Diffusion

REGULARITIES: dict[str, type] = {"bending": Bending, "diffusion": Diffusion}

__all__ = ["REGULARITIES", "Bending", "Diffusion"]
