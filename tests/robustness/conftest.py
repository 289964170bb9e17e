"""Trainings in processes of their own, and the folders of `tiny` and `forked` on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "run")]  # pytest's importlib mode leaves them out


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight slices, five of them labelled; not to be changed."""
    from tiny import write_cohort

    return write_cohort(tmp_path_factory.mktemp("cohort") / "cohort")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Starts trainings in processes of their own."""
    from forked import Server

    with Server(tmp_path_factory.mktemp("outputs")) as running:
        yield running
