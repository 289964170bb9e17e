"""BIDS datasets: which scans, whose segmentations, which names, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deepatlas.errors import BadInput
from deepatlas.io.bids import parse_name
from deepatlas.io.layouts import read_cohort

Make = Callable[..., Path]
DERIVED = "derivatives/manual"


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes (empty) files of these names, and tables with this content."""

    def build(*names: str, **tables: str) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        for place, text in tables.items():
            path = tmp_path / place.replace("__", "/")
            path.with_suffix(".tsv").parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".tsv").write_text(text, encoding="utf-8")
        return tmp_path

    return build


def labels_of(root: Path) -> dict[str, str | None]:
    """Label map by scan id, below the root."""
    return {
        s.id: s.labels and s.labels.relative_to(root).as_posix() for s in read_cohort(root).subjects
    }


def test_sessions_runs_and_their_segmentations(make: Make) -> None:
    root = make(
        "sub-01/ses-a/anat/sub-01_ses-a_run-1_T1w.nii.gz",
        "sub-01/ses-a/anat/sub-01_ses-a_run-2_T1w.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.json",
        "sub-02/anat/sub-02_mod-T1w_defacemask.nii.gz",
        "sub-02/func/sub-02_task-rest_bold.nii.gz",
        f"{DERIVED}/sub-01/ses-a/anat/sub-01_ses-a_run-2_dseg.nii.gz",
        f"{DERIVED}/sub-01/ses-b/anat/sub-01_ses-b_space-orig_dseg.nii.gz",
        f"{DERIVED}/sub-02/anat/sub-02_space-T1w_dseg.mgz",
        f"{DERIVED}/sub-02/anat/sub-02_label-GM_probseg.nii.gz",
    )
    cohort = read_cohort(root)
    assert (cohort.faults, cohort.notes) == ((), ())
    assert [(s.id, s.person, s.session) for s in cohort.subjects] == [
        ("sub-01_ses-a_run-1_T1w", "sub-01", "ses-a"),
        ("sub-01_ses-a_run-2_T1w", "sub-01", "ses-a"),
        ("sub-01_ses-b_T1w", "sub-01", "ses-b"),
        ("sub-02_T1w", "sub-02", ""),
    ]
    assert labels_of(root) == {
        "sub-01_ses-a_run-1_T1w": None,
        "sub-01_ses-a_run-2_T1w": f"{DERIVED}/sub-01/ses-a/anat/sub-01_ses-a_run-2_dseg.nii.gz",
        "sub-01_ses-b_T1w": f"{DERIVED}/sub-01/ses-b/anat/sub-01_ses-b_space-orig_dseg.nii.gz",
        "sub-02_T1w": f"{DERIVED}/sub-02/anat/sub-02_space-T1w_dseg.mgz",
    }


def test_the_most_frequent_suffix_is_the_cohort(make: Make) -> None:
    root = make(
        *(f"sub-0{n}/anat/sub-0{n}_T2w.nii.gz" for n in (1, 2, 3)),
        *(f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2)),
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        *(f"{DERIVED}/sub-0{n}/anat/sub-0{n}_dseg.nii.gz" for n in (1, 2, 3)),
    )
    cohort = read_cohort(root)
    assert [s.id for s in cohort.labelled] == ["sub-01_T2w", "sub-02_T2w", "sub-03_T2w"]
    assert len(cohort.subjects) == 3
    (note,) = cohort.notes
    assert "the cohort is the 3 T2w scans; left out are T1w (2), FLAIR (1)" in note
    (root / "sub-03" / "anat" / "sub-03_T2w.nii.gz").unlink()
    make("sub-02/anat/sub-02_FLAIR.nii.gz")  # two of each now
    assert [s.id for s in read_cohort(root).subjects] == ["sub-01_T1w", "sub-02_T1w"]


def test_segmentations_elsewhere_are_left_out_and_counted(make: Make) -> None:
    root = make(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_run-1_T1w.nii.gz",
        "sub-02/anat/sub-02_run-2_T1w.nii.gz",
        f"{DERIVED}/sub-01/anat/sub-01_space-MNI152NLin6Asym_dseg.nii.gz",
        f"{DERIVED}/sub-01/anat/sub-01_res-2_dseg.nii.gz",
        f"{DERIVED}/sub-01/anat/sub-01_run-2_dseg.nii.gz",
        f"{DERIVED}/sub-02/anat/sub-02_dseg.nii.gz",
        f"{DERIVED}/sub-09/anat/sub-09_dseg.nii.gz",
    )
    assert set(labels_of(root).values()) == {None}
    cohort = read_cohort(root)
    assert cohort.faults == ()
    assert sorted(cohort.notes) == [
        f"no scan has labels: no segmentation (*_dseg) of one in {root / 'derivatives'}",
        "segmentations that belong to no scan of the cohort are left out: 2",
        "segmentations that could be of several scans by their names are left out: 1",
        "segmentations that lie in another space than their scan are left out: 2",
    ]


def test_without_derivatives_no_scan_has_labels(make: Make) -> None:
    cohort = read_cohort(make("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz"))
    assert (len(cohort.subjects), cohort.labelled, cohort.faults) == (2, (), ())
    assert "no scan has labels" in cohort.notes[0]


