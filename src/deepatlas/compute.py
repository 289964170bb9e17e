"""Where and how a command computes: the device, the number of threads, bit for bit or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from deepatlas.errors import BadInput


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises `BadInput` where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise BadInput(f"no device is called {name!r}; say auto, cpu, cuda or cuda:N")
    if kind == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= found:
            raise BadInput(
                f"device {name} is not here: torch {torch.__version__} sees {found} GPUs; "
                "use --device cpu, or install a CUDA build of torch"
            )
    return torch.device(name)


def use_threads(number: int | None) -> None:
    """Let torch use that many CPU threads in this process; None leaves its own choice."""
    if number is None:
        return
    if number < 1:
        raise BadInput(f"threads must be at least 1; got {number}")
    torch.set_num_threads(number)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """A context with PyTorch's deterministic algorithms, if wanted; else nothing changes.

    The switch is touched only then: it takes PyTorch a second (it imports its compiler).
    """
    if not wanted or torch.are_deterministic_algorithms_enabled():
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
