"""What the layouts share: which files of a folder are scans, and whose labels are whose."""

from __future__ import annotations

import re
from pathlib import Path

from deepatlas.errors import Fault
from deepatlas.io.images import ENDINGS, is_scan, scan_id
from deepatlas.io.subject import Subject

# companions that lie beside scans in many datasets and hold no image, or the voxels of a .mhd
_COMPANIONS = {
    ".json", ".txt", ".md", ".csv", ".tsv", ".yaml", ".yml", ".bval", ".bvec", ".pdf", ".html",
    ".db", ".ini", ".log", ".sh", ".py", ".raw", ".zraw",
}  # fmt: skip
# what names of label maps have and names of their images have not
_LABEL_WORDS = {"seg", "dseg", "segmentation", "label", "labels", "labelmap", "mask", "aseg", "gt"}


def pair_up(images: Path, labels: Path) -> tuple[tuple[Subject, ...], tuple[str, ...]]:
    """Subjects of an image folder and a label folder (which may be missing), and their faults."""
    image_files, faults = _by_id(images, "image")
    label_files, label_faults = _by_id(labels, "label map") if labels.is_dir() else ({}, [])
    if not image_files:
        other = f"; what lies there: {_some_names(images)}" if any(images.iterdir()) else ""
        faults.append(f"{images}: holds no image; put scans there ({ENDINGS}){other}")
    faults += label_faults
    unlabelled = {_bare(identifier): identifier for identifier in image_files.keys() - label_files}
    for identifier in sorted(set(label_files) - set(image_files)):
        near = unlabelled.get(_bare(identifier))
        remedy = (
            f"add {images / (identifier + '.nii.gz')} or remove the label map"
            if near is None
            else f"the scan {image_files[near].name} has nearly its name and no labels: "
            "give both one name"
        )
        faults.append(
            Fault(
                f"{label_files[identifier]}: a label map without image; {remedy}",
                "label-without-image",
            )
        )
    subjects = tuple(
        Subject(identifier, image_files[identifier], label_files.get(identifier))
        for identifier in sorted(image_files)
    )
    return subjects, tuple(faults)


def _by_id(folder: Path, kind: str) -> tuple[dict[str, Path], list[str]]:
    """Files of a folder by scan id, and what is wrong with the others."""
    found: dict[str, Path] = {}
    faults: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (path.is_dir() and not is_scan(path)):
            continue
        if not is_scan(path):
            if path.suffix.lower() not in _COMPANIONS:
                faults.append(
                    Fault(
                        f"{path}: not a scan by its name; expected one of {ENDINGS}: "
                        "convert it to .nii.gz or remove it",
                        "not-a-scan",
                    )
                )
            continue
        identifier = scan_id(path)
        if identifier in found:
            faults.append(
                Fault(
                    f"{path}: a second {kind} of scan '{identifier}' beside "
                    f"{found[identifier].name}; keep one",
                    "second-file",
                )
            )
        else:
            found[identifier] = path
    return found, faults


def _bare(identifier: str) -> str:
    """What stays of a name without case, separators, leading zeros and words for a label map."""
    words = re.findall(r"[a-z]+|[0-9]+", identifier.lower())
    return " ".join(word.lstrip("0") for word in words if word not in _LABEL_WORDS)


def _some_names(folder: Path, at_most: int = 3) -> str:
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:at_most]) + (", ..." if len(names) > at_most else "")
