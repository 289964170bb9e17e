"""What differs between a run on disk and what is asked of it now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepatlas.data.survey import Survey
from deepatlas.errors import BadInput
from deepatlas.io.subject import Cohort
from deepatlas.run.folder import RunFolder
from deepatlas.training.recipe import Recipe, to_tree

SHOWN = 5  # ids of a difference that a message names
FREE = {"about", "training.recompute"}  # of a recipe: what changes no weight


def refuse_other_settings(run: RunFolder, recipe: Recipe, split: Mapping[str, Any]) -> None:
    """BadInput, with each difference, where the run was begun otherwise; more steps are allowed."""
    before, now = _flat(to_tree(run.recipe)), _flat(to_tree(recipe))
    recorded = run.split
    recorded.setdefault("annotated", {})
    before |= _flat({"split": {key: recorded.get(key) for key in split}})
    now |= _flat({"split": split})
    more = recipe.training.steps >= run.recipe.training.steps
    faults = [
        f"{key}: {_difference(before.get(key), now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in FREE
        if not (key == "training.steps" and more)
    ]
    if faults:
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise BadInput(
            f"{run.path}: was begun with other settings or another cohort; take these changes "
            f"back, or give another --out:{lines}"
        )


def content_of(cohort: Cohort, facts: Survey) -> dict[str, dict[str, str]]:
    """SHA-256 of every image and every label file by scan id, as split.json records them."""
    labels = {s.id: facts[s.id].labels for s in cohort.subjects}
    return {
        "content": {s.id: facts[s.id].image.digest for s in cohort.subjects},
        "label_content": {name: found.digest for name, found in labels.items() if found},
    }


def refuse_other_content(
    run: RunFolder, cohort: Cohort, split: Mapping[str, Any], facts: Survey
) -> None:
    """BadInput where files that the run learns from have changed since it was begun."""
    recorded, now = run.split, content_of(cohort, facts)
    images = {*split["train"], *split["validation"]}
    labels = {*split["labelled"], *split["validation"]}
    faults = []
    for subject in cohort.subjects:
        for path, kind, used in (
            (subject.image, "content", images),
            (subject.labels, "label_content", labels),
        ):
            before = recorded.get(kind, {}).get(subject.id)
            if path and subject.id in used and before and before != now[kind].get(subject.id):
                faults.append(
                    f"{path}: has changed since {run.path} was begun with it; "
                    "bring the earlier file back, or train a new run (another --out)"
                )
    if faults:
        raise BadInput(faults)


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested plain values."""
    if isinstance(tree, dict) and tree:
        pairs = [_flat(value, f"{prefix}{key}.") for key, value in tree.items()]
        return {key: value for pair in pairs for key, value in pair.items()}
    if isinstance(tree, list | tuple) and any(isinstance(item, dict) for item in tree):
        return _flat({str(i): item for i, item in enumerate(tree)}, prefix)
    return {prefix.removesuffix("."): list(tree) if isinstance(tree, tuple) else tree}


def _difference(before: Any, now: Any) -> str:
    """How a value has changed; of two lists of ids, what has come and gone."""
    if isinstance(before, list) and isinstance(now, list) and len(before) + len(now) > 2 * SHOWN:
        gone = [item for item in before if item not in now]
        come = [item for item in now if item not in before]
        return f"{_some(gone)} only in the run, {_some(come)} only now"
    return f"{_said(before)} in the run, {_said(now)} now"


def _some(items: list[Any]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + more if items else "nothing"


def _said(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(str(item) for item in value)}]"
    return "nothing" if value is None else str(value)
