"""Which labelled scans of a cohort a run, or one that it started from, has seen in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deepatlas.data.label_notes import some
from deepatlas.data.survey import Survey
from deepatlas.io.subject import Cohort


def seen_by(splits: Sequence[Mapping[str, Any]], cohort: Cohort, facts: Survey) -> dict[str, str]:
    """For every labelled scan the part in which the first of these splits has it, or ""."""
    seen = {subject.id: "" for subject in cohort.labelled}
    for split in splits:
        for name, part in scans_seen(split, cohort, facts).items():
            seen[name] = seen[name] or part
    return seen


def scans_seen(split: Mapping[str, Any], cohort: Cohort, facts: Survey) -> dict[str, str]:
    """For every labelled scan of the cohort the part in which the run saw it, "" if in none.

    A training scan whose label was hidden counts as seen if the run has a test part, and so does
    another scan of a person that the run saw, or a copy of a file that it saw.
    """
    train = set(split.get("train", ()))
    if not split.get("test"):
        train &= set(split.get("labelled", ()))
    parts = {identifier: "train" for identifier in train}
    parts.update(dict.fromkeys(split.get("validation", ()), "validation"))
    persons: dict[str, str] = {}
    if is_training_cohort(split, cohort, facts):
        persons = {s.person: parts[s.id] for s in cohort.subjects if s.id in parts}
    content = split.get("content") or {}
    digests = {content[i]: part for i, part in parts.items() if content.get(i)}
    return {
        s.id: persons.get(s.person) or digests.get(facts[s.id].image.digest, "")
        for s in cohort.labelled
    }


def is_training_cohort(split: Mapping[str, Any], cohort: Cohort, facts: Survey) -> bool:
    """Whether it is the same folder, or one that holds all the run's scans, byte for byte."""
    trained_on = split.get("cohort")
    if trained_on and Path(trained_on).resolve() == cohort.root.resolve():
        return True
    content = split.get("content") or {}
    if not content or not set(content) <= {subject.id for subject in cohort.subjects}:
        return False
    checked = [subject.id for subject in cohort.labelled if subject.id in content]
    return bool(checked) and all(content[i] == facts[i].image.digest for i in checked)


def met(split: Mapping[str, Any], seen: Mapping[str, str]) -> list[str]:
    """Sentences on validation and test scans of a new run that the run it starts from has seen.

    Parameters
    ----------
    split : of the new run.
    seen : scan id to the part in which it was seen, or "".
    """
    trained = [name for name in split["validation"] if seen.get(name) == "train"]
    known = [name for name in split["test"] if seen.get(name)]
    said = []
    if trained:
        said.append(
            f"validation scans that the run which is started from was trained on: {some(trained)}; "
            "their scores are too good to choose networks by, take others"
        )
    if known:
        said.append(
            f"test scans that the run which is started from has seen: {some(known)}; they will be "
            "marked and left out of means, take others"
        )
    return said
