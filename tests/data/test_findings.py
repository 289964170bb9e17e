"""Every fault planted in a cohort is found by name, and nothing else is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import AFFINE, ELSEWHERE, PLANTED, draw, save, with_affine

import deepatlas
from deepatlas.cli import main
from deepatlas.data.findings import KINDS
from deepatlas.errors import BadInput
from deepatlas.run.check import CohortCheck

REPO = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("DEEPATLAS_DATA", REPO.parent / "shared" / "data"))


def kinds_and_files(found: CohortCheck) -> set[tuple[str, str]]:
    return {
        (finding.kind, finding.files[0].relative_to(found.cohort).as_posix())
        for finding in found.findings
    }


def test_a_clean_cohort_has_no_findings(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(root)]) == 0
    out = capsys.readouterr().out
    assert out == (
        f"{root}: 50 scans, 50 with label maps of 3 structures; 3-D, 26 x 20 x 23 voxels of "
        "1.2 x 1.5 x 1.1 mm\n0 errors, 0 warnings, 0 notes\n"
    )


def test_each_planted_fault_is_found_by_name_and_nothing_else(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = root / "imagesTr", root / "labelsTr"
    expected, words = {("rare-structure", ".")}, {}
    for n, (kind, change, file, told) in enumerate(PLANTED, 10):
        name = f"s{n:02}.nii.gz"
        change(images, labels, name)
        expected.add((kind, file.format(name, n=n)))
        words[kind, file.format(name, n=n)] = told
    with_affine(labels / "s03.nii.gz", AFFINE + 1e-8)  # noise of a header, and no finding
    for old, new in (("s04", "sub-1_ses-1"), ("s05", "sub-1_ses-2"), ("s06", "ch_0000")):
        for folder in (images, labels):
            (folder / f"{old}.nii.gz").rename(folder / f"{new}.nii.gz")
    save(images / "ch_0001.nii.gz", draw(100)[0])
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["s00", "sub-1_ses-1"], "test": ["sub-1_ses-2"]}))
    expected |= {
        ("subject-in-two-parts", "imagesTr/sub-1_ses-2.nii.gz"),
        ("several-channels", "imagesTr/ch_0001.nii.gz"),
    }

    found = deepatlas.check(root, split=split)
    left, right = kinds_and_files(found), expected
    assert (left - right, right - left) == (set(), set())
    assert {kind for kind, _ in expected} == set(KINDS) - ELSEWHERE
    for finding in found.findings:
        key = finding.kind, finding.files[0].relative_to(root).as_posix()
        assert words.get(key, "") in finding.text, finding
        assert str(finding).startswith(f"{finding.files[0]}: ")
        assert all(path.exists() for path in finding.files), finding

    out = tmp_path / "findings.json"
    assert main(["check", str(root), "--split", str(split), "--json", str(out)]) == 1
    assert json.loads(out.read_text()) == json.loads(json.dumps(found.to_json()))
    table = capsys.readouterr().out
    for kind, file in expected - {(kind, ".") for kind in KINDS}:
        assert re.search(rf"{KINDS[kind]} +{kind} +{re.escape(file)}", table), (kind, file)
    assert max(len(line) for line in table.splitlines()[1:]) <= 100
    assert table.splitlines()[-1] == ", ".join(
        f"{n} {severity}{'' if n == 1 else 's'}" for severity, n in found.counts.items()
    )
    with pytest.raises(BadInput) as caught:
        deepatlas.train(root, tmp_path / "run", split=None)
    errors = [str(f) for f in found.findings if f.severity == "error"]
    assert set(errors) - set(caught.value.faults) == {
        e for e in errors if "of the subject sub-1" in e
    }


def test_every_kind_that_the_source_names_is_in_the_table() -> None:
    source = REPO / "src" / "deepatlas"
    text = "\n".join(path.read_text(encoding="utf-8") for path in source.rglob("*.py"))
    named = set(re.findall(r'\bkind="([a-z0-9-]+)"', text))
    assert {"truncated", "several-volumes"} <= named - {"stable"} <= set(KINDS)  # NumPy's sorting


def test_hippocampus_is_clean() -> None:
    if not (REAL / "hippocampus").is_dir():
        pytest.skip(f"no folder {REAL / 'hippocampus'}; name its parent in DEEPATLAS_DATA")
    command = [sys.executable, "-m", "deepatlas", "check", str(REAL / "hippocampus")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0 errors, 0 warnings" in done.stdout


@pytest.mark.slow
def test_brain_is_clean() -> None:
    if not (REAL / "brain").is_dir():
        pytest.skip(f"no folder {REAL / 'brain'}; name its parent in DEEPATLAS_DATA")
    found = deepatlas.check(REAL / "brain").findings
    assert [finding.kind for finding in found] == ["rare-structure"]
