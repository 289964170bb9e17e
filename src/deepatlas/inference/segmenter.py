"""A segmentation network at work on one scan: whole where it fits, else by a sliding window."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deepatlas.data.labels import class_dtype
from deepatlas.data.plan import Plan
from deepatlas.data.prepare import PreparedScan
from deepatlas.inference import memory
from deepatlas.inference.memory import Room, by
from deepatlas.inference.native import classes_of, most_probable, nearest_classes, share_voxels
from deepatlas.inference.window import Tiles, blended, choose_tiles
from deepatlas.networks.blocks import to_channels_last

_REACH = 32  # of a network that does not say how far it looks
_log = logging.getLogger(__name__)


def half_precision(device: torch.device, half: bool) -> torch.autocast:
    """A context in which networks compute in bfloat16, if `half`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


class Segmenter:
    """Class indices of prepared scans, on their own grids.

    Parameters
    ----------
    network : image (1, 1, *S) to logits (1, C, *S).
    half : compute in bfloat16.
    room : the memory there is; measured anew once the network is loaded.
    """

    def __init__(
        self, network: nn.Module, plan: Plan, device: torch.device, *, half: bool, room: Room
    ) -> None:
        self.network, self.plan, self.device, self.half = network, plan, device, half
        self.room = room
        self.each = memory.bytes_per_voxel(self.probabilities, 1, plan.shape, device)
        room.measure()

    def logits(self, image: Tensor) -> Tensor:
        """(1, C, *S) float32, channels last."""
        with half_precision(self.device, self.half):
            return to_channels_last(self.network(image.to(self.device)).float())

    def probabilities(self, image: Tensor) -> Tensor:
        """Softmax of the logits, in their memory."""
        maps = self.logits(image)
        maps.sub_(maps.amax(dim=1, keepdim=True)).exp_()
        return maps.div_(maps.sum(dim=1, keepdim=True))

    def __call__(self, path: Path, scan: PreparedScan) -> Tensor:
        """Class indices on the scan's own grid, uint8 or int16; 0 beyond the working grid.

        Raises
        ------
        BadInput : a scan for which there is not enough memory whatever is done; `path` is named.
        """
        native, grid = scan.preparation.native, self.plan.geometry
        voxels, back = math.prod(native.shape), scan.preparation.transform.inverse()
        tiles = self.tiles(path, voxels)
        with self.room.taking(self.need(tiles.size, voxels)):
            whole = tiles.count == 1
            if whole and share_voxels(native, grid, back):
                best = classes_of(self.logits(scan.image[None])[0].argmax(dim=0), self.plan.classes)
                return nearest_classes(best, grid, native, back)
            if whole:
                maps = self.probabilities(scan.image[None]).cpu()
            else:
                _log.info("%s: in %d tiles of %s voxels", path, tiles.count, by(tiles.size))
                maps = blended(scan.image[None], tiles, self.plan.classes, self.probabilities)
            return most_probable(maps, grid, native, back)

    def tiles(self, path: Path, voxels: int) -> Tiles:
        """The largest tiles that there is memory for, for a scan of so many voxels.

        It depends on the limit and the sizes, not on what else is being done just now, so that
        results do not either.
        """

        def fits(size: Sequence[int]) -> bool:
            on_device = self.device.type == "cpu" or self.room.on(self.device).fits(
                memory.for_network(self.each, self.network, size)
            )
            return on_device and self.room.fits(self.need(size, voxels))

        multiple = int(getattr(self.network, "multiple", 1))
        reach = int(getattr(self.network, "reach", _REACH))
        shape = self.plan.shape
        tiles = choose_tiles(shape, multiple=multiple, reach=reach, fits=fits)
        if tiles is None:
            least = [min(n, 2 * multiple) for n in shape]
            self.room.refuse(
                f"{path}: segmenting its {voxels} voxels on a grid of {by(shape)}",
                max(self.need(least, voxels), self.room.total + 1),
                "give it more, or train on a coarser or smaller grid (data.spacing_mm, data.shape)",
            )
        assert tiles is not None
        return tiles

    def need(self, size: Sequence[int], voxels: int) -> float:
        """Bytes of the machine's memory, for tiles of this size and a scan of so many voxels."""
        grid, classes = math.prod(self.plan.shape), self.plan.classes
        maps = 4.0 * classes * grid
        network = 0.0
        if self.device.type == "cpu":
            network = memory.for_network(self.each, self.network, size)
        if tuple(size) != tuple(self.plan.shape):
            network += maps
        kept = class_dtype(classes - 1).itemsize * voxels
        return max(network, maps + 12.0 * grid + kept + memory.sampling(classes)) + 8.0 * grid
