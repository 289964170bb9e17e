"""How much memory a case takes, known before it starts, and what is done where it is too much.

Bytes are counted, not guessed, wherever that is possible. What a network holds at once is measured
on two small inputs, whose tensors are counted as they come and go (`held`); of each moment the part
that grows does so with the number of voxels, since layers hold feature maps of the size of the grid
or a fraction of it. A network that does not work on small inputs is not counted. For the
default U-Net with C classes, in bfloat16, that is about 112 bytes a voxel (at its finest level on
the way up) or, with many classes, 6 C + 36 (logits in both types); in slabs of few rows about 88
or 2 C + 8.

Of a scan with n voxels (b bytes each in the file, v as read) are counted: for reading the larger of
unpacking it (2 b n, with a slope (b + 2 v) n), of converting it ((b + v + 4) n) and of scaling it
(13 n), of matching its histogram (28 n) or of aligning it (32 n); for reading a label map that of
converting it ((b + v + 8) n), where fractions are looked for (b + 3 v + 2) n or (b + 2 v + 8) n;
for a label map on its grid 1 or 2 bytes for classes, those of the written type twice. Sampling is
done voxel by voxel or in slabs, so what it needs besides is nearly constant (`slab`).
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepatlas.compute import free_memory, in_words, parse_memory, used_memory
from deepatlas.errors import BadInput
from deepatlas.io.header import scaling, space_shape
from deepatlas.io.images import read_header
from deepatlas.spatial.geometry import SLAB_POINTS
from deepatlas.spatial.transform import FADE_VOXELS, DisplacementField, Transform

_POINT = 320  # of the sampling of one point
_LATER = 100 << 20  # of libraries that are loaded at their first use, and of freed bits and pieces
_SPARE = 0.8  # of the free memory that is used where no limit is given
SLACK = 1.1  # what convolutions and the allocator take besides tensors
PROBE = 32  # voxels along each axis of a small input, and more where a network needs them


class Room:
    """The memory that work side by side may take; each part waits until there is enough for it.

    Parameters
    ----------
    limit : bytes that the process may hold in all, or None for most of what is free now.
    """

    def __init__(self, limit: int | str | None = None) -> None:
        self.limit = None if limit is None else parse_memory(limit)
        self.total = 0
        self._taken = 0
        self._changed = threading.Condition()
        self.measure()

    def measure(self) -> None:
        """Take what the process holds now for what it always holds; for when it has loaded all."""
        if self.limit is None:
            self.total = int(_SPARE * free_memory())
        else:
            self.total = self.limit - used_memory() - _LATER

    def on(self, device: torch.device) -> Room:
        """The room there is now in the memory of a GPU."""
        held = torch.cuda.memory_allocated(device)
        kept = torch.cuda.memory_reserved(device) - held  # by torch, for the next tensors
        free = int(_SPARE * (torch.cuda.mem_get_info(device)[0] + kept))
        if self.limit is not None and self.limit - held < free:
            room = Room(self.limit)
            room.total = self.limit - held
        else:
            room = Room()
            room.total = free
        return room

    def fits(self, size: float) -> bool:
        """Whether there is so much, other work done."""
        return size <= self.total

    def refuse(self, what: object, size: float, remedy: str) -> None:
        """BadInput that says how much is needed and how much there is, where it does not fit."""
        if not self.fits(size):
            raise self.too_little(what, size, remedy)

    def too_little(self, what: object, size: float, remedy: str) -> BadInput:
        """What says that something does not fit."""
        there = f"{in_words(self.total)} can be used of what is free here"
        if self.limit is not None:
            left = max(self.total, 0)
            there = (
                f"of --max-memory {in_words(self.limit)} the program itself holds "
                f"{in_words(self.limit - self.total)}, which leaves {in_words(left)}"
            )
        return BadInput(f"{what} needs about {in_words(size)} of memory, and {there}; {remedy}")

    @contextmanager
    def taking(self, size: float) -> Iterator[None]:
        """Wait until so much is free, or nothing else is being done, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self.total)
            self._taken += math.ceil(size) or 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= math.ceil(size) or 1
                self._changed.notify_all()


def to_read(
    path: Path,
    onto: Sequence[int],
    *,
    aligned: bool = False,
    matched: bool = False,
    labels: bool = False,
) -> float:
    """Bytes that reading a scan and putting it on a grid takes at most, from its header.

    Parameters
    ----------
    onto : the shape of the grid.
    aligned : by its image.
    matched : to a histogram.
    labels : a label map, whose values are integers of 8 bytes once read.
    """
    header = read_header(path)
    voxels = math.prod(space_shape(header) or (0,))
    stored, is_scaled = header.get_data_dtype().itemsize, scaling(header) is not None
    read = 8 if is_scaled else stored
    packed = sum(p.stat().st_size for p in (path.iterdir() if path.is_dir() else [path]))
    each = max(2 * stored, stored + 2 * read if is_scaled else 0)
    if not labels:
        each = max(each, stored + read + 4, 32 if aligned else 28 if matched else 13)
    elif is_scaled or header.get_data_dtype().kind == "f":
        each = max(each, stored + 2 * read + 8, stored + 3 * read + 2)
    else:
        each = max(each, stored + read + 8)
    return packed + voxels * each + slab(onto)


