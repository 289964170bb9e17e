"""The networks of a run at work: scans in, results in each scan's own space."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

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
from deepatlas.io.images import scan_id
from deepatlas.io.subject import Subject
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Volume
from deepatlas.spatial.transform import (
    Composite,
    DisplacementField,
    Transform,
    resample,
)


class Session:
    """A run's plan and networks, each loaded once when first used.

    Parameters
    ----------
    run : a finished run.
    device : where the networks work.
    """

    def __init__(self, run: RunFolder, device: torch.device | str = "cpu") -> None:
        self.run = run
        self.device = torch.device(device)
        self.plan = run.plan
        self._places: dict[Path, Preparation] = {}
        self.networks = tuple(run.network_names())
        self.precision = run.config["training"]["precision"]
        if not self.networks:
            raise BadInput(f"{run.path}: has no trained network yet; finish training it first")

    @cached_property
    def _segmentation(self) -> nn.Module:
        return self.run.segmentation_network(self.device)

    @cached_property
    def _registration(self) -> nn.Module:
        return self.run.registration_network(self.device)

    def _autocast(self) -> torch.autocast:
        half = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def _prepare(self, image: Path) -> PreparedScan:
        subject = Subject(scan_id(image), Path(image))
        return prepare(subject, self.plan, labels=False, preparation=self._located(subject))

    def _located(self, subject: Subject) -> Preparation:
        """Where a scan lies; found once, because alignment by the image takes a while."""
        key = subject.image.resolve()
        if key not in self._places:
            self._places[key] = locate(subject, self.plan)
            say_if_misaligned(subject.image, self._places[key])
            say_if_outside(subject.image, self._places[key], self.plan.geometry)
        return self._places[key]

    @torch.inference_mode()
    def segment(self, image: Path) -> Volume:
        """Label map with the cohort's label values, on the scan's own grid.

        Voxels of the scan beyond the working grid are background.
        """
        scan = self._prepare(image)
        network = self._segmentation
        with self._autocast():
            maps = network(scan.image[None].to(self.device)).softmax(dim=1)[0].float().cpu()
        labels = classes_to_labels(self._to_native(maps, scan), self.plan.label_values)
        return Volume(labels, scan.preparation.native)

    def _to_native(self, maps: Tensor, scan: PreparedScan) -> Tensor:
        """Most probable class on the scan's own grid; one class in memory at a time."""
        native, back = scan.preparation.native, scan.preparation.transform.inverse()
        grid = self.plan.geometry
        best = torch.zeros(native.shape, dtype=torch.int32)
        highest = resample(Volume(maps[0], grid), native, back, outside=1.0).data
        for index in range(1, len(maps)):
            here = resample(Volume(maps[index], grid), native, back).data
            best = torch.where(here > highest, index, best)
            highest = torch.maximum(highest, here)
        return best

    @torch.inference_mode()
    def register(self, *, moving: Path, fixed: Path) -> Transform:
        """The whole map, fixed mm to moving mm: fixed preparation, network, moving preparation."""
        scans = [self._prepare(path) for path in (moving, fixed)]
        network = self._registration
        with self._autocast():
            result = network(*[scan.image[None].to(self.device) for scan in scans])
        if not bool(result.displacement.isfinite().all()):
            raise DeepAtlasError(
                f"{self.run.path}: its registration network gives NaN or infinite values for "
                f"{moving} and {fixed}; look at its losses in the report, and train it again"
            )
        inner = DisplacementField.faded(result.displacement[0].cpu(), self.plan.geometry)
        first, last = (scan.preparation.transform for scan in reversed(scans))
        return Composite([first.inverse(), inner, last])

    def alignment(self, *, moving: Path, fixed: Path) -> Transform:
        """The part of the map that preparation alone does, fixed mm to moving mm."""
        scans = [Subject(scan_id(path), Path(path)) for path in (fixed, moving)]
        first, last = (self._located(subject) for subject in scans)
        return Composite([first.transform.inverse(), last.transform])
