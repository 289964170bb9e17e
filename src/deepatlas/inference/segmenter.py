"""A segmentation network at work on one scan: in one pass, in slabs, or by a sliding window."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from deepatlas.data.labels import class_dtype
from deepatlas.data.plan import Plan
from deepatlas.data.prepare import PreparedScan
from deepatlas.errors import BadInput
from deepatlas.inference import memory
from deepatlas.inference.memory import Room, by
from deepatlas.inference.native import classes_of, most_probable, nearest_classes, share_voxels
from deepatlas.inference.window import Tiles, blended, choose_tiles
from deepatlas.kernels.softmax import softmax_
from deepatlas.networks.convolving import to_channels_last

Way = int | Tiles | None  # rows of slabs, tiles of a window, or None for one pass
_REMEDY = "give it more, or train on a coarser or smaller grid (data.spacing_mm, data.shape)"
_TILES = (
    "free some, or say --max-memory SIZE (max_memory in Python): what does not fit into SIZE is "
    "segmented in tiles, which is less exact"
)
_ROWS = 32  # of slabs, at most: more gain no time
_REACH = 32  # of a network that does not say how far it looks
_KEPT = 2.0  # times what a tile needs: of maps so small the allocator keeps some for the next tile
_BESIDE, _IN_SLAB = 1.3, 3.5  # times what slabs need, measured: the same, from slab to slab
_FEW = 4  # rows of the thinner slabs whose memory is measured
_log = logging.getLogger(__name__)


def half_precision(device: torch.device, half: bool) -> torch.autocast:
    """A context in which networks compute in bfloat16, if `half`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


