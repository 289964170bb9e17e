"""What a run was made with: versions, machine, device, threads."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import Any

import torch

PACKAGES = ("deepatlas", "torch", "numpy", "scipy", "nibabel", "safetensors", "pydantic")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Facts for environment.json; none of them depends on the clock."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version_of(name) for name in PACKAGES},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
    }


def version_of(package: str) -> str:
    """The version of an installed package, in words where there is none."""
    if package == "torch":
        return torch.__version__  # with the build, which the package's version leaves out
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # used from its source folder, not installed
        return "unknown"


def _cpu() -> str:
    return platform.processor() or platform.machine()
