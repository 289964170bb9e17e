"""A cached scan equals a fresh one, and nothing that befalls the cache stops a run."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from deepatlas.data import cache as cache_module
from deepatlas.data.cache import default_cache, prepare_cohort
from deepatlas.data.check import check_cohort
from deepatlas.data.config import DataConfig
from deepatlas.data.plan import Plan, make_plan
from deepatlas.data.prepare import PreparedScan
from deepatlas.errors import BadInput
from deepatlas.io import atomic
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort

SHAPE = (9, 12, 7)


def write_scan(root: Path, name: str, seed: int, *, labelled: bool) -> None:
    random = np.random.default_rng(seed)
    affine = np.diag([1.1, 0.9, 1.7, 1])
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image = random.random(SHAPE).astype("f4")
    nib.Nifti1Image(image, affine).to_filename(root / "images" / f"{name}.nii.gz")
    if labelled:
        labels = random.integers(0, 3, SHAPE).astype("int16") * 400
        nib.Nifti1Image(labels, affine).to_filename(root / "labels" / f"{name}.nii.gz")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    for n in range(5):
        write_scan(tmp_path / "cohort", f"s{n}", n, labelled=n < 3)
    return read_cohort(tmp_path / "cohort")


@pytest.fixture
def plan(cohort: Cohort) -> Plan:
    return make_plan(cohort, DataConfig(spacing_mm=(1, 1, 1)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "prepared"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the scans that are prepared from their files."""
    ids: list[str] = []
    real = cache_module.prepare_content

    def count(subject, *rest):  # type: ignore[no-untyped-def]
        ids.append(subject.id)
        return real(subject, *rest)

    monkeypatch.setattr(cache_module, "prepare_content", count)
    return ids


def assert_same(a: dict[str, PreparedScan], b: dict[str, PreparedScan]) -> None:
    assert list(a) == list(b)
    for first, second in zip(a.values(), b.values(), strict=True):
        assert first.id == second.id
        assert first.image.dtype == second.image.dtype == torch.float16
        assert torch.equal(first.image, second.image)
        assert (first.labels is None) == (second.labels is None)
        if first.labels is not None and second.labels is not None:
            assert first.labels.dtype == second.labels.dtype
            assert torch.equal(first.labels, second.labels)
        assert torch.equal(first.present, second.present)
        assert first.preparation.native.shape == second.preparation.native.shape
        assert torch.equal(first.preparation.native.affine, second.preparation.native.affine)
        assert torch.equal(first.preparation.transform.matrix, second.preparation.transform.matrix)


def test_the_cache_changes_nothing(
    cohort: Cohort, plan: Plan, folder: Path, counted: list[str]
) -> None:
    calls: list[tuple[int, int]] = []
    without = prepare_cohort(cohort, plan, progress=lambda *both: calls.append(both))
    assert calls == [(n, 5) for n in range(1, 6)]
    assert list(without) == ["s0", "s1", "s2", "s3", "s4"]
    cold = prepare_cohort(cohort, plan, folder)
    assert len(counted) == 10
    assert len(list(folder.iterdir())) == 5
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    for warm in (
        prepare_cohort(cohort, plan, folder),
        prepare_cohort(cohort, plan, folder, facts=facts),
    ):
        assert_same(without, cold)
        assert_same(without, warm)
    assert len(counted) == 10


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="tells maps on Linux only")
def test_scans_of_the_cache_are_mapped_from_their_files(
    cohort: Cohort, plan: Plan, folder: Path
) -> None:
    for _ in range(2):  # made, and found
        scans = prepare_cohort(cohort, plan, folder)
        mapped = Path("/proc/self/maps").read_text()
        files = list(folder.iterdir())
        assert len(files) == 5
        assert all(str(path) in mapped for path in files)
    without = prepare_cohort(cohort, plan)
    for path in files:
        path.unlink()  # as by who empties the cache meanwhile
    assert_same(scans, without)


