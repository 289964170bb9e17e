"""What only several scans, tables and splits show; what is told and what is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from faulty import NAMES, copied, draw, invert, mirrored, nan, plain, rewrite, save

import deepatlas
from deepatlas.cli import main
from deepatlas.data.check import check_cohort
from deepatlas.io.layouts import read_cohort


def kinds(root: Path, **options: Path) -> list[str]:
    return [finding.kind for finding in deepatlas.check(root, **options).findings]


@pytest.mark.parametrize(("count", "found"), [(2, []), (3, ["intensity-outlier"])])
def test_few_scans_give_hints(tmp_path: Path, count: int, found: list[str]) -> None:
    root = plain(tmp_path, count)
    rewrite(root / "images" / "s1.nii", invert)
    (*findings,) = deepatlas.check(root).findings
    assert [f.kind for f in findings] == found
    assert all("a hint only, among so few scans" in f.text and f.scan == "s1" for f in findings)


def test_of_two_common_kinds_none_is_the_odd_one(tmp_path: Path) -> None:
    root = plain(tmp_path, 12)
    for n in range(0, 12, 2):
        rewrite(root / "images" / f"s{n}.nii", invert)
    for n in range(1, 12, 2):
        for folder in ("images", "labels"):
            rewrite(root / folder / f"s{n}.nii", lambda data: data[::-1])
    assert kinds(root) == []


@pytest.mark.parametrize("labels", [True, False])
def test_a_flip_is_suspected_without_names_and_without_labels(tmp_path: Path, labels: bool) -> None:
    root = plain(tmp_path, 12, labels=labels)
    folders = ("images", "labels") if labels else ("images",)
    if not labels:  # only what has no counterpart on the other side can tell
        for path in (root / "images").iterdir():
            rewrite(path, lambda data: data[4:14])
    for folder in folders:
        rewrite(root / folder / "s7.nii", lambda data: data[::-1])
    (finding,) = deepatlas.check(root).findings
    assert (finding.kind, finding.files[0]) == ("flip-suspected", root / folders[-1] / "s7.nii")
    assert "likely, not certain" in finding.text


@pytest.mark.filterwarnings("error")
def test_a_map_of_another_structure_hides_no_flip(tmp_path: Path) -> None:
    plain(tmp_path, 10)
    mirrored(tmp_path / "images", tmp_path / "labels", "s3.nii")
    rewrite(tmp_path / "labels" / "s7.nii", lambda labels: (labels > 0) * np.uint8(9))
    found = deepatlas.check(tmp_path).findings
    assert [f.scan for f in found if f.kind == "flip-suspected"] == ["s3"]


def test_what_is_ignored_is_no_part_of_a_structure(root: Path) -> None:
    """A value between those of left and right, beside the left ball, moves no right one."""
    names = {"background": 0, "Left ball": 1, "ignore": 2, "Right ball": 3}
    (root / "dataset.json").write_text(json.dumps({"labels": names}))
    for path in (root / "labelsTr").iterdir():
        rewrite(path, lambda labels: np.choose(labels, [0, 1, 3, 0]).astype("u1"))
    rewrite(root / "labelsTr" / "s07.nii.gz", ignored_on_the_left)
    assert deepatlas.check(root).findings == ()


def ignored_on_the_left(labels: np.ndarray) -> np.ndarray:
    """Of the left half all background is ignored (2)."""
    labels = labels.copy()
    left = labels[:10]
    left[left == 0] = 2
    return labels


def test_names_of_the_wrong_side_in_all_scans_are_one_finding(root: Path) -> None:
    names = {**NAMES, "1": "ball_R", "2": "ball_L"}
    (root / "dataset.json").write_text(json.dumps({"labels": names}))
    (finding,) = deepatlas.check(root).findings
    assert finding.kind == "flip-suspected"
    assert finding.files == (root,)
    assert "in 50 of 50 label maps" in finding.text


def test_values_below_zero_in_one_scan_only(tmp_path: Path) -> None:
    root = plain(tmp_path, 6)
    rewrite(root / "images" / "s3.nii", lambda image: image / image.max() * 1000 - 500)
    (finding,) = deepatlas.check(root).findings
    assert (finding.kind, finding.scan) == ("intensity-outlier", "s3")
    assert "it alone has values below 0" in finding.text


def test_a_volume_among_pictures_and_a_damaged_table(tmp_path: Path) -> None:
    for n in range(4):
        picture = SimpleITK.GetImageFromArray(draw(n)[1][:, :, 9] * np.uint8(80))
        (tmp_path / "imagesTr").mkdir(exist_ok=True)
        SimpleITK.WriteImage(picture, str(tmp_path / "imagesTr" / f"s{n}.png"))
    save(tmp_path / "imagesTr" / "v.nii", draw(5)[0])
    (tmp_path / "dataset.json").write_text('{"labels": {"a": "b"}}')
    found = {(f.kind, f.files[0].name) for f in deepatlas.check(tmp_path).findings}
    assert found == {("volume-among-slices", "v.nii"), ("layout", "dataset.json")}


def test_faults_of_a_split_are_findings(root: Path, tmp_path: Path) -> None:
    split = tmp_path / "s.json"
    split.write_text(json.dumps({"train": ["s00", "lost"], "test": ["s00"]}))
    findings = deepatlas.check(root, split=split).findings
    assert [(f.kind, f.files) for f in findings] == [("split", (split,))] * 2
    assert kinds(root, split=tmp_path / "none.json") == ["split"]


def test_what_was_annotated_is_compared_with_the_label_maps(root: Path, tmp_path: Path) -> None:
    for name in ("s03", "s04"):
        rewrite(root / "labelsTr" / f"{name}.nii.gz", lambda labels: labels * (labels != 3))
    assert kinds(root) == ["missing-structure"] * 2
    said = tmp_path / "said.json"
    said.write_text(json.dumps({"s03": [1, 2], "s04": ["Left ball", 22]}))
    (finding,) = deepatlas.check(root, annotated=said).findings
    assert (finding.kind, finding.scan) == ("unlisted-structure", "s04")
    assert "holds 2 (Right ball), and" in finding.text
    assert main(["check", str(root), "--annotated", str(said)]) == 0


def test_an_ignored_value_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = plain(tmp_path, 3)
    for path in (root / "labels").iterdir():
        rewrite(path, lambda labels: np.where(labels == 3, np.int16(-7), labels))
    assert main(["check", str(root)]) == 1
    assert "data.ignore_value=-7" in capsys.readouterr().out
    assert main(["check", str(root), "--ignore-value", "-7"]) == 0
    assert deepatlas.check(root, ignore_value=-7).findings == ()


def test_a_split_that_train_refuses_is_an_error(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "labelsTr" / "s04.nii.gz").unlink()
    table = root / "t.csv"
    rows = [f"imagesTr/s0{n}.nii.gz,labelsTr/s0{n}.nii.gz,train" for n in range(3)]
    table.write_text("\n".join(["image,labels,split", *rows, "imagesTr/s04.nii.gz,,val"]))
    (finding,) = deepatlas.check(table).findings
    assert (finding.kind, finding.files) == ("split", (table,))
    assert "validation scans need labels, and s04 have none" in finding.text
    table.write_text(table.read_text().replace(",train", ",test").replace(",val", ",test"))
    assert kinds(table) == ["split"]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": ["s00"], "validation": ["s04"]}))
    assert kinds(root, split=split) == ["split"]


def test_files_of_a_table_are_shown_without_its_folder(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = root / "t.csv"
    table.write_text("image\nimagesTr/s00.nii.gz\nimagesTr/s01.nii.gz\nlost.nii")
    rewrite(root / "imagesTr" / "s01.nii.gz", nan)
    assert main(["check", str(table)]) == 1
    assert re.search(r"nan-or-inf +imagesTr/s01\.nii\.gz", capsys.readouterr().out)
    (fault,) = (f for f in deepatlas.check(table).findings if f.kind == "layout")
    assert fault.files == (table,)
    assert fault.text.startswith("line 4: there is no image ")


def test_only_the_cohorts_own_folder_is_left_out_of_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = plain(tmp_path / "data", 2)
    (root / "t.csv").write_text("image\nimages/s0.nii\n../mydata/lost.nii\n")
    monkeypatch.chdir(root)
    assert main(["check", "t.csv"]) == 1
    assert "there is no image ../mydata/lost.nii;" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert main(["check", "data/t.csv"]) == 1
    assert "there is no image ../mydata/lost.nii;" in capsys.readouterr().out


def test_copies_of_a_scan_in_two_parts(root: Path, tmp_path: Path) -> None:
    copied(root / "imagesTr", root / "labelsTr", "s09.nii.gz")
    split = tmp_path / "s.json"
    split.write_text(json.dumps({"train": ["s00", "s01"], "test": ["s09"]}))
    assert kinds(root, split=split) == ["subject-in-two-parts", "duplicate-scan"]


def test_long_lists_are_cut_unless_all_is_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "labelsTr").iterdir():
        rewrite(path, lambda labels: labels.astype("f4"))
    assert main(["check", str(root)]) == 0
    out = capsys.readouterr().out
    assert out.count("is stored as float32") == 10
    assert "and 40 more of this kind" in out
    assert main(["check", str(root), "-v"]) == 0
    assert capsys.readouterr().out.count("is stored as float32") == 50


def test_what_is_no_cohort_ends_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert main(["check", str(folder)]) == 2
        assert capsys.readouterr().err.startswith(f"deepatlas check: {folder}: ")


def test_damaged_files_are_findings_and_never_a_traceback(tmp_path: Path) -> None:
    root = plain(tmp_path, 3)
    whole = (root / "images" / "s0.nii").read_bytes()
    rng = np.random.default_rng(0)
    for n in range(120):
        content = bytearray(whole)
        if n % 3 == 0:
            content = content[: rng.integers(0, 400)]
        else:  # bytes of the header, or of qform and sform
            start, stop = ((0, 348), (252, 328))[n % 3 - 1]
            for place in rng.integers(start, stop, 12):
                content[place] = rng.integers(256)
        folder = ("images", "labels")[n % 2]
        (root / folder / f"x{n:03}.nii").write_bytes(content)
        if folder == "labels":
            save(root / "images" / f"x{n:03}.nii", draw(n)[0])
    found = deepatlas.check(root, json=tmp_path / "found.json")
    assert len({f.scan for f in found.findings if f.severity == "error"}) > 40
    assert json.loads((tmp_path / "found.json").read_text("utf-8"))["counts"] == found.counts


def test_training_says_how_many_warnings_there_are(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copied(root / "imagesTr", root / "labelsTr", "s09.nii.gz")
    check_cohort(read_cohort(root), needs_labels=True, needs_pairs=True)
    assert caplog.messages == [f"1 warning; `deepatlas check {root}` shows it"]
