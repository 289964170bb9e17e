"""Where and how a command computes: device, threads, bit for bit or not, how much memory."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from deepatlas.errors import BadInput


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name: "auto" (the first GPU, else the CPU), "cpu", "cuda" or "cuda:N".

    Raises `BadInput` where there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]*))?", name):
        raise BadInput(f"no device is called {name!r}; say auto, cpu, cuda or cuda:N")
    kind, _, index = name.partition(":")
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
def threads_each(parts: int) -> Iterator[None]:
    """A context in which PyTorch, and the kernels, use a share of their threads in every thread.

    For so many threads that are started in it: a thread takes the number that is set when it first
    asks. The number is one for the whole process, so contexts must not overlap in time.
    """
    number = torch.get_num_threads()
    torch.set_num_threads(max(1, number // parts))
    try:
        yield
    finally:
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


def half_pays(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; others only imitate it, more slowly than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # public in no version yet
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if known is None:
        return torch.backends.cpu.get_cpu_capability() == "AVX512"
    return bool(known())


def parse_memory(size: int | str) -> int:
    """Bytes of "8GB", "8G", "800MB", "0.5 GiB" or a number; k, M, G and T are powers of 1000.

    Raises `BadInput` for anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(size), re.IGNORECASE)
    if found is None or (found[3] and not found[2]):
        raise BadInput(
            f"{size!r} is no amount of memory; say 8GB, 800MB, 8GiB or a number of bytes"
        )
    power = " kmgt".index(found[2].lower() or " ")
    amount = int(float(found[1]) * (1024 if found[3] else 1000) ** power)
    if amount < 1:
        raise BadInput(f"{size!r}: memory must be more than nothing; say 8GB, for example")
    return amount


def in_words(size: float) -> str:
    """An amount of memory as it is said to a user."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def used_memory() -> int:
    """Bytes that this process holds in the machine's memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def free_memory() -> int:
    """Bytes that this process may still take, of the machine and of the limits of its group."""
    import psutil

    machine, group = int(psutil.virtual_memory().available), free_in_group()
    return max(machine if group is None else min(machine, group), 0)


def free_in_group(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """What the limits of a container or a batch system leave; None where there is no limit.

    Files that the system keeps in memory count as free, for they give way. Limits hold for all
    within a group, so those of the groups around count too (Linux, cgroup-v1/memory.rst and
    cgroup-v2.rst).

    Parameters
    ----------
    proc : the groups of this process.
    root : where the groups are shown; in a container its own group is often the root.
    """
    found = []
    for line in _lines(proc):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        names = [part for part in path.split("/") if part not in ("", "..")]
        for group in _GROUPS:
            if group.controller in controllers.split(","):
                tree = root / group.controller
                found += [group.left(tree.joinpath(*names[:n])) for n in range(len(names) + 1)]
    return min((left for left in found if left is not None), default=None)


@dataclass(frozen=True)
class _Group:
    """The files that say what a group may take, takes, and which files of it are in memory."""

    controller: str
    limit: str
    used: str
    files: tuple[str, str]

    def left(self, folder: Path) -> int | None:
        """Bytes; None without a limit."""
        try:
            limit, used = (int((folder / name).read_text()) for name in (self.limit, self.used))
        except (OSError, ValueError):  # no such group, or "max"
            return None
        said = (line.split() for line in _lines(folder / "memory.stat"))
        kept = sum(int(words[1]) for words in said if len(words) == 2 and words[0] in self.files)
        return limit - used + kept


_GROUPS = (
    _Group("", "memory.max", "memory.current", ("inactive_file", "active_file")),
    _Group(
        "memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)  # fmt: skip


def _lines(path: Path) -> list[str]:
    """The lines of a file that have something in them; none where it cannot be read."""
    try:
        return [line for line in path.read_text().splitlines() if line.strip()]
    except OSError:
        return []
