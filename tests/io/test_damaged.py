"""Damaged files of every kind that is read: something sensible, or a sentence that names the file.

Never a traceback, never more memory than the file can hold, and never half a result.
"""

from __future__ import annotations

import resource
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from damaged_files import KINDS, Kind, all_kinds_are_here

from deepatlas.errors import BadInput
from deepatlas.io.images import read_image
from deepatlas.io.layouts import read_cohort
from deepatlas.io.transforms import read_transform

ROOM = 1 << 30  # bytes that reading may take; sizes in a damaged header reach much further
PATIENCE_S = 20.0
every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Where the system tells how much is in use, no more than `ROOM` beyond it."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


class Sample:
    """A file of a kind, and what happens when it is damaged."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.kind, self.path = kind, folder / kind.name
        kind.make(self.path)
        self.target = self.path / kind.damage if kind.damage else self.path
        self.whole = self.target.read_bytes()
        for read in kind.reads:
            read(self.path)

    def places(self, every: int = 1, beyond: int = 25) -> list[int]:
        """Bytes of the header, and some of the rest."""
        end = min(self.kind.header, len(self.whole))
        step = max(1, (len(self.whole) - end) // beyond)
        return [*range(0, end, every), *range(end, len(self.whole), step)]

    def read(self, content: bytes) -> None:
        self.target.write_bytes(content)
        for read in self.kind.reads:
            start = time.monotonic()
            try:
                read(self.path)
                said = str(self.path)
            except BadInput as error:
                said = str(error)
            assert str(self.path) in said
            assert time.monotonic() - start < PATIENCE_S

    def changed(self, place: int, value: int) -> bytes:
        return self.whole[:place] + bytes([value]) + self.whole[place + 1 :]


def test_contract_every_kind_of_file_is_tried() -> None:
    assert all_kinds_are_here()


@every
def test_truncated_at_every_byte_of_the_header(kind: Kind, tmp_path: Path) -> None:
    sample = Sample(kind, tmp_path / "s")
    for place in sample.places():
        sample.read(sample.whole[:place])


@every
def test_changed_and_random_bytes(kind: Kind, tmp_path: Path) -> None:
    sample, random = Sample(kind, tmp_path / "s"), np.random.default_rng(0)
    for place in sample.places(every=5):
        sample.read(sample.changed(place, int(random.choice([0, 127, 128, 255]))))
    for size in random.integers(0, 600, 15):
        sample.read(random.bytes(int(size)))


@pytest.mark.slow
@every
def test_every_byte_of_the_header_changed(kind: Kind, tmp_path: Path) -> None:
    sample = Sample(kind, tmp_path / "s")
    for place in sample.places(beyond=200):
        for value in {0, 127, 128, sample.whole[place] ^ 255, sample.whole[place] ^ 1}:
            sample.read(sample.changed(place, value))


@pytest.mark.parametrize("kind", [k for k in KINDS if k.apply], ids=lambda kind: kind.name)
def test_no_half_results(kind: Kind, tmp_path: Path) -> None:
    """A verb writes all, or leaves no file behind."""
    assert kind.apply is not None
    sample, random = Sample(kind, tmp_path / "s"), np.random.default_rng(1)
    kind.apply(sample.path, tmp_path / "whole")
    results = {path.name for path in (tmp_path / "whole").iterdir()}
    for n in range(12):
        place, out = int(random.integers(len(sample.whole))), tmp_path / f"out{n}"
        content = sample.whole[:place] if n % 2 else sample.changed(place, 255)
        sample.target.write_bytes(content)
        try:
            kind.apply(sample.path, out)
        except BadInput:
            assert not out.exists() or not any(out.iterdir())
        else:
            assert {path.name for path in out.iterdir()} == results


@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("a.nii", 108, struct.pack("<f", np.nan)),  # where the voxels begin
        ("a.nii", 108, struct.pack("<f", np.inf)),
        ("t.nii", 108, struct.pack("<f", -400)),
        ("a.mgh", 30, struct.pack(">3f", *[1e-41] * 3)),  # the size of a voxel
    ],
)
def test_numbers_that_were_once_a_traceback(
    name: str, at: int, value: bytes, tmp_path: Path
) -> None:
    sample = Sample(next(kind for kind in KINDS if kind.name == name), tmp_path / "s")
    sample.read(sample.whole[:at] + value + sample.whole[at + len(value) :])


def test_a_dataset_json_without_an_end(tmp_path: Path) -> None:
    sample = Sample(next(kind for kind in KINDS if kind.name == "dataset.json"), tmp_path / "s")
    sample.target.write_text("[" * 200_000)
    (fault,) = read_cohort(tmp_path / "s").faults
    assert fault.startswith(f"{sample.target}: not readable")


@pytest.mark.parametrize(
    ("name", "at", "dims"),
    [
        ("a.nii", 42, struct.pack("<3h", *[30000] * 3)),
        ("a.mgh", 4, struct.pack(">3i", *[30000] * 3)),
    ],
)
def test_sizes_are_not_believed(name: str, at: int, dims: bytes, tmp_path: Path) -> None:
    sample = Sample(next(kind for kind in KINDS if kind.name == name), tmp_path / "s")
    sample.target.write_bytes(sample.whole[:at] + dims + sample.whole[at + len(dims) :])
    with pytest.raises(BadInput, match=r"truncated: \d+ of 54000000000000 bytes"):
        read_image(sample.path)


def test_numbers_of_a_transform_that_are_not_there(tmp_path: Path) -> None:
    """HDF5 gives zeros for parts that were never written, as many as are claimed."""
    sample = Sample(next(kind for kind in KINDS if kind.name == "t.h5"), tmp_path / "s")
    with h5py.File(sample.path, "r+") as file:
        group = file["TransformGroup/1"]
        del group["TransformParameters"]
        group.create_dataset("TransformParameters", (3 * 10**9,), "f4", chunks=(1 << 18,))
    with pytest.raises(BadInput, match="claims 30000000"):
        read_transform(sample.path)
