"""Joint learning of medical image registration and segmentation from few labels.

One function a verb, the same names as the commands: `check`, `train`, `segment`, `register`,
`warp`, `convert`, `jacobian`, `evaluate`, `report`, `phantom`, `demo`. Importing `deepatlas`
imports nothing heavy; a verb does when called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from deepatlas.api import (
    check,
    convert,
    demo,
    evaluate,
    jacobian,
    phantom,
    register,
    report,
    segment,
    train,
    warp,
)
from deepatlas.errors import BadInput, DeepAtlasError

__version__ = "0.1.0"
__all__ = [
    "BadInput",
    "DeepAtlasError",
    "check",
    "convert",
    "demo",
    "evaluate",
    "jacobian",
    "phantom",
    "register",
    "report",
    "segment",
    "train",
    "warp",
]


class _Package(ModuleType):
    """A package whose verbs stay functions although a folder of the same name (`report`) exists.

    Importing `deepatlas.report.page` would otherwise put the folder in the function's place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
