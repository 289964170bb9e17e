"""The scan that all others are aligned to, small enough to live with a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from deepatlas import classical
from deepatlas.classical.pyramid import coarsen, ready, spacings
from deepatlas.data.survey import Survey
from deepatlas.errors import BadInput
from deepatlas.io.images import decode_image, read_content
from deepatlas.io.subject import Cohort, Subject
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine

_MODELS: dict[str, classical.Model] = {"rigid": classical.Rigid(), "affine": classical.Affine()}
_STEPS = 250  # grey values of a stored reference


@dataclass(frozen=True, eq=False)
class Reference:
    """A scan to align to.

    Parameters
    ----------
    id : of the scan.
    digest : SHA-256 of its file.
    volume : intensities in [0, 1], as coarse as alignment's finest level.
    """

    id: str
    digest: str
    volume: Volume


@dataclass(frozen=True)
class Alignment:
    """How a scan came to lie on the reference; what `alignment.json` says of it.

    Parameters
    ----------
    matrix : reference mm -> scan mm.
    start, similarity : mean correlation with the reference (1 is best) when centres of mass are
        put together, and in the end.
    overlap : share of the reference's foreground within the scan's field of view.
    fault : why centres of mass were put together and no more was done; empty if all went well.
    """

    matrix: tuple[tuple[float, ...], ...]
    start: float
    similarity: float
    overlap: float
    fault: str = ""

    @property
    def transform(self) -> Affine:
        """Reference mm -> scan mm."""
        return Affine(torch.tensor(self.matrix, dtype=torch.float64))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @staticmethod
    def from_json(content: dict[str, Any]) -> Alignment:
        """The inverse of `to_json`; KeyError or TypeError where it is none."""
        rows = tuple(tuple(float(v) for v in row) for row in content["matrix"])
        start, similarity, overlap = (
            float(content[name]) for name in ("start", "similarity", "overlap")
        )
        return Alignment(rows, start, similarity, overlap, str(content["fault"]))


def align(volume: Volume, digest: str, reference: Reference, kind: str) -> Alignment:
    """Align a scan, whose file has that SHA-256, to the reference: "rigid" or "affine".

    Scan and reference of another number of axes raise ValueError.
    """
    if digest == reference.digest:
        return Alignment(_rows(Affine.identity(volume.geometry.ndim)), 1.0, 1.0, 1.0)
    found = classical.optimise(moving=volume, fixed=reference.volume, model=_MODELS[kind])
    assert isinstance(found.transform, Affine)
    return Alignment(
        _rows(found.transform), found.start, found.similarity, found.overlap, found.fault
    )


def make_reference(subject: Subject) -> Reference:
    """The reference that a scan makes; BadInput where it cannot be read or is constant."""
    content = read_content(subject.image)
    scan = ready(decode_image(content, subject.image))
    if scan is None:
        raise BadInput(f"{subject.image}: is constant, so no scan can be aligned to it")
    coarse = coarsen(scan.volume, spacings(scan)[-1])
    grey = Volume((coarse.data * _STEPS).round() / _STEPS, coarse.geometry)
    return Reference(subject.id, hashlib.sha256(content).hexdigest(), grey)


def choose_reference(
    cohort: Cohort, facts: Survey, wanted: str | None, among: Collection[str] | None = None
) -> Subject:
    """The scan of the id that is wanted, or the most typical one.

    Most typical is the scan whose field of view is nearest to the median: by the largest ratio to
    it of the lengths along the world's axes; of several the first by id.

    Parameters
    ----------
    among : ids that may be chosen; None for all.
    """
    subjects = [s for s in cohort.subjects if among is None or s.id in among] or cohort.subjects
    if wanted is not None:
        named = [s for s in cohort.subjects if s.id == wanted]
        if not named:
            known = ", ".join(s.id for s in subjects[:5])
            raise BadInput(
                f"data.reference: no scan {wanted!r} in {cohort.root}; expected an id such as "
                f"{known}"
            )
        return named[0]
    grids = {s: facts[s.id].image.geometry for s in subjects}
    sizes = {s: np.log(_lengths_mm(grid)) for s, grid in grids.items() if grid is not None}
    middle = np.median(np.array(list(sizes.values())), axis=0)
    return min(sizes, key=lambda s: (round(float(np.abs(sizes[s] - middle).max()), 3), s.id))


def pack(reference: Reference) -> bytes:
    """The reference as a safetensors file."""
    about = {
        "id": reference.id,
        "digest": reference.digest,
        "affine": reference.volume.geometry.affine.tolist(),
    }
    image = (reference.volume.data * _STEPS).round().to(torch.uint8).cpu().contiguous()
    return save({"image": image}, {"deepatlas": json.dumps(about)})


def unpack(path: Path) -> Reference:
    """The inverse of `pack`, of a file; BadInput where it is none."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["deepatlas"])
            image = file.get_tensor("image").float() / _STEPS
        grid = Geometry(tuple(image.shape), torch.tensor(about["affine"], dtype=torch.float64))
        return Reference(about["id"], about["digest"], Volume(image, grid))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadInput(
            f"{path}: cannot be read ({error}); scans of this run are aligned to it: restore the "
            "file, or train again"
        ) from None


def _rows(transform: Affine) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in transform.matrix.tolist())


def _lengths_mm(grid: Geometry) -> np.ndarray:
    """Size of the field of view along each world axis."""
    shape = torch.tensor(grid.shape, dtype=torch.float64)
    return (grid.affine[:-1, :-1].abs() @ shape).numpy()
