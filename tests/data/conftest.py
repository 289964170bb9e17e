"""A clean cohort of drawn scans for the tests of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "io")]  # pytest's importlib mode leaves them out


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clean Decathlon cohort of 50 scans, all of them labelled."""
    from faulty import decathlon

    return decathlon(tmp_path / "cohort")
