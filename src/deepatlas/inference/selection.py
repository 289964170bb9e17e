"""Which scans and pairs a run is scored on, and which of them it has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from deepatlas.data.survey import Survey
from deepatlas.errors import BadInput
from deepatlas.io.rows import read_rows
from deepatlas.io.subject import Cohort, Subject
from deepatlas.run.seen import is_training_cohort

Pair = tuple[str, str]
"""Ids of the moving and the fixed scan."""


@dataclass(frozen=True)
class Selection:
    """What a run is scored on.

    Parameters
    ----------
    scans : the labelled scans to score, by id.
    notes : what a reader of the numbers must know about the choice.
    """

    scans: tuple[Subject, ...]
    notes: tuple[str, ...]


def select_scans(
    split: Mapping[str, Any], seen: Mapping[str, str], cohort: Cohort, facts: Survey
) -> Selection:
    """The run's test part if the cohort is the training cohort, else all labelled scans.

    Parameters
    ----------
    split : of the run: lists of ids "train", "validation", "test" and "labelled" (whose labels
        training used), the folder "cohort", and "content", id -> SHA-256 of the image file.
    seen : see `run.seen`.
    facts : what `check_cohort` found in the labelled scans.

    In the training cohort without a test part these are the labelled scans whose labels the run
    has not seen; where there are none, those that it has seen, marked as such. A scan of another
    folder counts as seen if its file is byte for byte one that the run was trained on.

    Raises
    ------
    BadInput : no scan of the cohort has a label map.
    """
    labelled = cohort.labelled
    if not labelled:
        raise BadInput(
            f"{cohort.root}: none of {len(cohort.subjects)} scans has a label map; scores need "
            "some: put label files beside the scans"
        )
    if not is_training_cohort(split, cohort, facts):
        return Selection(labelled, _marked(labelled, seen))
    test = set(split.get("test", ()))
    if test:
        scans = tuple(subject for subject in labelled if subject.id in test)
        if not scans:
            raise BadInput(
                f"{cohort.root}: none of the run's {len(test)} test scans has a label map; add "
                "label files for them, or evaluate on another cohort"
            )
        return Selection(scans, _marked(scans, seen))
    scans = tuple(subject for subject in labelled if not seen[subject.id])
    if not scans:
        note = (
            "the run has no test part and saw the labels of every labelled scan here: the rows "
            "are marked, and no mean is given; train with --split, or evaluate on another cohort"
        )
        return Selection(labelled, (note,))
    hidden = sum(subject.id in split["train"] for subject in scans)
    note = (
        f"the run has no test part: scored are the {len(scans)} labelled scans whose labels it has "
        f"not seen; the images of {hidden} of them were part of training"
    )
    return Selection(scans, (note,))


def choose_pairs(cohort: Cohort, scans: Sequence[Subject], n_pairs: int) -> list[Pair]:
    """At most `n_pairs` of the pairs that the cohort names itself, or of `default_pairs`."""
    persons = {subject.id: subject.person for subject in scans}
    own = [pair for pair in cohort.pairs if persons.keys() >= set(pair)]
    return own[:n_pairs] or default_pairs(list(persons), n_pairs, persons)


def default_pairs(
    identifiers: Sequence[str], n_pairs: int, persons: Mapping[str, str] | None = None
) -> list[Pair]:
    """At most `n_pairs` ordered pairs, each scan in about as many as every other.

    Parameters
    ----------
    persons : whose scan it is, by id. Two scans of one person make no pair, for they are more
        alike than those of two, unless all are of one person.

    Fixed scans ascend while moving scans descend (Learn2Reg's rule); when all scans have been
    fixed once, the moving list goes on one place further. No pair is one scan with itself and
    none comes twice, so n scans give n (n - 1) pairs at most.
    """
    ordered = sorted(identifiers)
    n = len(ordered)
    who = {identifier: (persons or {}).get(identifier, identifier) for identifier in ordered}
    if len(set(who.values())) == 1:
        who = {identifier: identifier for identifier in ordered}
    rounds = ((turn, k) for turn in range(n) for k in range(n))
    pairs = ((ordered[(n - 1 - k - turn) % n], ordered[k]) for turn, k in rounds)
    return list(islice((pair for pair in pairs if who[pair[0]] != who[pair[1]]), n_pairs))


def read_pairs(path: Path, cohort: Cohort) -> list[Pair]:
    """Pairs from a CSV with columns moving and fixed, which hold scan ids.

    Raises
    ------
    BadInput : all faults together: no such columns, no rows, and for each row a scan that is not
        in the cohort or has no labels, a scan with itself, or a pair that stood above.
    """
    columns, rows = read_rows(path)
    missing = [name for name in ("moving", "fixed") if name not in columns]
    if missing:
        raise BadInput(
            f"{path}: has no column {' and no column '.join(missing)}; expected the header "
            f"moving,fixed and got {','.join(columns) or 'an empty file'}"
        )
    if not rows:
        raise BadInput(f"{path}: has no pairs; add rows of two scan ids below moving,fixed")
    state = {subject.id: subject.labels is not None for subject in cohort.subjects}
    faults: list[str] = []
    lines: dict[Pair, int] = {}
    for line, row in rows:
        pair = (row["moving"], row["fixed"])
        found = [_id_fault(identifier, state, cohort) for identifier in dict.fromkeys(pair)]
        if pair[0] == pair[1]:
            found.append(f"{pair[0]!r} is paired with itself")
        if pair in lines:
            found.append(f"{pair[0]!r} to {pair[1]!r} stands in line {lines[pair]} already")
        faults += [f"{path}, line {line}: {fault}" for fault in found if fault]
        lines.setdefault(pair, line)
    if faults:
        raise BadInput(faults)
    return list(lines)


def _id_fault(identifier: str, labelled: Mapping[str, bool], cohort: Cohort) -> str | None:
    if identifier not in labelled:
        example = next(iter(labelled), "none")
        return (
            f"no scan {identifier!r} in {cohort.root}; expected an id, which is a file name "
            f"without its ending, such as {example!r}"
        )
    if not labelled[identifier]:
        return f"the scan {identifier!r} has no label map; take a labelled one"
    return None


def _marked(scans: Sequence[Subject], seen: Mapping[str, str]) -> tuple[str, ...]:
    n = sum(bool(seen[subject.id]) for subject in scans)
    return (f"{n} scans were seen in training: marked, and not in the means",) if n else ()
