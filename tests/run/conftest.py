"""A tiny cohort, and the folder of this file on the path for `tiny`."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepatlas.run.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out


@pytest.fixture(autouse=True, scope="session")
def no_flushing() -> Iterator[None]:
    """Nothing here is about power cuts, and flushing is slow on a busy disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight slices, five of them labelled; not to be changed."""
    from tiny import write_cohort

    return write_cohort(tmp_path_factory.mktemp("cohort") / "cohort")


@pytest.fixture
def own_cohort(cohort: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(cohort, tmp_path / "cohort"))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five scans train, two validate, one tests."""
    from tiny import TRAIN, write_split

    path = tmp_path_factory.mktemp("split") / "split.json"
    return write_split(path, train=TRAIN, validation=["s03", "s04"], test=["s07"])


@pytest.fixture(scope="module")
def baseline(cohort: Path, split: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with both networks."""
    from tiny import train_tiny

    return train_tiny(cohort, tmp_path_factory.mktemp("first") / "run", "baseline", split=split)


@pytest.fixture(autouse=True)
def hear(caplog: pytest.LogCaptureFixture) -> None:
    """What is said at the level of information counts, too."""
    caplog.set_level(logging.INFO, logger="deepatlas")
