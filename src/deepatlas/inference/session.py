"""The networks of a run at work: scans in, results in each scan's own space."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from deepatlas.compute import half_pays, threads_each
from deepatlas.data.labels import classes_to_labels
from deepatlas.data.prepare import (
    Preparation,
    PreparedScan,
    locate,
    prepare,
    say_if_misaligned,
    say_if_outside,
)
from deepatlas.errors import BadInput, DeepAtlasError
from deepatlas.inference import memory
from deepatlas.inference.memory import Room, by
from deepatlas.inference.segmenter import Segmenter, half_precision
from deepatlas.io.images import scan_id
from deepatlas.io.subject import Subject
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Volume
from deepatlas.spatial.transform import Composite, DisplacementField, Transform, fade_margin

_REMEDY = (
    "a registration network needs its whole grid at once: give it more, or train one on a coarser "
    "or smaller grid (data.spacing_mm, data.shape)"
)


class Session:
    """A run's plan and networks, each loaded once when first used.

    Parameters
    ----------
    run : a finished run.
    device : where the networks work.
    max_memory : bytes that this process, and what it takes on a GPU, each aim to stay below, "8GB"
        for example; what does not fit is then segmented in tiles, which is less exact. None for
        most of what is free, and no tiles.
    """

    def __init__(
        self,
        run: RunFolder,
        device: torch.device | str = "cpu",
        *,
        max_memory: int | str | None = None,
    ) -> None:
        self.run = run
        self.device = torch.device(device)
        self.plan = run.plan
        self.room = Room(max_memory)
        self._places: dict[Path, Preparation] = {}
        self.networks = tuple(run.network_names())
        self.half = run.config["training"]["precision"] == "bfloat16" and half_pays(self.device)
        if not self.networks:
            raise BadInput(f"{run.path}: has no trained network yet; finish training it first")

    def read(self, image: Path) -> PreparedScan:
        """A scan on the working grid; waits until there is memory for it.

        Raises
        ------
        BadInput : a scan that cannot be read or prepared, or is too large for the memory.
        """
        image = Path(image)
        known = self._places.get(image.resolve())
        aligned = known is None and self.plan.reference is not None
        matched = self.plan.histogram is not None
        need = memory.to_read(image, self.plan.shape, aligned=aligned, matched=matched)
        self.room.refuse(f"{image}: reading it", need, "give it more, or crop the scan")
        with self.room.taking(need):
            subject = Subject(scan_id(image), image)
            scan = prepare(subject, self.plan, labels=False, preparation=known)
        self._keep(image, scan.preparation)
        return scan

    def _keep(self, image: Path, preparation: Preparation) -> Preparation:
        """Where a scan lies; found once, because alignment by the image takes a while."""
        key = image.resolve()
        if key not in self._places:
            self._places[key] = preparation
            say_if_misaligned(image, preparation)
            say_if_outside(image, preparation, self.plan.geometry)
        return self._places[key]

    def _located(self, image: Path) -> Preparation:
        known = self._places.get(Path(image).resolve())
        return known or self._keep(image, locate(Subject(scan_id(image), image), self.plan))

    def load(self, kind: str) -> None:
        """Load the network of that kind, and find out what it takes; BadInput without one."""
        _ = self._segmenter if kind == "segmentation" else self._registration_bytes

    @cached_property
    def _segmenter(self) -> Segmenter:
        network = self.run.segmentation_network(self.device)
        return Segmenter(network, self.plan, self.device, half=self.half, room=self.room)

    @torch.inference_mode()
    def classes(self, image: Path, scan: PreparedScan) -> Tensor:
        """Class indices on the scan's own grid, uint8 or int16; 0 beyond the working grid."""
        return self._segmenter(image, scan)

    def segment(self, image: Path) -> Volume:
        """Label map with the cohort's label values, on the scan's own grid.

        Voxels of the scan beyond the working grid are background.
        """
        self.load("segmentation")
        scan = self.read(image)
        classes = self.classes(image, scan)
        labels = classes_to_labels(classes, self.plan.label_values)
        return Volume(labels, scan.preparation.native)

    @cached_property
    def _registration(self) -> nn.Module:
        return self.run.registration_network(self.device)

    @cached_property
    def _registration_bytes(self) -> float:
        """What the registration network and its field take on the grid; 0 where not known."""
        network, shape = self._registration, self.plan.shape
        cost = memory.held(
            lambda small: self.displacement(*torch.zeros(2, *small)),
            shape,
            memory.multiple_of(network),
        )
        if self.room.limit is not None:
            self.room.measure()
        return memory.for_network(cost, network, shape)

    @torch.inference_mode()
    def displacement(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """What the registration network makes of two images (1, 1, *S) on the working grid.

        Whether there is memory for it is not looked at.

        Returns
        -------
        (1, d, *S) in voxels of the working grid, on the device: from fixed to moving.
        """
        with half_precision(self.device, self.half):
            return self._registration(moving.to(self.device), fixed.to(self.device)).displacement

    @torch.inference_mode()
    def register(self, *, moving: Path, fixed: Path) -> Transform:
        """The whole map, fixed mm to moving mm: fixed preparation, network, moving preparation.

        Raises
        ------
        BadInput : scans that cannot be prepared, or a working grid too large for the memory.
        """
        _ = self._registration  # a network that is missing is said at once
        need = 0.0
        if self.room.limit is not None:  # what it leaves is measured with nothing else going on
            need = self._registration_need()
        with threads_each(2), ThreadPoolExecutor(2) as pool:  # aligning by the image takes seconds
            reading = [pool.submit(self.read, image) for image in (moving, fixed)]
            need = need or self._registration_need()
            scans = [scan.result() for scan in reading]
        with self.room.taking(need):
            displacement = self.displacement(*[scan.image[None] for scan in scans])
            if not bool(displacement.isfinite().all()):
                raise DeepAtlasError(
                    f"{self.run.path}: its registration network gives NaN or infinite values for "
                    f"{moving} and {fixed}; look at its losses in the report, and train it again"
                )
            grid = self.plan.geometry
            field = memory.for_field(grid.shape, fade_margin(displacement[0]))
            self.room.refuse(f"{self._registering}: its large displacement", field, _REMEDY)
            inner = DisplacementField.faded(displacement[0].cpu(), grid)
        first, last = (scan.preparation.transform for scan in reversed(scans))
        return Composite([first.inverse(), inner, last])

    @property
    def _registering(self) -> str:
        return f"{self.run.path}: registration on its grid of {by(self.plan.shape)} voxels"

    def _registration_need(self) -> float:
        """Bytes that registration takes on the CPU; BadInput where there is too little."""
        need = self._registration_bytes
        if self.device.type != "cpu":
            self.room.on(self.device).refuse(self._registering, need, _REMEDY)
            need = 0
        need = max(need, memory.for_field(self.plan.shape))
        self.room.refuse(self._registering, need, _REMEDY)
        return need

    def alignment(self, *, moving: Path, fixed: Path) -> Transform:
        """The part of the map that preparation alone does, fixed mm to moving mm."""
        first, last = (self._located(Path(path)) for path in (fixed, moving))
        return Composite([first.transform.inverse(), last.transform])
