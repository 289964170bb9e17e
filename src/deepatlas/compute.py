"""Where a command computes: the device, and the number of threads."""

from __future__ import annotations

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
