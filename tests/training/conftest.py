"""Prepared scans and networks in memory, and the folder of this file on the path for `small`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepatlas.data.prepare import PreparedScan

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out


@pytest.fixture(autouse=True, scope="session")
def no_flushing() -> Iterator[None]:
    """Nothing here is about power cuts, and flushing is slow on a busy disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(params=[2, 3])
def ndim(request: pytest.FixtureRequest) -> int:
    """Slices and volumes."""
    return int(request.param)


@pytest.fixture
def scans(ndim: int) -> list[PreparedScan]:
    """Six scans of two structures, the first three labelled."""
    from small import make_scans

    return make_scans(ndim, 6, labelled=3)
