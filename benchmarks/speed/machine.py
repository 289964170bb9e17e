"""What the machine is and what it can do at most: products, convolutions and copies."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deepatlas.networks import convolving, joined

PACKAGES = (
    "torch", "numpy", "monai", "voxelmorph", "neurite", "antspyx", "SimpleITK",
)  # fmt: skip
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")


def facts(threads: int) -> dict[str, Any]:
    """Versions, processor, threads, load."""
    import deepatlas

    return {
        "processor": _cpu_line("model name") or platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "features": [name for name in FEATURES if name in _cpu_line("flags").split()],
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "deepatlas": deepatlas.__version__,
        "commit": _commit(),
        **{name: _version(name) for name in PACKAGES},
    }


def _commit() -> str:
    """Of the code that is measured; "+" where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
    return done.stdout.strip()


def _cpu_line(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def ceilings(*, small: bool) -> dict[str, float]:
    """The best of several goes: FLOP/s of products and convolutions, bytes/s of a copy.

    A copy counts what it reads and what it writes.
    """
    size = 64 if small else 96
    goes = 5 if small else 15
    found: dict[str, float] = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        n = 2048 if small else 4096
        a, b = (torch.randn(n, n, device=torch.get_default_device()).to(dtype) for _ in range(2))
        found[f"product_{name}_flops"] = 2 * n**3 / _best(lambda a=a, b=b: a @ b, goes)
        for channels in (32, 64):
            x = torch.randn(2, channels, size, size, size, device=torch.get_default_device()).to(
                dtype
            )
            w = torch.randn(channels, channels, 3, 3, 3, device=torch.get_default_device()).to(
                dtype
            )
            x, w = (t.contiguous(memory_format=torch.channels_last_3d) for t in (x, w))
            work = 2 * 27 * channels * channels * 2 * size**3
            found[f"convolution_{channels}_{name}_flops"] = work / _best(
                lambda x=x, w=w: F.conv3d(x, w, padding=1), goes
            )
    source = torch.randn(2**26 if small else 2**27, device=torch.get_default_device())
    target = torch.empty_like(source)
    seconds = _best(lambda: target.copy_(source), goes)
    found["copy_bytes"] = 2 * source.numel() * source.element_size() / seconds
    return found


@torch.no_grad()
def _best(run: Callable[[], Any], goes: int) -> float:
    best = float("inf")
    for _ in range(goes + 1):
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def convolution_flops(run: Callable[[], Any]) -> float:
    """Floating-point operations of all convolutions of a call, forward and backward.

    Those of the layers as they are, not of what `networks` makes of them.
    """
    with (
        patch.object(convolving, "folds", return_value=1),
        patch.object(joined, "splits", return_value=False),
        FlopCounterMode(display=False) as counter,
    ):
        run()
    counts = counter.get_flop_counts().get("Global", {})
    return float(sum(count for name, count in counts.items() if "convolution" in str(name)))


def convolution_ceiling(found: Mapping[str, float]) -> float:
    """The best that a bfloat16 convolution or product reached, FLOP/s."""
    return max(value for name, value in found.items() if "bfloat16" in name)
