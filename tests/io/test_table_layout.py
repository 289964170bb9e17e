"""CSV tables as cohorts: what is read, and what a damaged one is told."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from dicom_files import write_series

from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.io.rows import read_rows

Write = Callable[..., Path]
ROWS = """image,labels,subject,session,split
img/a.nii.gz,seg/a.nii.gz,p1,1,train
img/b.nii.gz,,p1,2,train
img/c.mha,seg/c.nrrd,p2,1,test
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a table beside (empty) scans."""
    for name in ("img/a.nii.gz", "img/b.nii.gz", "img/c.mha", "seg/a.nii.gz", "seg/c.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def build(content: str | bytes, name: str = "cohort.csv") -> Path:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return build


def test_all_columns(write: Write, tmp_path: Path) -> None:
    path = write(ROWS)
    cohort = read_cohort(path)
    assert cohort.root == path
    assert (cohort.faults, cohort.notes) == ((), ())
    assert [(s.id, s.person, s.session) for s in cohort.subjects] == [
        ("a", "p1", "1"), ("b", "p1", "2"), ("c", "p2", "1"),
    ]  # fmt: skip
    assert cohort.by_id("c").image == tmp_path / "img" / "c.mha"
    assert cohort.by_id("c").labels == tmp_path / "seg" / "c.nrrd"
    assert cohort.by_id("b").labels is None
    assert cohort.split == {"train": ("a", "b"), "validation": (), "test": ("c",)}


def test_only_images(write: Write) -> None:
    cohort = read_cohort(write("image\nimg/a.nii.gz\n\nimg/b.nii.gz\n"))
    assert [(s.id, s.person, s.session, s.labels) for s in cohort.subjects] == [
        ("a", "a", "", None), ("b", "b", "", None),
    ]  # fmt: skip
    assert cohort.split is None


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.replace(",", ";").replace("\n", "\r\n").encode("utf-8-sig"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " , ").replace("train", "Training"),
        lambda text: text.replace("image,labels", "Image,Label"),
        lambda text: text.replace("img/a.nii.gz", '"img/a.nii.gz"') + ",,,,\n\n",
        lambda text: text.replace("\n", "\r"),
        lambda text: "\n" + text.rstrip(),
    ],
)
def test_as_people_and_spreadsheets_write_them(
    change: Callable[[str], str | bytes], write: Write
) -> None:
    expected = read_cohort(write(ROWS))
    cohort = read_cohort(write(change(ROWS)))
    assert cohort == expected


def test_absolute_paths_and_other_columns(write: Write, tmp_path: Path) -> None:
    cohort = read_cohort(write(f"age,image,sex\n30,{tmp_path / 'img' / 'a.nii.gz'},f\n"))
    assert cohort.subjects[0].image == tmp_path / "img" / "a.nii.gz"
    assert cohort.notes == ("columns that are not read: age, sex",)


def test_files_of_one_name_are_told_apart_by_their_folders(write: Write, tmp_path: Path) -> None:
    for name in ("p1/x/t1.nii.gz", "p2/t1.nii.gz", "p2/t2.nii.gz"):
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(b"")
    table = "image\nall/p2/t1.nii.gz\nall/p2/t2.nii.gz\nall/p1/x/t1.nii.gz\n"
    cohort = read_cohort(write(table))
    assert [s.id for s in cohort.subjects] == ["p1_x_t1", "p2_t1", "p2_t2"]
    assert cohort.faults == ()


def test_persons_by_their_ids(write: Write, tmp_path: Path) -> None:
    (tmp_path / "sub-07_ses-b_run-1_T1w.nii").write_bytes(b"")
    (subject,) = read_cohort(write("image\nsub-07_ses-b_run-1_T1w.nii\n")).subjects
    assert (subject.person, subject.session) == ("sub-07", "ses-b")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no column image; expected the header image,labels,subject.* an empty file"),
        ("scan,labels\na,b\n", "has no column image.* got scan,labels"),
        ("image,labels\n", "lists no scan"),
        ("image,image\na,b\n", "two columns are called 'image'"),
        ("image,label,labels\na,b,c\n", "has the columns label and labels"),
        ("image,labels\nimg/a.nii.gz,,x\n", "line 2: has 3 cells, and the header 2"),
        (ROWS.encode("utf-16"), "is no UTF-8 text"),
        (ROWS.replace("p1", "Jos\u00e9").encode("latin-1"), "is no UTF-8 text"),
        ('image,labels\n"img/a.nii.gz,\n', "cannot be read as CSV"),
        (b"PK\x03\x04\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_what_is_no_table(content: str | bytes, says: str, write: Write) -> None:
    path = write(content)
    with pytest.raises(BadInput, match=says) as caught:
        read_cohort(path)
    assert all(str(path) in fault for fault in caught.value.faults)


def test_all_faults_of_rows_come_together(write: Write, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.nii.gz").write_bytes(b"")
    table = """image,labels,split
