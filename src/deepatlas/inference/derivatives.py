"""Segmentations as a BIDS derivative: names of files, and what stands beside them.

`dataset_description.json` says who made them, `dseg.tsv` which value is which structure, and a JSON
beside each map from which scan it was made.

Source: https://bids-specification.readthedocs.io, Derivatives, Imaging data types.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepatlas.data.plan import Plan
from deepatlas.errors import BadInput
from deepatlas.io.atomic import write_json, write_text
from deepatlas.io.bids import VERSION, BidsName, made_here, parse_name, read_description
from deepatlas.io.images import scan_id
from deepatlas.io.json_file import load_json
from deepatlas.run.environment import version_of

ENTITIES = (
    "sub", "ses", "cohort", "task", "acq", "ce", "rec", "run", "echo", "part", "space", "chunk",
    "atlas", "seg", "scale", "res", "desc",
)  # fmt: skip
"""Those that a discrete segmentation may bear, in the order of the standard."""

NAMES = "dseg.tsv"
_LINK = "source"


@dataclass(frozen=True)
class Derivative:
    """Where the segmentations of scans with BIDS names go.

    Parameters
    ----------
    out : the folder of the derivative.
    images : the scans.
    targets : the label map of each, `sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz` below `out`.
    root : the dataset that all the scans lie in, or None.
    """

    out: Path
    images: tuple[Path, ...]
    targets: tuple[Path, ...]
    root: Path | None

    @classmethod
    def of(cls, images: Sequence[Path], out: Path) -> Derivative:
        """The derivative of these scans; BadInput where one of them has no BIDS name."""
        faults: list[str] = []
        names = [_name(path, faults) for path in images]
        faults += [
            f"{path}: lies in {out}; segmentations have a folder of their own, such as "
            "derivatives/deepatlas: give another --out"
            for path in images
            if path.resolve().is_relative_to(out.resolve())
        ]
        if faults:
            raise BadInput(faults)
        targets = tuple(out / name.folder / f"{name}.nii.gz" for name in names if name)
        return cls(out, tuple(images), targets, _common_root(images))

    def begin(self, plan: Plan) -> None:
        """Write the description and the table of structures; BadInput where others stand there."""
        description, table = self._description(), label_table(plan)
        facts, names = self.out / "dataset_description.json", self.out / NAMES
        if facts.exists() and not _same_origin(facts, description):
            raise BadInput(
                f"{facts}: the dataset there is none that deepatlas made of these scans; "
                "give another --out"
            )
        if names.exists() and names.read_bytes() != table.encode():
            raise BadInput(
                f"{names}: other structures are segmented there already; give another --out"
            )
        faults = [
            f"{target}: there is the segmentation of another scan, {before}; give another --out"
            for image, target in zip(self.images, self.targets, strict=True)
            if target.exists()
            and (before := _source(_beside(target))) not in (None, self._uri(image))
        ]
        if faults:
            raise BadInput(faults)
        write_json(facts, description)
        write_text(names, table)

    def describe(self, image: Path, target: Path) -> None:
        """Write what a label map was made from, beside it."""
        facts: dict[str, Any] = {
            "Description": "Structures by a segmentation network; dseg.tsv names the values",
            "Manual": False,
        }
        uri = self._uri(image)
        if uri is not None:
            facts |= {"Sources": [uri], "SpatialReference": uri}
        write_json(_beside(target), facts)

    def _uri(self, image: Path) -> str | None:
        """The name of a scan within its dataset; None where that is not known."""
        if self.root is None:
            return None
        return f"bids:{_LINK}:{_absolute(image).relative_to(self.root).as_posix()}"

    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = {
            "Name": "Segmentations by deepatlas",
            "BIDSVersion": VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "deepatlas", "Version": version_of("deepatlas")}],
        }
        if self.root is not None:
            here = _absolute(self.out)
            inside = here.is_relative_to(self.root)
            link = os.path.relpath(self.root, here) if inside else self.root.as_uri()
            description["DatasetLinks"] = {_LINK: link}
        return description


def _name(path: Path, faults: list[str]) -> BidsName | None:
    """The name of a scan's segmentation; None, and a fault, where the scan's is none of BIDS."""
    name = parse_name(scan_id(path))
    if name is None or next(iter(name.entities), None) != "sub":
        faults.append(
            f"{path}: is no BIDS name; --bids expects sub-LABEL[_ses-LABEL][_KEY-LABEL]_SUFFIX, "
            "such as sub-01_ses-1_T1w.nii.gz: rename it, or leave --bids out"
        )
        return None
    wrong = sorted(name.entities.keys() - set(ENTITIES))
    if wrong:
        faults.append(
            f"{path}: {wrong[0]}-{name.entities[wrong[0]]} is nothing that a BIDS segmentation is "
            f"named by; --bids knows {', '.join(ENTITIES)}: rename it, or leave --bids out"
        )
        return None
    ordered = {key: name.entities[key] for key in ENTITIES if key in name.entities}
    return BidsName(ordered, "dseg")


def _absolute(path: Path) -> Path:
    """Links are not followed: scans of a DataLad dataset are links to files of other names."""
    return Path(os.path.abspath(path))


def _common_root(images: Sequence[Path]) -> Path | None:
    """The dataset that all scans lie in where BIDS puts them; None if there is not just one."""
    roots = set()
    for path in images:
        name, folder = parse_name(scan_id(path)), _absolute(path).parent
        parts = name.folder.parts if name else ()
        placed = bool(parts) and folder.parts[-len(parts) :] == parts
        roots.add(folder.parents[len(parts) - 1] if placed else None)
    return roots.pop() if len(roots) == 1 else None


def _beside(target: Path) -> Path:
    """The JSON that tells of a label map."""
    return target.with_name(target.name.removesuffix(".nii.gz") + ".json")


def _source(path: Path) -> str | None:
    """What scan a JSON beside a label map names; None where it names none."""
    try:
        return str(load_json(path)["Sources"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _same_origin(path: Path, description: dict[str, Any]) -> bool:
    """Whether a description says that deepatlas made the dataset, from the same scans."""
    found = read_description(path.parent)
    return made_here(found) and found.get("DatasetLinks") == description.get("DatasetLinks")


def label_table(plan: Plan) -> str:
    """Values and names of the structures, as the rows of a `dseg.tsv`."""
    named = zip(plan.label_values, plan.class_names, strict=True)
    rows = [f"{value}\t{' '.join(name.split())}" for value, name in named]
    return "\n".join(["index\tname", *rows]) + "\n"
