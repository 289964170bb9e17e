"""Prepared scans kept on disk by the content of their files, shared by all runs of a user."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepatlas.data.plan import Plan
from deepatlas.data.prepare import (
    Preparation,
    PreparedScan,
    annotated_classes,
    prepare_content,
)
from deepatlas.data.reference import Alignment
from deepatlas.data.survey import THREADS, Survey
from deepatlas.errors import BadInput, DeepAtlasError
from deepatlas.io.atomic import remove_leftovers, write_bytes
from deepatlas.io.images import read_content
from deepatlas.io.subject import Cohort, Subject
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine

_FORMAT = 2  # raise it whenever `prepare` gives other values for the same plan and files
_DAY_S = 86_400.0
_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """The user's folder of prepared scans, by the rules of the platform; not made here."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    if named and Path(named).is_absolute():
        base = Path(named)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path.home() / ".cache"
    return base / "deepatlas" / "prepared"


def prepare_cohort(
    cohort: Cohort,
    plan: Plan,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    facts: Survey | None = None,
) -> dict[str, PreparedScan]:
    """Prepare all scans of a cohort, or take them from the cache; the same values either way.

    Parameters
    ----------
    cache : folder of prepared scans (see `default_cache`); None for none. One that cannot be
        written to is told about once in the log and not used further.
    progress : called with the number of scans done and their total, in the caller's thread.
    facts : what `check_cohort` found; with it a cached scan's files are not read again.

    Returns
    -------
    Prepared scans by id, in the cohort's order; those of the cache are mapped from their files, so
    that a cohort may be larger than the memory.

    Raises
    ------
    BadInput : the cache lies inside the cohort's folder, or scans cannot be prepared.
    """
    store = None if cache is None else ScanCache(_outside(Path(cache), cohort.root))
    work = partial(_prepare_one, plan=plan, store=store, facts=facts or {})
    scans: dict[str, PreparedScan] = {}
    faults: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        results = pool.map(work, cohort.subjects)
        for done, (subject, result) in enumerate(zip(cohort.subjects, results, strict=True), 1):
            if isinstance(result, BadInput):
                faults += result.faults
            else:
                scans[subject.id] = result
            if progress is not None:
                progress(done, len(cohort.subjects))
    if faults:
        raise BadInput(faults)
    return scans


class ScanCache:
    """A folder of prepared scans, one safetensors file each, named by a key of their content.

    Nothing that goes wrong here is an error: a damaged file is removed and made again, and a
    folder that cannot be written to is given up with one warning.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._given_up = False
        remove_leftovers(folder, older_than_s=_DAY_S)

    def load(self, key: str, subject: Subject, plan: Plan) -> PreparedScan | None:
        """The scan of that key, or None if it is not there or damaged."""
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            return _read(path, subject, plan)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
            _log.warning("%s: damaged (%s); this prepared scan is made again", path, error)
            self._remove(path)
            return None

    def save(self, key: str, scan: PreparedScan) -> None:
        """Keep a scan under that key."""
        if self._given_up:
            return
        try:
            write_bytes(self._path(key), _packed(scan, key), durable=False)
        except (OSError, DeepAtlasError) as error:
            with self._lock:
                if not self._given_up:
                    self._given_up = True
                    _log.warning(
                        "%s: prepared scans are not kept (%s); going on without", self.folder, error
                    )

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    @staticmethod
    def _remove(path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError:
            _log.debug("%s: cannot be removed", path)


def cache_key(plan: Plan, image_digest: str, label_digest: str | None) -> str:
    """The name under which a scan prepared by `plan` from files of these digests is kept."""
    content = [_FORMAT, plan.preparing(), image_digest, label_digest]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prepare_one(
    subject: Subject, *, plan: Plan, store: ScanCache | None, facts: Survey
) -> PreparedScan | BadInput:
    """A prepared scan, from the cache or its files; what is wrong with it is returned."""
    try:
        known = facts.get(subject.id)
        if store is not None and known is not None:
            label_digest = None
            if subject.labels is not None and known.labels is not None:
                label_digest = known.labels.digest
            cached = store.load(cache_key(plan, known.image.digest, label_digest), subject, plan)
            if cached is not None:
                return cached
        return _from_files(subject, plan, store, look_first=known is None)
    except BadInput as error:
        return error


def _from_files(
    subject: Subject, plan: Plan, store: ScanCache | None, *, look_first: bool
) -> PreparedScan:
    """Prepare from the files as they are now, and keep the result under their content's key."""
    image = read_content(subject.image)
    labels = None if subject.labels is None else read_content(subject.labels)
    if store is None:
        return _spare(prepare_content(subject, plan, image, labels))
    label_digest = None if labels is None else hashlib.sha256(labels).hexdigest()
    key = cache_key(plan, hashlib.sha256(image).hexdigest(), label_digest)
    cached = store.load(key, subject, plan) if look_first else None
    if cached is not None:
        return cached
    scan = _spare(prepare_content(subject, plan, image, labels))
    store.save(key, scan)
    return store.load(key, subject, plan) or scan


def _spare(scan: PreparedScan) -> PreparedScan:
    """The same in less memory; nothing is lost, see `prepare`."""
    return replace(scan, image=scan.image.half())


def _outside(cache: Path, root: Path) -> Path:
    """The cache's folder, which never lies inside the cohort."""
    if cache.resolve().is_relative_to(root.resolve()):
        raise BadInput(
            f"{cache}: lies inside the cohort {root}, where nothing is written; "
            "choose a cache folder elsewhere (--cache DIR)"
        )
    return cache


def _packed(scan: PreparedScan, key: str) -> bytes:
    tensors = {"image": scan.image.contiguous()}
    if scan.labels is not None:
        tensors["labels"] = scan.labels.contiguous()
    native, alignment = scan.preparation.native, scan.preparation.alignment
    about = {
        "key": key,
        "checksum": _checksum(tensors),
        "shape": list(native.shape),
        "affine": native.affine.tolist(),
        "transform": scan.preparation.transform.matrix.tolist(),
        "alignment": None if alignment is None else alignment.to_json(),
    }
    return save(tensors, {"deepatlas": json.dumps(about)})


def _read(path: Path, subject: Subject, plan: Plan) -> PreparedScan:
    """A kept scan; any of several exceptions if the file is not as it was written."""
    with safe_open(path, framework="pt") as file:
        about = json.loads((file.metadata() or {})["deepatlas"])
        # mapped, not read: files here are replaced whole, never written into
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    if about["key"] != path.stem:
        raise ValueError("it holds another scan")
    if about["checksum"] != _checksum(tensors):
        raise ValueError("its checksum does not fit")
    image, labels = tensors["image"], tensors.get("labels")
    native = Geometry(tuple(about["shape"]), torch.tensor(about["affine"], dtype=torch.float64))
    matrix = torch.tensor(about["transform"], dtype=torch.float64)
    alignment = about.get("alignment")
    return PreparedScan(
        id=subject.id,
        image=image,
        labels=labels,
        present=annotated_classes(subject, plan, has_labels=labels is not None),
        preparation=Preparation(
            native, Affine(matrix), None if alignment is None else Alignment.from_json(alignment)
        ),
    )


def _checksum(tensors: dict[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].numpy().data, value)
    return value
