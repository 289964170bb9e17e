"""`segment --bids`: a derivative that our own reader and, where it is installed, BIDS' takes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from test_session import PLANS, VALUES, importable, make_run, oblique, write_scan

from deepatlas.errors import BadInput
from deepatlas.inference.segment import segment
from deepatlas.io.images import read_labels
from deepatlas.io.layouts import read_cohort
from deepatlas.run.folder import RunFolder

__all__ = ["importable"]  # fixture
PLAN = dataclasses.replace(PLANS[3], label_names={3: "Left part"})
SCANS = ["sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w", "sub-02/anat/sub-02_acq-x_T1w"]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A raw dataset of two scans, one of them with a session."""
    root = tmp_path / "raw"
    for scan in SCANS:
        write_scan(root / f"{scan}.nii.gz", oblique(3))
    facts = {"Name": "Raw", "BIDSVersion": "1.10.0", "License": "CC0", "Authors": ["A", "B"]}
    (root / "dataset_description.json").write_text(json.dumps(facts))
    (root / "README").write_text("Two drawn scans.\n")
    return root


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return make_run(tmp_path / "run", PLAN)


def images(raw: Path) -> list[Path]:
    return [raw / f"{scan}.nii.gz" for scan in SCANS]


def test_what_is_written(run: RunFolder, raw: Path) -> None:
    out = raw / "derivatives" / "deepatlas"
    written = segment(run, images(raw), out=out, bids=True)
    maps = ["sub-01/ses-a/anat/sub-01_ses-a_run-1_dseg", "sub-02/anat/sub-02_acq-x_dseg"]
    assert written == [out / f"{name}.nii.gz" for name in maps]
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    sides = {f"{name}.{ending}" for name in maps for ending in ("nii.gz", "json")}
    assert files == {"dataset_description.json", "dseg.tsv", *sides}
    assert (out / "dseg.tsv").read_text() == "index\tname\n3\tLeft part\n700\tlabel 700\n"
    facts = json.loads((out / "dataset_description.json").read_text())
    assert facts["DatasetType"] == "derivative"
    assert facts["GeneratedBy"][0].keys() == {"Name", "Version"}
    assert facts["DatasetLinks"] == {"source": "../.."}
    beside = json.loads((out / f"{maps[0]}.json").read_text())
    assert beside["Sources"] == [f"bids:source:{SCANS[0]}.nii.gz"]
    labels, _ = read_labels(written[0])
    assert labels.geometry.same_as(oblique(3))
    assert set(labels.data.unique().tolist()) == {0, *VALUES}


def test_our_own_reader_takes_it_as_labels_only_once_it_is_no_prediction(
    run: RunFolder, raw: Path
) -> None:
    written = segment(run, images(raw), out=raw / "derivatives" / "x", bids=True)
    cohort = read_cohort(raw)
    assert cohort.labelled == ()
    assert "segmentations that were predicted by deepatlas are left out: 2" in cohort.notes
    facts = raw / "derivatives" / "x" / "dataset_description.json"
    facts.write_text(facts.read_text().replace('"Name": "deepatlas"', '"Name": "A person"'))
    cohort = read_cohort(raw)
    assert [subject.labels for subject in cohort.subjects] == written
    assert cohort.label_names == {3: "Left part", 700: "label 700"}
    assert (cohort.faults, cohort.notes) == ((), ())


