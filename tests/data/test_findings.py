"""Every fault planted in a cohort is found by name, and nothing else is."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))

from dicom_files import write_series

import deepatlas
from deepatlas.cli import main
from deepatlas.data.check import check_cohort
from deepatlas.data.findings import KINDS
from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.run.check import CohortCheck

REPO = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("DEEPATLAS_DATA", REPO.parent / "shared" / "data"))
SHAPE = (26, 20, 23)
AFFINE = np.array([[1.2, 0, 0, -30.0], [0, 1.5, 0, 12], [0, 0, 1.1, 40], [0, 0, 0, 1]])
NAMES = {"0": "background", "1": "Left ball", "2": "Right ball", "3": "Stem"}
BALLS = {1: ((6, 9, 12), 4.0), 2: ((18, 11, 12), 4.5), 3: ((12, 9, 5), 3.5)}
GREYS = {1: 900.0, 2: 650.0, 3: 300.0}

Change = Callable[[Path, Path, str], object]  # images, labels, name


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan of three balls, of which no two are alike, and its label map."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    image, labels = np.full(SHAPE, 120.0), np.zeros(SHAPE, "u1")
    for value, (centre, radius) in BALLS.items():
        middle = np.array(centre) + rng.normal(0, 0.5, 3)
        inside = np.linalg.norm(at - middle, axis=-1) < radius + rng.normal(0, 0.3)
        labels[inside], image[inside] = value, GREYS[value]
    gain = rng.uniform(0.5, 50)
    return ((image + rng.normal(0, 20, SHAPE)).clip(1) * gain).astype("f4"), labels


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine, dtype=data.dtype).to_filename(path)
    return path


def data_of(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path, mmap=False).dataobj)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    save(path, change(data_of(path)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A clean Decathlon cohort of 50 scans, all of them labelled."""
    folder = tmp_path / "cohort"
    for n in range(50):
        image, labels = draw(n)
        save(folder / "imagesTr" / f"s{n:02}.nii.gz", image)
        save(folder / "labelsTr" / f"s{n:02}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps({"labels": NAMES}))
    return folder


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


def invert(image: np.ndarray) -> np.ndarray:
    return image.max() + 1 - image


def nan(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[3, 4, 5] = np.nan
    return image


def resampled(labels: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
    """As interpolated linearly, which a label map should not be."""
    image = SimpleITK.GetImageFromArray(labels.astype("f4"))
    moved = SimpleITK.Resample(image, SimpleITK.TranslationTransform(3, shift))
    return SimpleITK.GetArrayFromImage(moved)


def soft(labels: np.ndarray) -> np.ndarray:
    """A mask from 0 to 255 with soft edges."""
    return np.rint(resampled(255.0 * (labels > 0), (0.3, 0.4, 0.2))).astype("u1")


def with_affine(path: Path, affine: np.ndarray, qform: np.ndarray | None = None) -> None:
    image = nib.Nifti1Image(data_of(path), None)
    image.set_sform(affine, 1)
    image.set_qform(affine if qform is None else qform, 1)
    image.to_filename(path)


def damaged_qform(images: Path, labels: Path, name: str) -> None:
    content = bytearray(gzip.decompress((images / name).read_bytes()))
    content[252:254] = (1).to_bytes(2, "little")  # qform_code
    content[256:268] = np.array([1.5, 0.7, 0], "<f4").tobytes()  # no rotation
    (images / name).write_bytes(gzip.compress(bytes(content)))


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] += mm
    return affine


def lacking_a_slice(images: Path, labels: Path, name: str) -> None:
    """A DICOM series in place of the scan."""
    folder = images / name.removesuffix(".nii.gz")
    scan = data_of(images / name)
    write_series(folder, (scan / scan.max() * 4000).astype("u2"), AFFINE)
    (images / name).unlink()
    (folder / "im007.dcm").unlink()


def turned(images: Path, labels: Path, name: str) -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for folder in (images, labels):
        with_affine(folder / name, turn @ AFFINE)


def stored_otherwise(images: Path, labels: Path, name: str) -> None:
    """The same scan with its first axis to the left."""
    affine = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for folder in (images, labels):
        save(folder / name, data_of(folder / name)[::-1], affine)


def coarse(images: Path, labels: Path, name: str) -> None:
    for folder in (images, labels):
        save(folder / name, data_of(folder / name), AFFINE @ np.diag([1, 1, 2, 1]))


def mirrored(images: Path, labels: Path, name: str) -> None:
    for folder in (images, labels):
        rewrite(folder / name, lambda data: data[::-1])


def copied(images: Path, labels: Path, name: str) -> None:
    """Other compression, type and description; the same scan."""
    source = nib.load(images / "s01.nii.gz")
    copy = nib.Nifti1Image(data_of(images / "s01.nii.gz").astype("f8"), source.affine)
    copy.header["descrip"] = b"copied"
    (images / name).write_bytes(gzip.compress(copy.to_bytes(), 1))
    (labels / name).unlink()


def one_slice(images: Path, labels: Path, name: str) -> None:
    rewrite(images / name, lambda data: data[:, :, 12:13])
    (labels / name).unlink()


def one_slice_across_x(images: Path, labels: Path, name: str) -> None:
    rewrite(images / name, lambda data: data[9:10])
    (labels / name).unlink()


def unnamed(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[:2, :2, :2] = 9
    return labels


def renamed(new: str) -> Change:
    return lambda images, labels, name: (labels / name).rename(labels / new.format(n=name[1:3]))


def no_place(images: Path, labels: Path, name: str) -> None:
    image = nib.Nifti1Image(data_of(images / name), None)
    image.header["sform_code"] = 1
    image.header["srow_x"] = 0
    image.to_filename(images / name)


def colours(images: Path, labels: Path, name: str) -> None:
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(images / name, np.zeros(SHAPE, dtype))


def on_image(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda images, labels, name: rewrite(images / name, change)


def on_labels(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda images, labels, name: rewrite(labels / name, change)


def cut(images: Path, labels: Path, name: str) -> None:
    path = images / name
    path.write_bytes(path.read_bytes()[:-300])


# kind, what is done to a scan, the file that is told, and words that are told with it
PLANTED: list[tuple[str, Change, str, str]] = [
    ("unreadable", lambda i, _, n: (i / n).write_bytes(b"no scan " * 99), "imagesTr/{}", "export"),
    ("truncated", cut, "imagesTr/{}", "truncated gzip"),
    ("truncated", lambda _, m, n: (m / n).write_bytes(b""), "labelsTr/{}", "is empty"),
    ("several-volumes", on_image(lambda a: np.stack([a, a], -1)), "imagesTr/{}", "one volume"),
    ("not-grey", colours, "imagesTr/{}", "grey"),
    ("no-place", no_place, "imagesTr/{}", "mend the header"),
    ("nan-or-inf", on_image(nan), "imagesTr/{}", "1 of 11960"),
    ("nan-or-inf", on_labels(lambda a: nan(a.astype("f4"))), "labelsTr/{}", "NaN"),
    ("constant-image", on_image(lambda a: np.full_like(a, 3)), "imagesTr/{}", "every voxel is 3"),
    ("single-slice", one_slice, "imagesTr/{}", "is 2-D, most scans are 3-D"),
    ("single-slice", one_slice_across_x, "imagesTr/{}", "is 2-D, most scans are 3-D"),
    ("uneven-slices", lacking_a_slice, "imagesTr/s{n}", "1 missing between them"),
    ("label-without-image", renamed("S{n}.nii.gz"), "labelsTr/S{n}.nii.gz", "nearly its name"),
    ("label-without-image", renamed("s_{n}_seg.nii.gz"), "labelsTr/s_{n}_seg.nii.gz", "one name"),
    ("label-without-image", renamed("t9{n}.nii.gz"), "labelsTr/t9{n}.nii.gz", "or remove"),
    ("second-file", lambda i, _, n: save(i / n[:-3], draw(99)[0]), "imagesTr/{}", "second image"),
    ("not-a-scan", lambda i, _, n: (i / f"{n}.xyz").write_text("?"), "imagesTr/{}.xyz", "convert"),
    ("fractional-labels", on_labels(lambda a: resampled(a, (0.5, 0, 0))), "labelsTr/{}", "nearest"),
    ("empty-labels", on_labels(np.zeros_like), "labelsTr/{}", "name in annotations.json what"),
    ("negative-labels", on_labels(lambda a: -a.astype("i2")), "labelsTr/{}", "renumber"),
    ("other-shape", on_labels(lambda a: a[:-1]), "labelsTr/{}", "25 x 20 x 23"),
    ("header-shift", lambda _, m, n: with_affine(m / n, shifted(0.3)), "labelsTr/{}", "0.3 mm"),
    ("mask-0-255", on_labels(lambda a: (a > 0) * np.uint8(255)), "labelsTr/{}", "threshold"),
    ("mask-0-255", on_labels(soft), "labelsTr/{}", "soft edges"),
    ("mask-0-255", on_labels(lambda a: (resampled(255.0 * (a > 0), (0.5, 0, 0))).astype("u1")),
     "labelsTr/{}", "2 values"),
    ("unknown-label", on_labels(unnamed), "labelsTr/{}", "values 9 are not"),
    ("missing-structure", on_labels(lambda a: a * (a != 3)), "labelsTr/{}", "lacks 3 (Stem)"),
    ("duplicate-scan", copied, "imagesTr/{}", "same voxels as s01"),
    ("duplicate-labels", lambda _, m, n: save(m / n, data_of(m / "s02.nii.gz")), "labelsTr/{}",
     "the label map of s02"),
    ("forms-differ", lambda i, _, n: with_affine(i / n, AFFINE, shifted(7)), "imagesTr/{}",
     "by up to 7.0 mm"),
    ("forms-differ", damaged_qform, "imagesTr/{}", "sform and qform differ much"),
    ("intensity-outlier", on_image(invert), "imagesTr/{}", "likely, not certain"),
    ("flip-suspected", mirrored, "labelsTr/{}", "in 1 of 1 pairs"),
    ("float-labels", on_labels(lambda a: a.astype("f4")), "labelsTr/{}", "float32"),
    ("header-noise", lambda _, m, n: with_affine(m / n, shifted(0.01)), "labelsTr/{}", "0.01 mm"),
    ("mixed-orientations", stored_otherwise, ".", "LAS (1 scans)"),
    ("mixed-spacings", coarse, ".", "1.2 x 1.5 x 2.2"),
    ("oblique", turned, ".", "by up to 11 degrees"),
]  # fmt: skip
# what one scan cannot show: tested below
ELSEWHERE = {"volume-among-slices", "split", "layout", "choice", "unlisted-structure"}


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


def kinds(root: Path, **options: Path) -> list[str]:
    return [finding.kind for finding in deepatlas.check(root, **options).findings]


def plain(root: Path, count: int, *, labels: bool = True) -> Path:
    """A plain folder, whose label values have no names."""
    for n in range(count):
        image, label_map = draw(n)
        save(root / "images" / f"s{n}.nii", image)
        if labels:
            save(root / "labels" / f"s{n}.nii", label_map)
    return root


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
    assert kinds(REAL / "brain") == ["rare-structure"]
