"""The same scans in every layout are the same cohort, and go through all commands."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from every_layout import NAMES, WRITERS, draw
from tiny import assert_same_weights, train_tiny, write_split

from deepatlas.data.check import check_cohort
from deepatlas.data.config import DataConfig
from deepatlas.data.plan import make_plan
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


def test_a_table_with_a_split_column(flat: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(flat["table"].parent, root)
    table = root / "cohort.csv"
    header, *rows = table.read_text(encoding="utf-8-sig").splitlines()
    parts = ["train", "train", "test", "test", "val", "val"]

    def write(parts: list[str]) -> None:
        lines = [f"{row};{part}" for row, part in zip(rows, parts, strict=True)]
        table.write_text("\n".join([f"{header};split", *lines]))

    write(parts)
    with pytest.raises(BadInput, match="validation scans need labels, and sub-03_ses-b_T1w"):
        train_tiny(table, tmp_path / "run", "segmentation", SHORT)
    assert not (tmp_path / "run").exists()
    write([*parts[:4], "train", "train"])
    run = train_tiny(table, tmp_path / "run", "segmentation", SHORT)
    assert run.split["test"] == ["sub-02_ses-a_T1w", "sub-02_ses-b_T1w"]
    assert len(run.split["labelled"]) == 2
    assert evaluate(run, table, tmp_path / "scores")["segmentation"]["dice"]["n"] == 1
    write([*parts[:4], "test", "test"])
    with pytest.raises(BadInput, match=r"split\.train: .*sub-03_ses-a_T1w"):
        train_tiny(table, tmp_path / "run", "segmentation", {"training__steps": 5})
    write([*parts[:4], "train", "test"])
    with pytest.raises(BadInput, match=r"cohort\.csv: .* is of the subject sub-03, as"):
        train_tiny(table, tmp_path / "new", "segmentation", SHORT)
    with pytest.raises(BadInput, match="nowhere"):
        train_tiny(tmp_path / "nowhere.csv", tmp_path / "new", "segmentation", SHORT)


def test_the_pairs_of_learn2reg_are_scored(flat: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(flat["learn2reg"], root)
    file = root / "Tiny_dataset.json"
    content = json.loads(file.read_text())
    names = ["sub-02_ses-a_T1w", "sub-03_ses-a_T1w"]
    fixed, moving = (f"./imagesTr/{name}_0000.nii.gz" for name in names)
    content["registration_val"] = [{"fixed": fixed, "moving": moving}]
    file.write_text(json.dumps(content))
    run = train_tiny(root, tmp_path / "run", "voxelmorph", SHORT)
    assert run.split["train"] == ["sub-01_ses-a_T1w", "sub-01_ses-b_T1w"]
    assert {"sub-02_ses-a_T1w", "sub-02_ses-b_T1w"} <= set(run.split["test"])
    summary = evaluate(run, root, tmp_path / "scores")
    assert summary["registration"]["dice"]["n"] == 1
    assert "the test part" in summary["notes"][0]
    assert f"{names[1]},{names[0]}" in (tmp_path / "scores" / "pairs.csv").read_text()
