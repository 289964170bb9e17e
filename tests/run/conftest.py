"""A tiny cohort, and the folder of this file on the path for `tiny`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

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