def test_files_are_not_read_again_where_their_digest_is_known(
    cohort: Cohort, plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    cold = prepare_cohort(cohort, plan, folder, facts=facts)
    monkeypatch.setattr(cache_module, "read_content", lambda path: pytest.fail(f"read {path}"))
    assert_same(cold, prepare_cohort(cohort, plan, folder, facts=facts))


def test_content_is_the_key(
    cohort: Cohort, plan: Plan, folder: Path, counted: list[str], tmp_path: Path
) -> None:
    prepare_cohort(cohort, plan, folder)
    counted.clear()
    (cohort.root / "images" / "s3.nii.gz").rename(cohort.root / "images" / "t.nii.gz")
    assert list(prepare_cohort(read_cohort(cohort.root), plan, folder)) == [
        "s0", "s1", "s2", "s4", "t",
    ]  # fmt: skip
    assert counted == []
    write_scan(cohort.root, "s0", 77, labelled=False)
    (cohort.root / "labels" / "s1.nii.gz").unlink()
    prepare_cohort(read_cohort(cohort.root), plan, folder)
    assert sorted(counted) == ["s0", "s1"]
    counted.clear()
    prepare_cohort(read_cohort(cohort.root), replace(plan, percentiles=(1, 99)), folder)
    assert len(counted) == 5
    counted.clear()
    prepare_cohort(read_cohort(cohort.root), replace(plan, notes=("a",)), folder)
    assert counted == []


def test_a_file_that_changed_since_the_check_is_not_kept_under_its_old_content(
    cohort: Cohort, plan: Plan, folder: Path
) -> None:
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    old = (cohort.root / "images" / "s4.nii.gz").read_bytes()
    write_scan(cohort.root, "s4", 99, labelled=False)
    new = prepare_cohort(cohort, plan, folder, facts=facts)["s4"].image
    (cohort.root / "images" / "s4.nii.gz").write_bytes(old)
    assert not torch.equal(prepare_cohort(cohort, plan, folder, facts=facts)["s4"].image, new)


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "empty": lambda p: p.write_bytes(b""),
    "nonsense": lambda p: p.write_bytes(b"nonsense" * 20),
    "one bit": flip_last_byte,
    "another scan's": lambda p: p.write_bytes(max(p.parent.iterdir()).read_bytes()),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_made_again(
    cohort: Cohort,
    plan: Plan,
    folder: Path,
    counted: list[str],
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    fresh = prepare_cohort(cohort, plan)
    prepare_cohort(cohort, plan, folder)  # not held on to: it is mapped from what is damaged next
    counted.clear()
    path = min(folder.iterdir())
    content = path.read_bytes()
    DAMAGE[kind](path)
    assert_same(fresh, prepare_cohort(cohort, plan, folder))
    assert len(counted) == 1
    assert str(path) in caplog.text
    assert path.read_bytes() == content
    assert len(list(folder.iterdir())) == 5


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_right(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("fault", [no_room, no_right])
def test_a_folder_that_cannot_be_written_is_told_about_once(
    cohort: Cohort,
    plan: Plan,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Callable[..., None],
) -> None:
    without = prepare_cohort(cohort, plan)
    monkeypatch.setattr(atomic.os, "replace", fault)
    with caplog.at_level(logging.WARNING):
        assert_same(without, prepare_cohort(cohort, plan, folder))
    told = [record for record in caplog.records if "going on without" in record.getMessage()]
    assert len(told) == 1
    assert str(folder) in told[0].getMessage()
    assert not list(folder.iterdir())


def test_a_cache_that_is_a_file_does_not_stop_a_run(
    cohort: Cohort, plan: Plan, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    assert_same(prepare_cohort(cohort, plan), prepare_cohort(cohort, plan, folder))
    assert caplog.text.count("going on without") == 1


def test_the_cache_never_lies_inside_the_cohort(cohort: Cohort, plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(cohort.root)
    for inside in (cohort.root, cohort.root / "cache", tmp_path / "link" / "deep" / "cache"):
        with pytest.raises(BadInput, match="inside the cohort"):
            prepare_cohort(cohort, plan, inside)
    assert sorted(p.name for p in cohort.root.iterdir()) == ["images", "labels"]


def test_all_faults_are_told(cohort: Cohort, plan: Plan, folder: Path) -> None:
    for name in ("s1", "s4"):
        (cohort.root / "images" / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(BadInput) as caught:
        prepare_cohort(cohort, plan, folder)
    assert len(caught.value.faults) == 2


def test_the_cohort_is_left_as_it_was(cohort: Cohort, plan: Plan, folder: Path) -> None:
    before = {p: p.read_bytes() for p in cohort.root.rglob("*") if p.is_file()}
    prepare_cohort(cohort, plan, folder)
    assert {p: p.read_bytes() for p in cohort.root.rglob("*") if p.is_file()} == before


def test_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "deepatlas" / "prepared"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(cache_module.sys, "platform", "linux")
    assert default_cache() == tmp_path / ".cache" / "deepatlas" / "prepared"
    monkeypatch.setattr(cache_module.sys, "platform", "darwin")
    assert default_cache() == tmp_path / "Library" / "Caches" / "deepatlas" / "prepared"
    assert not list(tmp_path.iterdir())
