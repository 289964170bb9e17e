"""The same scans in every layout are the same cohort, and go through all commands."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from every_layout import NAMES, WRITERS, draw
from tiny import assert_same_weights, train_tiny, write_split

from deepatlas.data.check import check_cohort
from deepatlas.data.plan import DataConfig, make_plan
from deepatlas.errors import BadInput
from deepatlas.inference.scoring import evaluate
from deepatlas.inference.segment import segment
from deepatlas.io.layouts import LAYOUTS, read_cohort
from deepatlas.run.changes import content_of
from deepatlas.run.folder import RunFolder as Run

NAMELESS = {"plain", "table"}
SHORT = {"training__steps": 4}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The cohort in every layout."""
    root, scans = tmp_path_factory.mktemp("layouts"), draw(3)
    return {name: write(root / name, scans) for name, write in WRITERS.items()}


def test_every_layout_is_written_here() -> None:
    assert set(WRITERS) - {"nnunet"} == set(LAYOUTS)


def test_same_scans_same_cohort_and_plan(written: dict[str, Path]) -> None:
    found = {}
    for name, path in written.items():
        cohort = read_cohort(path)
        assert (cohort.faults, cohort.split, cohort.pairs) == ((), None, ()), name
        assert cohort.label_names == ({} if name in NAMELESS else NAMES), name
        facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
        plan = make_plan(cohort, DataConfig(), facts)
        who = [(s.id, s.person, s.session) for s in cohort.subjects]
        found[name] = (who, content_of(cohort, facts), dataclasses.replace(plan, label_names={}))
    assert found["plain"][0][0] == ("sub-01_ses-a_T1w", "sub-01", "ses-a")
    assert len(found["plain"][1]["label_content"]) == 3
    for name, facts in found.items():
        assert facts == found["plain"], name


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Slices in every layout."""
    root, scans = tmp_path_factory.mktemp("flat"), draw(2)
    return {name: write(root / name, scans) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(
        tmp_path_factory.mktemp("split") / "split.json",
        train=["sub-01_ses-a_T1w", "sub-01_ses-b_T1w"],
        test=["sub-02_ses-a_T1w", "sub-03_ses-a_T1w"],
    )


@pytest.fixture(scope="module")
def expected(flat: dict[str, Path], split: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What training on the plain folder gives."""
    out = tmp_path_factory.mktemp("expected") / "run"
    return train_tiny(flat["plain"], out, "segmentation", SHORT, split=split)


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_train_resume_segment_and_evaluate(
    layout: str,
    flat: dict[str, Path],
    split: Path,
    expected: Run,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "deepatlas")
    run = train_tiny(flat[layout], tmp_path / "run", "segmentation", SHORT, split=split)
    assert run.split["cohort"] == str(flat[layout].resolve())
    assert_same_weights(run, expected)
    train_tiny(flat[layout], tmp_path / "run", "segmentation", {"training__steps": 5}, split=split)
    assert "resumed at step 4" in caplog.text
    summary = evaluate(run, flat[layout], tmp_path / "scores")
    assert summary["segmentation"]["dice"]["n"] == 2
    assert summary["cohort"] == str(flat[layout].resolve())
    scan = read_cohort(flat[layout]).subjects[0]
    image = Path(shutil.copy(scan.image, tmp_path / scan.labels.name))
    if layout != "learn2reg":  # there the label map's name ends in _0000, and no result's does
        with pytest.raises(BadInput, match="a manual label map would be overwritten"):
            segment(run, [image], out=scan.labels.parent)
