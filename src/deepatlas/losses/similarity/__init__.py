"""Measures of how alike two images are."""

from __future__ import annotations

from deepatlas.losses.similarity.lncc import LocalNCC
from deepatlas.losses.similarity.mse import MSE
from deepatlas.losses.similarity.ncc import GlobalNCC

SIMILARITIES: dict[str, type] = {"ncc": GlobalNCC, "lncc": LocalNCC, "mse": MSE}

__all__ = ["MSE", "SIMILARITIES", "GlobalNCC", "LocalNCC"]
