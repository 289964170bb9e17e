"""One look at every file of a cohort: what is in it, and what is wrong with it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deepatlas.data.labels import label_values
from deepatlas.errors import BadInput
from deepatlas.io.header import read_placement, say_if_forms_differ
from deepatlas.io.images import decode_header, decode_image, decode_labels, read_content
from deepatlas.io.subject import Cohort, Subject
from deepatlas.spatial.geometry import Geometry, Volume

THREADS = max(1, min(4, os.cpu_count() or 1))


@dataclass(frozen=True)
class FileFacts:
    """What one look at a file found.

    Parameters
    ----------
    digest : SHA-256 of the file's bytes; empty if it could not be read.
    geometry : its grid, or None if it could not be read.
    faults : one sentence each.
    values : of a label map: the values other than 0, ascending.
    dtype : of a label map: its integer type on disk.
    """

    digest: str
    geometry: Geometry | None
    faults: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True)
class ScanFacts:
    """What was found in a scan's image and label map."""

    image: FileFacts
    labels: FileFacts | None = None


Survey = dict[str, ScanFacts]


def survey(cohort: Cohort, progress: Callable[[int, int], None] | None = None) -> Survey:
    """Read every file of a cohort once; facts by scan id. Faults are collected, not raised.

    Parameters
    ----------
    progress : called with the number of scans read and their total.
    """
    facts: Survey = {}
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(_look, cohort.subjects)
        for subject, scan in zip(cohort.subjects, found, strict=True):
            facts[subject.id] = scan
            if progress is not None:
                progress(len(facts), len(cohort.subjects))
    return facts


def image_faults(volume: Volume, path: Path) -> tuple[str, ...]:
    """What is wrong with a scan's voxels."""
    image = volume.data
    bad = int((~image.isfinite()).sum())
    if bad:
        return (
            f"{path}: {bad} of {image.numel()} voxels are NaN or infinite; "
            "expected finite numbers: replace them, for example by 0",
        )
    low, high = float(image.min()), float(image.max())
    if low == high:
        return (
            f"{path}: every voxel is {low:g}; expected an image: "
            "export the scan again or remove it",
        )
    return ()


def _look(subject: Subject) -> ScanFacts:
    image = _look_at_image(subject.image)
    return ScanFacts(image, None if subject.labels is None else _look_at_labels(subject.labels))


def _look_at_image(path: Path) -> FileFacts:
    digest, geometry = "", None
    try:
        content = read_content(path)
        digest = hashlib.sha256(content).hexdigest()
        geometry = _grid(content, path)
        volume = decode_image(content, path)
        return FileFacts(digest, geometry, image_faults(volume, path))
    except BadInput as error:
        return FileFacts(digest, geometry, tuple(error.faults))


def _look_at_labels(path: Path) -> FileFacts:
    digest, geometry = "", None
    try:
        content = read_content(path)
        digest = hashlib.sha256(content).hexdigest()
        geometry = _grid(content, path)
        volume, dtype = decode_labels(content, path)
    except BadInput as error:
        return FileFacts(digest, geometry, tuple(error.faults))
    values = label_values(volume.data)
    return FileFacts(digest, geometry, _value_faults(values, path), values, dtype.name)


def _grid(content: bytes, path: Path) -> Geometry:
    header = decode_header(content, path)
    say_if_forms_differ(header, path)
    return read_placement(header, path)


def _value_faults(values: tuple[int, ...], path: Path) -> tuple[str, ...]:
    if not values:
        return (
            f"{path}: no voxel is labelled (all are 0); expected at least one structure: "
            "remove the file if the scan has no segmentation",
        )
    if values[0] < 0:
        negative = [value for value in values if value < 0]
        shown = ", ".join(str(value) for value in negative[:3])
        return (
            f"{path}: negative label values ({shown}); expected 0 for background and positive "
            "values for structures: renumber them",
        )
    return ()
