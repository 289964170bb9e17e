"""The same tiny scans written in every layout: two sessions of three persons, three with labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tiny import SHAPES

from deepatlas.data.phantom import Phantom
from deepatlas.io.images import write_image, write_labels
from deepatlas.spatial.geometry import Volume

NAMES = {1: "Brain", 2: "Ventricle"}
PERSONS = ("sub-01", "sub-02", "sub-03")
SESSIONS = ("ses-a", "ses-b")


@dataclass(frozen=True)
class Scan:
    """A drawn scan; its labels, where it has some."""

    person: str
    session: str
    image: Volume
    labels: Volume | None

    @property
    def id(self) -> str:
        return f"{self.person}_{self.session}_T1w"


def draw(ndim: int) -> list[Scan]:
    """Six scans; those of the first session have labels."""
    phantom = Phantom(seed=3, shape=SHAPES[ndim], spacing_mm=(1.0, 1.2, 2.0)[:ndim])
    drawn = {}
    for index, (person, session) in enumerate([(p, s) for p in PERSONS for s in SESSIONS]):
        subject = phantom.subject(index)
        labels = subject.labels if session == "ses-a" else None
        drawn[person, session] = Scan(person, session, subject.image, labels)
    return list(drawn.values())


def _write(scan: Scan, image: Path, labels: Path) -> None:
    write_image(image, scan.image)
    if scan.labels is not None:
        write_labels(labels, scan.labels, "uint8")


def plain(root: Path, scans: list[Scan]) -> Path:
    for scan in scans:
        _write(scan, root / "images" / f"{scan.id}.nii.gz", root / "labels" / f"{scan.id}.nii.gz")
    return root


def decathlon(root: Path, scans: list[Scan]) -> Path:
    for scan in scans:
        name = f"{scan.id}.nii.gz"
        _write(scan, root / "imagesTr" / name, root / "labelsTr" / name)
    table = {"0": "background", **{str(value): name for value, name in NAMES.items()}}
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "MR"}, "labels": table}))
    return root


def nnunet(root: Path, scans: list[Scan]) -> Path:
    for scan in scans:
        labels = root / "labelsTr" / f"{scan.id}.nii.gz"
        _write(scan, root / "imagesTr" / f"{scan.id}_0000.nii.gz", labels)
    table = {"background": 0, **{name: value for value, name in NAMES.items()}}
    content = {"channel_names": {"0": "T1"}, "labels": table, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def learn2reg(root: Path, scans: list[Scan]) -> Path:
    training = []
    for scan in scans:
        name = f"{scan.id}_0000.nii.gz"
        _write(scan, root / "imagesTr" / name, root / "labelsTr" / name)
        labels = {"label": f"./labelsTr/{name}"} if scan.labels is not None else {}
        training.append({"image": f"./imagesTr/{name}", **labels})
    table = {"0": "background", **{str(value): name for value, name in NAMES.items()}}
    content = {
        "name": "Tiny",
        "modality": {"0": "MR"},
        "labels": {"0": table},
        "tensorImageSize": {"0": "3D"},
        "numTraining": len(training),
        "training": training,
        "test": [],
        "registration_val": [],
    }
    (root / "Tiny_dataset.json").write_text(json.dumps(content))
    return root


def bids(root: Path, scans: list[Scan]) -> Path:
    derived = root / "derivatives" / "manual"
    for scan in scans:
        folder = Path(scan.person, scan.session, "anat")
        labels = derived / folder / f"{scan.person}_{scan.session}_dseg.nii.gz"
        _write(scan, root / folder / f"{scan.id}.nii.gz", labels)
    rows = ["index\tname", *(f"{value}\t{name}" for value, name in NAMES.items())]
    (derived / "dseg.tsv").write_text("\n".join(rows))
    return root


def table(root: Path, scans: list[Scan]) -> Path:
    with_labels = {True: "labels/{}.nii.gz", False: ""}
    rows = []
    for scan in scans:
        labels = with_labels[scan.labels is not None].format(scan.id)
        _write(scan, root / "data" / f"{scan.id}.nii.gz", root / labels)
        rows.append([f"data/{scan.id}.nii.gz", labels, scan.person, scan.session])
    with (root / "cohort.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=";").writerows(
            [["image", "labels", "subject", "session"], *rows]
        )
    return root / "cohort.csv"


WRITERS: dict[str, Callable[[Path, list[Scan]], Path]] = {
    "plain": plain,
    "decathlon": decathlon,
    "nnunet": nnunet,
    "learn2reg": learn2reg,
    "bids": bids,
    "table": table,
}