def to_write(voxels: int, itemsize: int) -> float:
    """Bytes for writing a label map, its classes included."""
    return (2.0 + 2 * itemsize) * voxels


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors made while it is on and not yet gone.

    Attributes
    ----------
    history : how many there were after each new one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.history: list[int] = []
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # to PyTorch; else it imports its compiler, for seconds
        return False

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._known:
                self._known.add(key)
                self.now += storage.nbytes()
                self.history.append(self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@dataclass(frozen=True)
class Cost:
    """Bytes that a function holds at once, by the voxels of its grid.

    Parameters
    ----------
    moments : of each moment what it holds whatever the grid (weights in another type), and for
        each voxel. Which of them is the fullest depends on the grid.
    """

    moments: tuple[tuple[float, float], ...]

    def __call__(self, voxels: float) -> float:
        return max((always + each * voxels for always, each in self.moments), default=0.0)


def held(run: Callable[..., Any], shape: Sequence[int], multiple: int = 1) -> Cost | None:
    """What a function holds, inputs and result included, measured on two small inputs.

    None where it does not work on them (RuntimeError, ValueError, AssertionError or BadInput), as
    a network whose input has one size only.

    Parameters
    ----------
    run : called with the shape (1, 1, *S) of a small input, in the precision of its later use.
    shape : the grid.
    multiple : see `probe_shape`.
    """
    small = probe_shape(shape, multiple)
    wide = (*small[:-1], 2 * small[-1])
    few, many = math.prod(small), math.prod(wide)
    try:
        first = _history(run, small)
        second = _history(run, wide) if many <= _padded(shape, multiple) else []
    except (RuntimeError, ValueError, AssertionError, BadInput):
        return None
    if len(first) != len(second):  # it takes other steps on another size, or the grid is small
        peaks = max(first, default=0) / few, max(second, default=0) / many
        return Cost(((0.0, max(peaks)),))
    moments = set()
    for here, there in zip(first, second, strict=True):
        each = max(0, there - here) / (many - few)
        moments.add((max(0.0, here - each * few), each))
    return Cost(tuple(moments))


def probe_shape(shape: Sequence[int], multiple: int) -> tuple[int, ...]:
    """A small input for a network on this grid.

    It has two voxels where the network is coarsest, since normalising over one fails, unless the
    grid itself has one; it is no larger than the grid is when padded.
    """
    least = (min(max(min(n, PROBE), 2 * multiple), n + -n % multiple) for n in shape)
    return tuple(n + -n % multiple for n in least)


def _history(run: Callable[..., Any], shape: Sequence[int]) -> list[int]:
    with torch.inference_mode(), _Live() as live:
        result = run((1, 1, *shape))
        del result
    return live.history


def by(shape: Sequence[int]) -> str:
    """A size as it is said to a user."""
    return " x ".join(str(n) for n in shape)


def multiple_of(network: nn.Module) -> int:
    """What the size of a network's input must be a multiple of."""
    return int(getattr(network, "multiple", 1))


def padded_voxels(network: nn.Module, shape: Sequence[int]) -> int:
    """Voxels of a grid padded to what the network needs."""
    return _padded(shape, multiple_of(network))


def _padded(shape: Sequence[int], multiple: int) -> int:
    return math.prod(n + -n % multiple for n in shape)


def for_network(cost: Cost | None, network: nn.Module, shape: Sequence[int]) -> float:
    """Bytes that a network takes on a grid; 0 where that is not known."""
    return 0.0 if cost is None else SLACK * cost(padded_voxels(network, shape))


def slab(shape: Sequence[int]) -> float:
    """Bytes for the sampling of one slab of a grid: of some points, and of at least one plane."""
    return _POINT * _points(shape)


def sampling(channels: int, shape: Sequence[int]) -> float:
    """Bytes for the sampling of one slab of so many maps."""
    return (_POINT + 8.0 * channels) * _points(shape)


def _points(shape: Sequence[int]) -> int:
    return max(SLAB_POINTS, math.prod(shape[1:]))


def for_field(shape: Sequence[int], margin: int = FADE_VOXELS) -> float:
    """Bytes for a displacement on a grid, and for fading it beyond (`DisplacementField.faded`)."""
    wide = math.prod(n + 2 * margin for n in shape)
    return 4.0 * len(shape) * math.prod(shape) + (8.0 * len(shape) + 12) * wide


def for_chain(transform: Transform) -> float:
    """Bytes for the fields of a map side by side, of which a grid's way through several is made."""
    fields = [part for part in transform.parts() if isinstance(part, DisplacementField)]
    return 4.0 * sum(field.voxels.numel() for field in fields) if len(fields) > 1 else 0.0


def for_inverse(transform: Transform) -> float:
    """Bytes for the inverse of a map, whose size only its displacements tell (`invert`).

    ValueError where a step leads so far away that there is none (`DisplacementField.reach`).
    """
    fields = [part for part in transform.parts() if isinstance(part, DisplacementField)]
    return max(
        (36.0 * (field.ndim + 1) * float(field.reach()[1].prod()) for field in fields), default=0.0
    )