@pytest.mark.skipif(shutil.which("bids-validator-deno") is None, reason="bids-validator-deno")
def test_the_validator_of_bids_finds_no_error(run: RunFolder, raw: Path, tmp_path: Path) -> None:
    segment(run, images(raw), out=tmp_path / "out", bids=True)
    command = ["bids-validator-deno", "--format", "json", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    issues = json.loads(result.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []
    assert result.returncode == 0


def test_more_scans_come_into_the_same_derivative(run: RunFolder, raw: Path) -> None:
    out = raw.parent / "out"
    for image in images(raw):
        segment(run, [image], out=out, bids=True)
    assert len(list(out.rglob("*_dseg.nii.gz"))) == 2
    assert json.loads((out / "dataset_description.json").read_text())["DatasetLinks"] == {
        "source": raw.resolve().as_uri()
    }


@pytest.mark.parametrize("inside", [True, False])
def test_scans_of_datalad_are_links(inside: bool, run: RunFolder, raw: Path) -> None:
    for number, image in enumerate(images(raw)):
        content = raw / ".git" / "annex" / "objects" / "X" / f"MD5E-{number}.nii.gz"
        content.parent.mkdir(parents=True, exist_ok=True)
        image.rename(content)
        image.symlink_to(content)
    out = raw / "derivatives" / "deepatlas" if inside else raw.parent / "out"
    written = segment(run, images(raw), out=out, bids=True)
    beside = json.loads(Path(str(written[0]).replace(".nii.gz", ".json")).read_text())
    assert beside["SpatialReference"] == f"bids:source:{SCANS[0]}.nii.gz"
    facts = json.loads((out / "dataset_description.json").read_text())
    assert facts["DatasetLinks"] == {"source": "../.." if inside else raw.as_uri()}


def test_the_segmentation_of_another_scan_is_not_replaced(run: RunFolder, raw: Path) -> None:
    other = raw / "sub-02" / "anat" / "sub-02_acq-x_T2w.nii.gz"
    write_scan(other, oblique(3))
    out = raw / "derivatives" / "deepatlas"
    for _ in range(2):  # of the same scan it is
        segment(run, images(raw), out=out, bids=True)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match=r"another scan, bids:source:sub-02.*_T1w\.nii\.gz; give"):
        segment(run, [other], out=out, bids=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("scan.nii.gz", r"scan\.nii\.gz: is no BIDS name; --bids expects sub-LABEL"),
        ("ses-1_sub-01_T1w.nii.gz", "is no BIDS name"),
        ("sub-01.nii.gz", "is no BIDS name"),
        ("sub-01_run-1_run-2_T1w.nii.gz", "is no BIDS name"),
        ("sub-0 1_T1w.nii.gz", "is no BIDS name"),
        ("sub-01_inv-1_MP2RAGE.nii.gz", "inv-1 is nothing that a BIDS segmentation is named by"),
        ("sub-01_foo-1_T1w.nii.gz", "foo-1 is nothing"),
    ],
)
def test_a_name_that_is_none_of_bids(name: str, says: str, run: RunFolder, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / name, oblique(3))
    with pytest.raises(BadInput, match=says):
        segment(run, [tmp_path / "in" / name], out=tmp_path / "out", bids=True)
    assert not (tmp_path / "out").exists()


def test_entities_come_in_the_order_of_the_standard(run: RunFolder, tmp_path: Path) -> None:
    image = tmp_path / "in" / "sub-01_desc-x_run-2_acq-y_ses-z_T2w.mha"
    write_scan(tmp_path / "in" / "scan.nii.gz", oblique(3))
    import SimpleITK as sitk  # noqa: N813

    sitk.WriteImage(sitk.ReadImage(tmp_path / "in" / "scan.nii.gz"), image)
    (target,) = segment(run, [image], out=tmp_path / "out", bids=True)
    inside = "sub-01/ses-z/anat/sub-01_ses-z_acq-y_run-2_desc-x_dseg.nii.gz"
    assert target == tmp_path / "out" / inside
    assert "Sources" not in json.loads(
        target.with_name(target.name.replace(".nii.gz", ".json")).read_text()
    )


def test_two_scans_of_one_segmentation_name(run: RunFolder, tmp_path: Path) -> None:
    paths = [tmp_path / f"sub-01_{suffix}.nii.gz" for suffix in ("T1w", "T2w")]
    for path in paths:
        write_scan(path, oblique(3))
    with pytest.raises(BadInput, match=r"T1w.*T2w.*would all be written to sub-01_dseg\.nii\.gz"):
        segment(run, paths, out=tmp_path / "out", bids=True)


def test_another_dataset_is_left_alone(run: RunFolder, raw: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()}
    with pytest.raises(BadInput, match="segmentations have a folder of their own"):
        segment(run, images(raw), out=raw, bids=True)
    assert {path: path.read_bytes() for path in raw.rglob("*") if path.is_file()} == before
    elsewhere = write_scan(tmp_path / "in" / "sub-09_T1w.nii.gz", oblique(3))
    assert elsewhere
    with pytest.raises(BadInput, match="none that deepatlas made of these scans"):
        segment(run, [tmp_path / "in" / "sub-09_T1w.nii.gz"], out=raw, bids=True)
    out = tmp_path / "out"
    segment(run, images(raw), out=out, bids=True)
    renamed = dataclasses.replace(PLAN, label_names={3: "Right part"})
    with pytest.raises(BadInput, match=r"dseg\.tsv: other structures are segmented there"):
        segment(make_run(tmp_path / "other", renamed), images(raw), out=out, bids=True)
    assert "Left part" in (out / "dseg.tsv").read_text()
    facts = out / "dataset_description.json"
    for content in ["{", "[]", facts.read_text().replace('"Name": "deepatlas"', '"Name": "x"')]:
        facts.write_text(content)
        with pytest.raises(BadInput, match="none that deepatlas made of these scans"):
            segment(run, images(raw), out=out, bids=True)
        assert facts.read_text() == content
