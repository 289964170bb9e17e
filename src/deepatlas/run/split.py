"""Which scans train, validate and test, and whose labels training may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepatlas.data.leaks import subjects_apart
from deepatlas.data.randomness import permutation
from deepatlas.errors import BadInput
from deepatlas.io.json_file import load_json
from deepatlas.io.subject import Cohort

PARTS = ("train", "validation", "test")
_OF_A_RUN = {*PARTS, "labelled", "cohort", "unused"}  # its own file holds these, and more


def make_split(
    cohort: Cohort, *, split: Path | None, labelled: str | int | Path, seed: int
) -> dict[str, Any]:
    """The parts by id, `labelled`, the training scans whose labels are used, and `annotated`.

    Without a split file the cohort's own split holds; where it has none, every scan is a training
    scan: no labelled scan is set aside.

    Parameters
    ----------
    split : JSON with lists of ids; scans in none of them are not used.
    labelled : "all", how many scans (drawn by the seed; a smaller number is part of a larger one;
        two scans of one person count as two), or a text file with one id a line.
    seed : of the draw.

    Raises
    ------
    BadInput : a file that cannot be read, unknown or repeated ids, too few labelled scans, or
        scans of one person in two parts.
    """
    given = split or cohort.root
    parts = read_split(split, cohort) if split else _own_split(cohort)
    parts = {name: sorted(parts.get(name, [])) for name in PARTS}
    if apart := subjects_apart(cohort, parts):
        raise BadInput([f"{given}: {finding.scan} {finding.text}" for finding in apart])
    if faults := unfit(parts, cohort, given):
        raise BadInput([*cohort.faults, *faults])
    have = {subject.id for subject in cohort.labelled}
    available = [name for name in parts["train"] if name in have]
    return {
        **parts,
        "labelled": _choose(labelled, available, seed),
        "annotated": {s.id: list(s.annotated) for s in cohort.labelled if s.annotated is not None},
        "cohort": str(cohort.root.resolve()),
        "unused": sorted({s.id for s in cohort.subjects} - {i for p in PARTS for i in parts[p]}),
    }


def _own_split(cohort: Cohort) -> dict[str, list[str]]:
    """The split that the cohort brings along, or every scan for training."""
    if cohort.split is None:
        return {"train": [subject.id for subject in cohort.subjects]}
    return {part: list(ids) for part, ids in cohort.split.items()}


def unfit(parts: Mapping[str, Sequence[str]], cohort: Cohort, given: Path) -> list[str]:
    """What is wrong with parts that train nothing, or validate by scans without labels.

    Parameters
    ----------
    given : the file or folder that names the parts.
    """
    faults = []
    if not parts.get("train"):
        faults.append(f"{given}: no scan is in the part train; expected at least one")
    have = {subject.id for subject in cohort.labelled}
    unlabelled = [name for name in parts.get("validation", ()) if name not in have]
    if unlabelled:
        faults.append(
            f"{given}: validation scans need labels, and {', '.join(unlabelled[:5])} have none; "
            "move them to train"
        )
    return faults


def read_split(path: Path, cohort: Cohort) -> dict[str, list[str]]:
    """Part to ids of a split file.

    Raises
    ------
    BadInput : a file that cannot be read, unknown or repeated ids.
    """
    try:
        parts = load_json(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as JSON ({error})") from None
    if isinstance(parts, dict) and set(parts) >= _OF_A_RUN:
        parts = {part: parts[part] for part in PARTS}
    if not _is_split(parts):
        raise BadInput(
            f'{path}: expected {{"train": [...], "validation": [...], "test": [...]}} with lists '
            "of scan ids, at least one of them in train"
        )
    known = {subject.id for subject in cohort.subjects}
    seen: dict[str, str] = {}
    faults = []
    for part, ids in parts.items():
        for name in ids:
            if name not in known:
                faults.append(
                    f"{path}: {part} names {name!r}, and there is no such scan in {cohort.root}; "
                    "add it or take it out"
                )
            if name in seen:
                where = "twice in" if seen[name] == part else f"in {seen[name]} and in"
                faults.append(f"{path}: {name!r} is {where} {part}; leave one")
            seen[name] = part
    if faults:
        raise BadInput(faults)
    return parts


def _is_split(parts: Any) -> bool:
    return (
        isinstance(parts, dict)
        and set(parts) <= set(PARTS)
        and all(isinstance(ids, list) for ids in parts.values())
        and all(isinstance(name, str) for ids in parts.values() for name in ids)
        and bool(parts.get("train"))
    )


def _choose(labelled: str | int | Path, available: Sequence[str], seed: int) -> list[str]:
    """All, a number drawn by the seed (nested: 1 in 5 in 10), or those listed in a file."""
    text = str(labelled)
    if text == "all":
        return sorted(available)
    if text.isdecimal():
        count = int(text)
        if count > len(available) or count < 1:
            raise BadInput(
                f"--labelled {count}: the training part has {len(available)} labelled scans; "
                f"give a number from 1 to that, or all"
            )
        order = permutation(len(available), seed, "labelled")
        return sorted(available[i] for i in order[:count])
    try:
        lines = Path(text).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--labelled {text}: give a number, all, or a text file with one scan id a line "
            f"({getattr(error, 'strerror', None) or 'it is no text'})"
        ) from None
    ids = {line.strip() for line in lines if line.strip()}
    unknown = sorted(ids - set(available))
    if unknown:
        raise BadInput(
            [f"{text}: {name!r} is not among the labelled training scans" for name in unknown]
        )
    if not ids:
        raise BadInput(f"{text}: names no scan; give one id a line")
    return sorted(ids)
