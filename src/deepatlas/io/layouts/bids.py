"""BIDS: raw scans in `sub-*/[ses-*/]anat/`, their segmentations in `derivatives/`.

Of the suffixes of scans (T1w, T2w, ...) the most frequent one is the cohort; the notes name what is
left out. A segmentation `derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz` belongs to the scan whose
entities it bears, if it lies in that scan's own space (no `space-`, `space-orig` or `space-T1w`, no
`res-`). All of them are of one kind: from one folder, with the same `seg-`, `desc-`, `atlas-`.
Label names come from `dseg.tsv`, the columns index and name, beside a segmentation or above it.
What `segment --bids` wrote is no label map to learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from deepatlas.errors import BadInput
from deepatlas.io.bids import BidsName, made_here, parse_name, read_description
from deepatlas.io.images import is_scan, scan_id
from deepatlas.io.rows import read_rows
from deepatlas.io.subject import Cohort, Subject

LOOKS_LIKE = "a BIDS dataset with sub-*/anat/ and segmentations in derivatives/"

_DIGITS = 18  # of a label value: it fits into 64 bits
_NO_SCAN = {"dseg", "probseg", "mask", "defacemask"}
_BY_CSV = "list the scans and the label maps that you mean in a CSV"


@dataclass(frozen=True)
class _File:
    """A scan's file and its name, taken apart."""

    path: Path
    name: BidsName


@dataclass(frozen=True)
class _Segmentation:
    """A label map of a scan; `kind` says where from and of what."""

    file: _File
    base: Path
    image: str
    kind: str


def matches(root: Path) -> bool:
    """Whether `root` has a folder `sub-*`."""
    return any(path.is_dir() for path in root.glob("sub-*"))


def read(root: Path) -> Cohort:
    """The scans of the most frequent suffix, with the segmentations in their own space."""
    faults: list[str] = []
    notes: list[str] = []
    images = _images(root, faults, notes)
    found = _segmentations(root, images, notes)
    labels: dict[str, Path] = {}
    names: dict[int, str] = {}
    kinds = Counter(segmentation.kind for segmentation in found)
    if len(kinds) > 1:
        listed = ", ".join(f"{kind} ({n})" for kind, n in sorted(kinds.items()))
        faults.append(
            f"{root / 'derivatives'}: segmentations of several kinds: {listed}; keep one kind, "
            f"or {_BY_CSV}"
        )
        found = []
    for segmentation in found:
        before = labels.setdefault(segmentation.image, segmentation.file.path)
        if before != segmentation.file.path:
            faults.append(
                f"{segmentation.file.path}: a second segmentation of {segmentation.image} beside "
                f"{before.name}; keep one"
            )
    _read_names(found, names, faults)
    subjects = tuple(
        Subject(identifier, image.path, labels.get(identifier))
        for identifier, image in images.items()
    )
    return Cohort(root, subjects, names, faults=tuple(faults), notes=tuple(notes))


def _anatomical(base: Path, faults: list[str]) -> Iterator[_File]:
    """Scans and segmentations below a folder of subjects, by name; misplaced ones are faults."""
    for pattern in ("sub-*/anat/*", "sub-*/ses-*/anat/*"):
        for path in sorted(base.glob(pattern)):
            if path.name.startswith(".") or not is_scan(path) or path.is_dir():
                continue
            name = parse_name(scan_id(path))
            if name is None or base / name.folder != path.parent:
                folders = "_".join(path.relative_to(base).parts[:-2])
                faults.append(
                    f"{path}: is no BIDS name of this folder; expected such as "
                    f"{folders}_T1w.nii.gz: rename it"
                )
            else:
                yield _File(path, name)


def _images(root: Path, faults: list[str], notes: list[str]) -> dict[str, _File]:
    """Scans of the most frequent suffix by id; the notes name the others."""
    files = [
        file
        for file in _anatomical(root, faults)
        if file.name.suffix not in _NO_SCAN and "space" not in file.name.entities
    ]
    counts = Counter(file.name.suffix for file in files)
    if not counts:
        faults.append(
            f"{root}: holds no image in sub-*/anat/ or sub-*/ses-*/anat/; put scans there"
        )
        return {}
    chosen, *others = sorted(counts, key=lambda suffix: (-counts[suffix], suffix != "T1w", suffix))
    if others:
        left = ", ".join(f"{suffix} ({counts[suffix]})" for suffix in others)
        notes.append(
            f"the cohort is the {counts[chosen]} {chosen} scans; left out are {left}: for others, "
            f"{_BY_CSV}"
        )
    images: dict[str, _File] = {}
    for file in files:
        if file.name.suffix != chosen:
            continue
        before = images.setdefault(str(file.name), file)
        if before is not file:
            faults.append(
                f"{file.path}: a second image of scan '{file.name}' beside {before.path.name}; "
                "keep one"
            )
    return images


