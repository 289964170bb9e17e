"""What a user should know about which structures were annotated where; told, never acted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deepatlas.data.plan import Plan
from deepatlas.data.survey import Survey
from deepatlas.io.annotations import FILE
from deepatlas.io.subject import Cohort, Subject

SHOWN = 5  # structures or scans that a note names


def label_notes(cohort: Cohort, facts: Survey, plan: Plan) -> list[str]:
    """Sentences on the label maps of a cohort and the structures of its plan."""
    rule, values = plan.label_rule, plan.label_values
    found = {s.id: known for s in cohort.labelled if (known := facts[s.id].labels) is not None}
    holds = {name: set(rule.structures(one.values)) for name, one in found.items()}
    said = {s.id: rule.annotated(s.annotated) for s in cohort.labelled}
    annotated = {name: set(values if said[name] is None else said[name] or ()) for name in found}

    def counted(sets: Mapping[str, set[int]], among: Mapping[str, set[int]]) -> list[str]:
        counts = [
            (name, sum(value in one for one in sets.values()),
             sum(value in one for one in among.values()))
            for value, name in zip(values, plan.class_names, strict=True)
        ]  # fmt: skip
        return [f"{name} ({here} of {of})" for name, here, of in counts if here < of]

    notes = []
    everywhere = {name: set(values) for name in found}
    if partly := counted(annotated, everywhere):
        notes.append(
            f"not annotated in every label map, and left out of losses and scores of the others: "
            f"{some(partly)}"
        )
    if rare := counted({n: holds[n] & annotated[n] for n in found}, annotated):
        notes.append(
            f"does not occur in every label map, and is taken as absent there: {some(rare)}; "
            f"if it was not annotated there, say so in {FILE}"
        )
    if strange := [n for n in found if said[n] is not None and holds[n] - annotated[n]]:
        notes.append(
            "label maps that hold structures which were not annotated there by what is said, and "
            f"from which those are not learnt: {some(strange)}"
        )
    if rule.members:
        grouped = {value for members in rule.members.values() for value in members}
        others = {value for one in found.values() for value in one.values}
        others -= {*grouped, *rule.ignored}
        if others:
            notes.append(
                "label values in no group, which are background: "
                f"{some([str(value) for value in sorted(others)])}"
            )
    return notes


def untaught(scans: Sequence[Subject], facts: Survey, plan: Plan) -> list[str]:
    """Names of the structures that no label map of these scans has where they were annotated."""
    rule, taught = plan.label_rule, set[int]()
    for scan in scans:
        labels, annotated = facts[scan.id].labels, rule.annotated(scan.annotated)
        held = set(rule.structures(labels.values)) if labels is not None else set()
        taught |= held if annotated is None else held & set(annotated)
    named = zip(plan.label_values, plan.class_names, strict=True)
    return [name for value, name in named if value not in taught]


def some(things: Sequence[str]) -> str:
    """The first of a list of names, and how many more there are."""
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return ", ".join(things[:SHOWN]) + more
