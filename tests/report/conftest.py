"""Runs with and without evaluation, and the folder of this file on the path for `drawn_run`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepatlas.run.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run without evaluation."""
    from drawn_run import write_run

    return write_run(tmp_path / "run & a")


@pytest.fixture
def evaluated(run: RunFolder) -> RunFolder:
    """The run with one evaluation beside it."""
    from drawn_run import link_evaluation

    link_evaluation(run)
    return run