def _segmentations(
    root: Path, images: Mapping[str, _File], notes: list[str]
) -> list[_Segmentation]:
    """Segmentations in a scan's own space; the notes tell of those that belong to no scan here."""
    derivatives = root / "derivatives"
    below = sorted(derivatives.iterdir()) if derivatives.is_dir() else []
    by_folder: dict[Path, list[_File]] = {}
    for image in images.values():
        by_folder.setdefault(image.name.folder, []).append(image)
    own_spaces = {None, "orig", *(image.name.suffix for image in images.values())}
    found: list[_Segmentation] = []
    left_out: Counter[str] = Counter()
    for base in (root, derivatives, *below):
        predicted = made_here(read_description(base))
        for file in _anatomical(base, []):  # what else a derivative holds is no fault of the cohort
            if file.name.suffix != "dseg":
                continue
            if predicted:
                left_out["were predicted by deepatlas"] += 1
                continue
            entities = file.name.entities
            if entities.get("space") not in own_spaces or {"res", "den"} & entities.keys():
                left_out["lie in another space than their scan"] += 1
                continue
            owners = _owners(file.name, by_folder.get(file.name.folder, []))
            if len(owners) == 1:
                kind = _kind(file, base.relative_to(root))
                found.append(_Segmentation(file, base, owners[0], kind))
            elif owners:
                left_out["could be of several scans by their names"] += 1
            else:
                left_out["belong to no scan of the cohort"] += 1
    notes += [f"segmentations that {why} are left out: {n}" for why, n in left_out.items()]
    if not found:
        notes.append(f"no scan has labels: no segmentation (*_dseg) of one in {derivatives}")
    return found


def _owners(name: BidsName, images: Sequence[_File]) -> list[str]:
    """Scans that a segmentation is of: the one with just its entities, or those that have more."""
    exact = [image for image in images if image.name.source == name.source]
    fitting = [image for image in images if image.name.source.items() >= name.source.items()]
    return [str(image.name) for image in exact or fitting]


def _kind(file: _File, base: Path) -> str:
    """Where a segmentation comes from and what it is of: `derivatives/fs seg-aseg`."""
    made = file.name.entities.items() - file.name.source.items()
    extra = [f"{key}-{value}" for key, value in sorted(made) if key != "space"]
    return " ".join([base.as_posix(), *extra])


def _read_names(
    segmentations: Sequence[_Segmentation], names: dict[int, str], faults: list[str]
) -> None:
    """Add the label names of all tables that hold for these segmentations."""
    tables: dict[Path, None] = {}
    tables_in = cache(lambda folder: sorted(folder.glob("*dseg.tsv")))
    for segmentation in segmentations:
        entities = segmentation.file.name.entities.items()
        for folder in segmentation.file.path.parents:
            for path in tables_in(folder):
                table = parse_name(path.stem)
                if table is not None and table.entities.items() <= entities:
                    tables[path] = None
            if folder == segmentation.base:
                break
    for path in tables:
        for value, name in _table(path, faults).items():
            if names.setdefault(value, name) != name:
                faults.append(
                    f"{path}: label {value} is {name!r} here and {names[value]!r} in another "
                    "dseg.tsv; use one name"
                )


def _table(path: Path, faults: list[str]) -> dict[int, str]:
    """Label value to name, from the columns index and name."""
    try:
        columns, rows = read_rows(path)
    except BadInput as error:
        faults += error.faults
        return {}
    if not {"index", "name"} <= set(columns):
        faults.append(f"{path}: expected the columns index and name, got {','.join(columns)}")
        return {}
    names: dict[int, str] = {}
    for line, row in rows:
        if not row["index"].isdecimal() or len(row["index"]) > _DIGITS:
            faults.append(
                f"{path}, line {line}: the index is {row['index']!r}; expected a whole number"
            )
        elif int(row["index"]) in names:
            faults.append(f"{path}, line {line}: label {row['index']} is named twice; keep one")
        elif row["name"] not in {"", "n/a"} and int(row["index"]) != 0:
            names[int(row["index"])] = row["name"]
    return names