img/a.nii.gz,seg/a.nii.gz,train
img/lost.nii.gz,,train
,seg/c.nrrd,train
img/b.nii.gz,seg/lost.nii.gz,tset
img/c.mha,seg/a.nii.gz,
img/../img/a.nii.gz,,train
notes.txt,,train
"""
    cohort = read_cohort(write(table))
    assert len(cohort.faults) == 8
    for line, why in [
        (3, "there is no image"),
        (4, "names no image"),
        (5, "there is no label map"),
        (5, "split is 'tset'; expected train, validation or test"),
        (6, "a.nii.gz is the label map of line 2 too"),
        (6, "split is ''; expected"),
        (7, "a.nii.gz is the image of line 2 too"),
        (8, "notes.txt is not a scan by its name"),
    ]:
        assert [f for f in cohort.faults if f", line {line}: " in f and why in f], (line, why)


def test_dicom_folders_are_scans(write: Write, tmp_path: Path) -> None:
    for person in ("p1", "p2"):
        write_series(tmp_path / person / "t1", np.ones((4, 3, 2), "u2"), np.eye(4))
    cohort = read_cohort(write("image,labels\np1/t1,seg/a.nii.gz\np2/t1/,\nimg,\n"))
    assert [(s.id, s.image) for s in cohort.subjects] == [
        (f"{person}_t1", tmp_path / person / "t1") for person in ("p1", "p2")
    ]
    (fault,) = cohort.faults
    assert "line 4: img is a folder without DICOM files; expected" in fault


def test_two_scans_that_would_have_one_id(write: Write, tmp_path: Path) -> None:
    (tmp_path / "img" / "a.mha").write_bytes(b"")
    (fault,) = read_cohort(write("image\nimg/a.nii.gz\nimg/a.mha\n")).faults
    assert "line 3" in fault
    assert "would both be called 'a'" in fault


def faults_of(path: Path) -> list[str]:
    """What is wrong with a cohort; anything but faults is raised."""
    try:
        return list(read_cohort(path).faults)
    except BadInput as error:
        return error.faults


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_table_is_never_a_traceback(seed: int, write: Write) -> None:
    """Bytes flipped, cut out and put in: a cohort, or a BadInput that names the table."""
    draw = random.Random(seed)
    content = bytearray((ROWS if seed % 2 else ROWS.replace(",", ";")).encode("utf-8-sig"))
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(content))
        kind = draw.randrange(4)
        if kind == 0:
            content[place] = draw.randrange(256)
        elif kind == 1:
            del content[place : place + draw.randint(1, 20)]
        elif kind == 2:
            content[place:place] = draw.choice([b'"', b"\0", b"\n", b",", b"\r", b"x" * 5000])
        else:
            content = content[: place + 1]
    path = write(bytes(content))
    assert all(str(path) in fault for fault in faults_of(path))


def test_rows_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,B\n\n1,"x\ny"\n3\n')
    assert read_rows(path) == (["a", "b"], [(4, {"a": "1", "b": "x\ny"}), (5, {"a": "3", "b": ""})])