class Segmenter:
    """Class indices of prepared scans, on their own grids.

    One pass where there is memory for it. Else in slabs, where the network can (`in_slabs`): the
    same result but for rounding. Else, where `room` has a limit that somebody gave, by a sliding
    window, whose result is not the same: a network that normalises over its input and knows the
    borders of its grid sees others in a tile.

    Parameters
    ----------
    network : image (1, 1, *S) to logits (1, C, *S). One that does not work on small inputs (of one
        fixed size, for example) is used in one pass, and what it takes is not counted.
    half : compute in bfloat16.
    room : the memory there is; measured anew once the network is loaded.
    """

    def __init__(
        self, network: nn.Module, plan: Plan, device: torch.device, *, half: bool, room: Room
    ) -> None:
        self.network, self.plan, self.device, self.half = network, plan, device, half
        self.room = room
        self.slabs = hasattr(network, "in_slabs") and len(getattr(network, "up", ())) > 0
        self.cost = memory.held(
            lambda small: self.probabilities(torch.zeros(small)),
            plan.shape,
            memory.multiple_of(network),
        )
        room.measure()

    @cached_property
    def slab_bytes(self) -> tuple[float, float]:
        """On the grid, beside slabs, and in one slab of all its rows; two sizes are tried."""
        shape, multiple = self.plan.shape, memory.multiple_of(self.network)
        size = memory.probe_shape(shape, multiple)[0]
        thin = min(_FEW, size)
        few, many = (
            memory.held(lambda small, r=rows: self.by_slabs(torch.zeros(small), r), shape, multiple)
            for rows in (thin, size)
        )
        if few is None or many is None:
            return math.inf, 0.0
        voxels = memory.padded_voxels(self.network, shape)
        least, most = few(voxels), many(voxels)
        in_slab = max(0.0, most - least) * size / max(size - thin, 1)
        return max(0.0, least - in_slab * thin / size), in_slab

    def logits(self, image: Tensor) -> Tensor:
        """(1, C, *S) float32, channels last."""
        with half_precision(self.device, self.half):
            return to_channels_last(self.network(image.to(self.device)).float())

    def probabilities(self, image: Tensor) -> Tensor:
        """(1, C, *S) float32, channels last, in the memory of the logits."""
        return softmax_(self.logits(image))

    def by_slabs(self, image: Tensor, rows: int) -> Tensor:
        """The same in float16 on the CPU, never holding the widest maps as a whole."""
        shape = (1, *image.shape[2:], self.plan.classes)
        maps = torch.empty(shape, dtype=torch.float16).movedim(-1, 1)
        with half_precision(self.device, self.half):
            for start, logits in self.network.in_slabs(image.to(self.device), rows):  # type: ignore[operator]
                maps.narrow(2, start, logits.shape[2]).copy_(softmax_(to_channels_last(logits)))
        return maps

    def __call__(self, path: Path, scan: PreparedScan) -> Tensor:
        """Class indices on the scan's own grid, uint8 or int16; 0 beyond the working grid.

        Raises
        ------
        BadInput : a scan for which there is not enough memory whatever is done, or without a limit
            not enough for the exact result; `path` is named.
        """
        native, grid = scan.preparation.native, self.plan.geometry
        back, image = scan.preparation.transform.inverse(), scan.image[None]
        way = self.way(path, native.shape)
        with self.room.taking(self.need(way, native.shape)):
            if way is None and share_voxels(native, grid, back):
                best = classes_of(self.logits(image)[0].argmax(dim=0), self.plan.classes)
                return nearest_classes(best, grid, native, back)
            if way is None:
                maps = self.probabilities(image).cpu()
            elif isinstance(way, Tiles):
                _log.warning(
                    "%s: too large for the memory in one pass; segmented in %d tiles of %s voxels, "
                    "which is less exact", path, way.count, by(way.size),
                )  # fmt: skip
                maps = blended(image, way, self.plan.classes, self.probabilities)
            else:
                _log.info("%s: to save memory in slabs of %d rows", path, way)
                maps = self.by_slabs(image, way)
            return most_probable(maps, grid, native, back)

    def way(self, path: Path, native: Sequence[int]) -> Way:
        """How a scan of this shape is segmented.

        It depends on the limit and the sizes, not on what else is being done just now, so that
        results do not either.
        """
        shape = tuple(self.plan.shape)
        what = f"{path}: segmenting its {by(native)} voxels on a grid of {by(shape)}"
        if self.cost is None:  # how it grows is not known, nor whether it works on tiles
            self.room.refuse(what, self.need(None, native), _REMEDY)
            return None
        if self._fits(None, native):
            return None
        if self.slabs:
            for rows in (_ROWS, _ROWS // 2, 8, 4, 2):
                if rows < self.plan.shape[0] and self._fits(rows, native):
                    return rows

        def window(size: Sequence[int]) -> Tiles:
            return Tiles(shape, tuple((0,) for _ in shape), tuple(size))

        if self.room.limit is None:  # a worse result is for the user to choose
            exact = 2 if self.slabs else None
            raise self._too_little(what, exact, native, _TILES)
        multiple = memory.multiple_of(self.network)
        tiles = choose_tiles(
            shape,
            multiple=multiple,
            reach=int(getattr(self.network, "reach", _REACH)),
            fits=lambda size: tuple(size) != shape and self._fits(window(size), native),
        )
        if tiles is None:
            least = window([min(n, 2 * multiple) for n in shape])
            raise self._too_little(what, least, native, _REMEDY)
        return tiles

    def need(self, way: Way, native: Sequence[int]) -> float:
        """Bytes of the machine's memory for a scan of this shape."""
        grid, classes = math.prod(self.plan.shape), self.plan.classes
        maps = (4.0 if way is None else 2.0) * classes * grid
        network = self._on_network(way) if self.device.type == "cpu" else 0.0
        if isinstance(way, Tiles):
            network += maps
        kept = class_dtype(classes - 1).itemsize * math.prod(native)
        beside = 12.0 * grid + kept + memory.sampling(classes, native)
        return max(network, maps + beside) + 8.0 * grid

    def _on_network(self, way: Way) -> float:
        shape = self.plan.shape
        if isinstance(way, int):
            beside, in_slab = self.slab_bytes
            return _BESIDE * beside + _IN_SLAB * in_slab * way / shape[0]
        if way is None:
            return memory.for_network(self.cost, self.network, shape)
        return _KEPT * memory.for_network(self.cost, self.network, way.size)

    def _too_little(self, what: str, way: Way, native: Sequence[int], remedy: str) -> BadInput:
        """What says that a way does not fit, into the machine's memory or the device's."""
        room, size = self.room, self.need(way, native)
        if self.device.type != "cpu" and room.fits(size):
            room, size = room.on(self.device), self._on_network(way)
        return room.too_little(what, size, remedy)

    def _fits(self, way: Way, native: Sequence[int]) -> bool:
        if self.device.type != "cpu" and not self.room.on(self.device).fits(self._on_network(way)):
            return False
        return self.room.fits(self.need(way, native))
