"""Sections about the run itself: summary, training curves, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deepatlas.report import markup
from deepatlas.report.curves import stage_spans, training_curves
from deepatlas.report.facts import Facts
from deepatlas.report.results import Evaluation, part

CITATIONS = (
    (
        "Xu Z, Niethammer M. DeepAtlas: Joint Semi-Supervised Learning of Image Registration and "
        "Segmentation. MICCAI 2019, LNCS 11765, 420–429.",
        "https://doi.org/10.1007/978-3-030-32245-8_47",
    ),
    (
        "Balakrishnan G, Zhao A, Sabuncu MR, Guttag J, Dalca AV. VoxelMorph: A Learning Framework "
        "for Deformable Medical Image Registration. IEEE Transactions on Medical Imaging "
        "38(8):1788–1800, 2019.",
        "https://doi.org/10.1109/TMI.2019.2897538",
    ),
)


def lead(facts: Facts) -> str:
    """The run in a sentence, as text."""
    named = f"Recipe {facts.recipe}, " if facts.recipe else ""
    return f"{named}{facts.labels_seen} labels seen, {facts.steps:,} steps, {facts.progress}."


def summary_section(facts: Facts, evaluations: Sequence[Evaluation]) -> str:
    """What was trained, and how good it is."""
    start = facts.config.get("init")
    table = markup.facts(
        [
            ("Recipe", facts.recipe),
            ("Labels seen", facts.labels_seen),
            ("Training scans", len(facts.split.get("train", ())) or ""),
            ("Initial alignment", facts.plan.align),
            ("Steps", f"{facts.steps:,}, {facts.progress}"),
            ("Training time", _duration(facts.minutes)),
            *_shares(facts),
            ("Device", facts.device),
            ("Started from", Path(start).name if start else ""),
        ]
    )
    about = (
        "<p>Labels seen: manual segmentations used for training, plus those of validation scans, "
        "which only chose the model; of this run and those that it started from.</p>"
    )
    return markup.section("summary", "Summary", table, about, _headline(facts, evaluations))


def training_section(log: Sequence[Mapping[str, Any]]) -> str:
    """Losses and validation scores over the steps of the run."""
    stages = stage_spans(log)
    named = "; ".join(
        f"<strong>{n}</strong> {markup.text(name)} (steps {first:,.0f} to {last:,.0f})"
        for n, (name, first, last) in enumerate(stages, start=1)
    )
    caption = (
        f"Stages: {named}. " if stages else ""
    ) + "Loss terms are unweighted; the total is weighted. Bands: 10th to 90th percentile."
    alt = f"Training curves over {stages[-1][2]:,.0f} steps. {_last_scores(log)}" if stages else ""
    figure = training_curves(log)
    remarks = [str(line["text"]) for line in log if line.get("event") == "note" and "text" in line]
    listed = "".join(f"<li>{markup.text(remark)}</li>" for remark in remarks)
    return markup.section(
        "training",
        "Training",
        markup.plot(figure, name="curves", alt=alt or "No steps logged yet.", caption=caption),
        markup.folded(f"Notes in the log ({len(remarks)})", f"<ul>{listed}</ul>")
        if remarks
        else "",
    )


def details_section(facts: Facts) -> str:
    """Preparation, configuration, versions and what to cite."""
    plan = facts.plan
    d = len(plan.shape)
    ways = {
        "centre": "centre: the centres of the fields of view coincide",
        "world": "world: scans stay where their headers put them",
        "rigid": "rigid: every scan is turned and shifted onto the reference by its image",
        "affine": "affine: every scan is mapped onto the reference by its image",
    }
    preparation = markup.facts(
        [
            ("Working grid", " × ".join(str(n) for n in plan.shape) + " voxels"),
            ("Working spacing", " × ".join(f"{s:.3g}" for s in plan.spacing_mm) + " mm"),
            ("Dimensions", f"{d}-D"),
            ("Alignment", ways.get(plan.align, plan.align)),
            ("Reference", plan.reference.id if plan.reference is not None else ""),
            ("Intensities", _intensities(plan)),
            ("Structures", len(plan.label_values)),
        ]
    )
    configuration = yaml.safe_dump(_plain(facts.config), sort_keys=False, allow_unicode=True)
    environment = markup.table(
        "Environment of the training", ("what", "value"), _flat(facts.environment), words=(0, 1)
    )
    cited = "".join(
        f'<li>{markup.text(words)} <a href="{url}">{url.removeprefix("https://doi.org/")}</a></li>'
        for words, url in CITATIONS
    )
    return markup.section(
        "details",
        "How it was made",
        "<h3>Preparation</h3>",
        preparation,
        "".join(
            markup.note(f"{remark[:1].upper()}{remark[1:]}.")
            for remark in (*plan.notes, *plan.label_notes)
        ),
        _alignment(facts),
        "<h3>Configuration and versions</h3>",
        markup.folded("Resolved configuration", markup.code(configuration)),
        markup.folded("Versions and environment", environment),
        "<h3>Please cite</h3>",
        f'<ul class="cite">{cited}</ul>',
    )


def _alignment(facts: Facts) -> str:
    """How each scan was aligned to the reference, the doubtful ones first; empty without one."""
    found = sorted(
        facts.alignment.items(),
        key=lambda entry: (not entry[1].fault, entry[1].similarity - entry[1].start, entry[0]),
    )
    if not found:
        return ""
    rows = [
        (
            markup.text(name),
            markup.number(entry.start),
            markup.number(entry.similarity),
            f"{100 * entry.overlap:.0f} %",
            markup.text(entry.fault or "aligned"),
        )
        for name, entry in found
    ]
    faults = sum(bool(entry.fault) for _, entry in found)
    title = (
        "Alignment of the scans: correlation with the reference with centres of mass together, "
        "and in the end; the least gain first"
    )
    columns = ("scan", "start", "end", "overlap", "said")
    said = (
        markup.note(
            f"{faults} of {len(found)} scans could not be aligned by their images: their centres "
            "of mass were put on the reference's."
        )
        if faults
        else ""
    )
    table = markup.table(title, columns, rows, words=(0, 4))
    return said + markup.folded(f"Alignment of {len(found)} scans", table)


def _headline(facts: Facts, evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return markup.note(
            "This run has not been evaluated yet, so there is no figure of merit to show. "
            "Evaluate it, then make the report again:",
            f"{facts.evaluate_command}\n{facts.report_command}",
        )
    latest = evaluations[-1]
    cards = [
        _dice_card("Segmentation Dice", part(latest.summary, "segmentation", "dice")),
        _dice_card(
            "Registration Dice",
            part(latest.summary, "registration", "dice"),
            part(latest.summary, "registration", "dice_before"),
        ),
        _folds_card(part(latest.summary, "registration", "folds_percent")),
    ]
    shown = [card for card in cards if card]
    which = (
        f"of {len(evaluations)} linked evaluations, the latest: " if len(evaluations) > 1 else ""
    )
    title = f"<h3>Results ({which}{markup.text(latest.title)})</h3>"
    fault = markup.note(latest.fault) if latest.fault else ""
    if not shown:
        return title + fault + markup.note("The evaluation holds no summary that can be shown.")
    return f'{title}{fault}<div class="cards">{"".join(shown)}</div>'


def _dice_card(
    title: str, after: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> str:
    if not after:
        return ""
    mean, start = after.get("mean"), (before or {}).get("mean")
    bar = _bar(after.get("interval") or [mean, mean], start)
    from_ = f"<small>from {markup.number(start)} before</small>" if before else ""
    details = _detail(after)
    if before:
        details += (
            f'<p class="detail">before: {markup.interval(before.get("interval"))}, '
            f"n = {markup.number(before.get('n'))}, misses {markup.number(before.get('misses'))}"
            "</p>"
        )
    return (
        f'<div class="card"><h4>{title}</h4><p class="value">{markup.number(mean)} {from_}</p>'
        f"{bar}{details}</div>"
    )


def _folds_card(folds: Mapping[str, Any]) -> str:
    if not folds:
        return ""
    mean = folds.get("mean")
    kind = "good" if mean == 0 else ""
    return (
        '<div class="card"><h4>Folds, share of all voxels</h4>'
        f'<p class="value {kind}">{markup.number(mean)} <small>%</small></p>{_detail(folds)}</div>'
    )


def _detail(values: Mapping[str, Any]) -> str:
    return (
        f'<p class="detail">95 % interval {markup.interval(values.get("interval"))}</p>'
        f'<p class="detail">n = {markup.number(values.get("n"))}, '
        f"misses {markup.number(values.get('misses'))}</p>"
    )


def _bar(bounds: Sequence[Any], start: Any) -> str:
    """The interval on a scale from 0 to 1, with a tick for the value before."""
    if not all(isinstance(b, (int, float)) for b in bounds):
        return ""
    low, high = (100 * min(max(float(b), 0.0), 1.0) for b in bounds)
    tick = f'<b style="left:{100 * float(start):.1f}%"></b>' if isinstance(start, float) else ""
    return (
        f'<div class="bar" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%">'
        f"</i>{tick}</div>"
    )


def _shares(facts: Facts) -> list[tuple[str, str]]:
    """Steps and time of each network, where there are two."""
    steps = facts.state.get("group_steps") or {}
    seconds = facts.state.get("group_seconds") or {}
    if len(steps) < 2:
        return []
    return [
        (f"{name.capitalize()} network", f"{n:,} steps, {_duration(seconds.get(name, 0) / 60)}")
        for name, n in sorted(steps.items())
    ]


def _duration(minutes: float | None) -> str:
    if minutes is None:
        return ""
    if minutes < 1:
        return f"{60 * minutes:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _last_scores(log: Sequence[Mapping[str, Any]]) -> str:
    last: dict[str, Any] = {}
    for line in log:
        if line.get("event") == "validation":
            last |= line.get("scores") or {}
    return "; ".join(f"last {key} {markup.number(v)}" for key, v in last.items())


def _intensities(plan: Any) -> str:
    low, high = plan.percentiles
    matched = ", histograms matched to a reference" if plan.histogram is not None else ""
    return f"percentiles {low:g} to {high:g} to 0 to 1{matched}"


def _flat(values: Any, path: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of escaped text."""
    if isinstance(values, Mapping):
        rows = []
        for key, inner in values.items():
            rows += _flat(inner, f"{path}.{key}" if path else str(key))
        return rows
    if isinstance(values, (list, tuple)):
        values = ", ".join(str(v) for v in values)
    return [(markup.text(path), markup.text(values))]


def _plain(value: Any) -> Any:
    """Settings in the types that YAML writes without tags."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