def test_an_entity_less_fits_where_there_is_one_scan(make: Make) -> None:
    root = make(
        "sub-01/anat/sub-01_acq-mprage_T1w.nii.gz", f"{DERIVED}/sub-01/anat/sub-01_dseg.nii.gz"
    )
    assert labels_of(root) == {"sub-01_acq-mprage_T1w": f"{DERIVED}/sub-01/anat/sub-01_dseg.nii.gz"}


def test_the_scan_with_just_these_entities_comes_first(make: Make) -> None:
    labels = f"{DERIVED}/sub-01/anat/sub-01_dseg.nii.gz"
    root = make("sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_acq-x_T1w.nii", labels)
    assert labels_of(root) == {"sub-01_T1w": labels, "sub-01_acq-x_T1w": None}


def test_several_kinds_are_a_choice(make: Make) -> None:
    root = make(
        "sub-01/anat/sub-01_T1w.nii.gz",
        f"{DERIVED}/sub-01/anat/sub-01_dseg.nii.gz",
        "derivatives/fs/sub-01/anat/sub-01_desc-aseg_dseg.nii.gz",
    )
    cohort = read_cohort(root)
    assert cohort.labelled == ()
    (fault,) = cohort.faults
    assert "several kinds: derivatives/fs desc-aseg (1), derivatives/manual (1)" in fault


def test_two_files_of_one_name(make: Make) -> None:
    root = make(
        *(f"sub-01/anat/sub-01_T1w.{ending}" for ending in ("nii", "nii.gz")),
        *(f"{DERIVED}/sub-01/anat/sub-01_dseg.{ending}" for ending in ("nii", "nii.gz")),
    )
    first, second = read_cohort(root).faults
    assert "a second image of scan 'sub-01_T1w'" in first
    assert "a second segmentation of sub-01_T1w" in second


def test_names_of_another_folder_are_faults(make: Make) -> None:
    root = make(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-01_T1w.nii.gz",
        "sub-03/ses-a/anat/sub-03_T1w.nii.gz",
        "sub-04/anat/brain.nii.gz",
    )
    cohort = read_cohort(root)
    assert [s.id for s in cohort.subjects] == ["sub-01_T1w"]
    assert len(cohort.faults) == 3
    assert "expected such as sub-03_ses-a_T1w.nii.gz" in cohort.faults[-1]


def test_no_scan_at_all(make: Make) -> None:
    with pytest.raises(BadInput, match=r"holds no image in sub-\*/anat/"):
        read_cohort(make("sub-01/func/sub-01_task-x_bold.nii.gz"))


def test_names_of_labels_come_from_all_tables_that_hold(make: Make) -> None:
    place = f"{DERIVED}/sub-01/anat".replace("/", "__")
    tables = {
        "derivatives__manual__dseg": "index\tname\tabbreviation\n0\tBackground\tBG\n1\tLeft\tL\n",
        "derivatives__manual__atlas-x_dseg": "index\tname\n7\tNever\n",
        f"{place}__sub-01_dseg": "\ufeffIndex\tName\tcolor\n2\tRight part\t#ff0000\n3\tn/a\n",
        "dseg": "index\tname\n8\tNever\n",
    }
    root = make(
        "sub-01/anat/sub-01_T1w.nii.gz", f"{DERIVED}/sub-01/anat/sub-01_dseg.nii.gz", **tables
    )
    cohort = read_cohort(root)
    assert (cohort.label_names, cohort.faults) == ({1: "Left", 2: "Right part"}, ())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected the columns index and name"),
        ("index,label\n1,Left\n", "expected the columns index and name, got index,label"),
        ("index\tname\none\tLeft\n", "line 2: the index is 'one'"),
        (f"index\tname\n{'9' * 5000}\tLeft\n", "line 2: the index is '999"),
        ("index\tname\n1\tLeft\n1\tRight\n", "line 3: label 1 is named twice"),
        ("index\tname\n1\tLeft\tx\n", "line 2: has 3 cells"),
    ],
)
def test_a_damaged_table_is_a_fault(text: str, says: str, make: Make) -> None:
    names = ("sub-01/anat/sub-01_T1w.nii.gz", f"{DERIVED}/sub-01/anat/sub-01_dseg.nii.gz")
    (fault,) = read_cohort(make(*names, derivatives__manual__dseg=text)).faults
    assert "dseg.tsv" in fault
    assert says in fault


def test_tables_that_disagree(make: Make) -> None:
    names = [
        name
        for n in (1, 2)
        for name in (
            f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz", f"{DERIVED}/sub-0{n}/anat/sub-0{n}_dseg.nii.gz"
        )
    ]  # fmt: skip
    tables = {
        f"derivatives__manual__sub-0{n}__anat__sub-0{n}_dseg": f"index\tname\n1\tName {n}\n"
        for n in (1, 2)
    }
    (fault,) = read_cohort(make(*names, **tables)).faults
    assert "label 1 is 'Name 2' here and 'Name 1' in another dseg.tsv" in fault


@pytest.mark.parametrize(
    "stem", ["sub-01", "sub-01_", "_T1w", "sub-01_sub-02_T1w", "sub_T1w", "sub-01_T1w_", "", "a-b"]
)
def test_what_is_no_name(stem: str) -> None:
    assert parse_name(stem) is None


def test_names_come_back() -> None:
    name = parse_name("sub-01_ses-a_seg-aparc+aseg_dseg")
    assert name is not None
    assert str(name) == "sub-01_ses-a_seg-aparc+aseg_dseg"
    assert name.folder == Path("sub-01", "ses-a", "anat")
    assert name.source == {"sub": "01", "ses": "a"}
