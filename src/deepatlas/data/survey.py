"""One look at every file of a cohort: what is in it, and what is wrong with it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deepatlas.data.appearance import Appearance, Structures, appearance_of, structures_of
from deepatlas.data.labels import label_values
from deepatlas.errors import BadInput, Fault
from deepatlas.io.annotations import FILE
from deepatlas.io.header import forms_differ_mm, read_placement
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
    values : of a label map: the values other than 0 and ignored ones, ascending.
    dtype : of a label map: its integer type on disk.
    voxels : SHA-256 of shape and values, whatever file they are in; empty as `digest`.
    stored : the type on disk, such as "float32".
    forms_mm : how far apart sform and qform place a voxel.
    appearance : of an image.
    structures : of a label map.
    """

    digest: str
    geometry: Geometry | None
    faults: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    dtype: str = ""
    voxels: str = ""
    stored: str = ""
    forms_mm: float = 0.0
    appearance: Appearance | None = field(default=None, compare=False)
    structures: Structures | None = field(default=None, compare=False)


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
        found = pool.map(partial(_look, ignored=cohort.ignored), cohort.subjects)
        for subject, scan in zip(cohort.subjects, found, strict=True):
            facts[subject.id] = scan
            if progress is not None:
                progress(len(facts), len(cohort.subjects))
    return facts


def image_faults(volume: Volume, path: Path) -> tuple[str, ...]:
    """What is wrong with a scan's voxels."""
    image = volume.data
    low, high = (float(end) for end in image.aminmax())  # NaN where there is one
    if not (math.isfinite(low) and math.isfinite(high)):
        bad = int((~image.isfinite()).sum())
        return (
            Fault(
                f"{path}: {bad} of {image.numel()} voxels are NaN or infinite; "
                "expected finite numbers: replace them, for example by 0",
                "nan-or-inf",
            ),
        )
    if low == high:
        return (
            Fault(
                f"{path}: every voxel is {low:g}; expected an image: "
                "export the scan again or remove it",
                "constant-image",
            ),
        )
    return ()


def _look(subject: Subject, ignored: tuple[int, ...]) -> ScanFacts:
    image = _look_at(subject.image, _image_facts)
    if subject.labels is None:
        return ScanFacts(image)
    how = partial(_label_facts, ignored=ignored, may_be_empty=subject.annotated is not None)
    return ScanFacts(image, _look_at(subject.labels, how))


def _look_at(path: Path, facts_in: Callable[[bytes, Path], dict[str, Any]]) -> FileFacts:
    """Read a file once; what is found before a fault stays."""
    found: dict[str, Any] = {"digest": "", "geometry": None}
    try:
        content = read_content(path)
        found["digest"] = hashlib.sha256(content).hexdigest()
        header = decode_header(content, path)
        found["geometry"] = read_placement(header, path)
        found["stored"] = header.get_data_dtype().name
        found["forms_mm"] = forms_differ_mm(header)
        return FileFacts(**found, **facts_in(content, path))
    except BadInput as error:
        return FileFacts(**found, faults=tuple(error.faults))


def _image_facts(content: bytes, path: Path) -> dict[str, Any]:
    volume = decode_image(content, path)
    faults = image_faults(volume, path)
    return {
        "faults": faults,
        "voxels": _digest(volume),
        "appearance": None if faults else appearance_of(volume),
    }


def _label_facts(
    content: bytes, path: Path, *, ignored: tuple[int, ...], may_be_empty: bool
) -> dict[str, Any]:
    volume, dtype = decode_labels(content, path)
    values = tuple(value for value in label_values(volume.data) if value not in ignored)
    # of an empty map with declared structures the user has said that it is meant
    return {
        "faults": () if may_be_empty and not values else _value_faults(values, path),
        "values": values,
        "dtype": dtype.name,
        "voxels": _digest(volume),
        "structures": structures_of(volume, values),
    }


def _digest(volume: Volume) -> str:
    shape = repr(volume.geometry.shape).encode()
    digest = hashlib.sha256(shape)
    digest.update(volume.data.contiguous().numpy().data)
    return digest.hexdigest()


def _value_faults(values: tuple[int, ...], path: Path) -> tuple[str, ...]:
    if not values:
        return (
            Fault(
                f"{path}: no voxel is labelled (all are 0); expected at least one structure: "
                "remove the file if the scan has no segmentation; if there is nothing to label "
                f"in it, name in {FILE} what was looked for",
                "empty-labels",
            ),
        )
    if values[0] < 0:
        negative = [value for value in values if value < 0]
        shown = ", ".join(str(value) for value in negative[:3])
        return (
            Fault(
                f"{path}: negative label values ({shown}); expected 0 for background and "
                "positive values for structures: renumber them, or, where they mark voxels of "
                f"which nothing is known, train with data.ignore_value={negative[0]}",
                "negative-labels",
            ),
        )
    return ()
