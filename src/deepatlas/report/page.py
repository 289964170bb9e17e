"""One static HTML file about a run: self-contained, readable offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deepatlas.errors import DeepAtlasError
from deepatlas.io.atomic import write_bytes
from deepatlas.report import markup
from deepatlas.report.examples import ExampleSource
from deepatlas.report.facts import read_facts
from deepatlas.report.overview import (
    details_section,
    lead,
    summary_section,
    training_section,
)
from deepatlas.report.pictures import (
    deformation_section,
    registration_section,
    segmentation_section,
)
from deepatlas.report.recompute import Recomputed
from deepatlas.report.results import Evaluation, read_evaluation
from deepatlas.report.scoreboard import tables_section
from deepatlas.report.theme import CSS, DOCUMENT
from deepatlas.run.environment import version_of
from deepatlas.run.folder import RunFolder

Example = TypeVar("Example")

SECTIONS = {
    "summary": "Summary",
    "training": "Training",
    "segmentation": "Segmentation",
    "registration": "Registration",
    "deformation": "Deformation",
    "tables": "Tables",
    "details": "How it was made",
}


def write_report(
    run: RunFolder, out: Path | None = None, *, source: ExampleSource | None = None
) -> Path:
    """Write the page of a run; by default `report.html` in the run folder. Returns its path.

    Parameters
    ----------
    run : finished or not, evaluated or not; what is missing is said on the page.
    out : the file to write.
    source : of the example scans and pairs; by default the run's networks make them anew from the
        latest linked evaluation and its cohort.

    Raises
    ------
    DeepAtlasError : the run cannot be read, or the file cannot be written.
    """
    facts = read_facts(run)
    page = Path(out) if out is not None else run.path / "report.html"
    evaluations = [read_evaluation(entry, run.path) for entry in run.evaluations()]
    latest = evaluations[-1] if evaluations else None
    source = source or Recomputed()
    scans, no_scans = _examples(source.scans, run, latest)
    pairs, no_pairs = _examples(source.pairs, run, latest)
    plan = facts.plan
    names = dict(zip(plan.label_values, plan.class_names, strict=True))
    sections = [
        summary_section(facts, evaluations),
        training_section(facts.log),
        segmentation_section(scans, names, no_scans),
        registration_section(pairs, names, no_pairs),
        deformation_section(pairs, latest, no_pairs),
        tables_section(evaluations, page),
        details_section(facts),
    ]
    name = run.path.resolve().name
    text = DOCUMENT.format(
        version=version_of("deepatlas"),
        title=markup.text(f"{name} – deepatlas report"),
        heading=markup.text(name),
        lead=markup.text(lead(facts)),
        css=CSS,
        links="".join(f'<li><a href="#{key}">{title}</a></li>' for key, title in SECTIONS.items()),
        sections="\n".join(sections),
        footer="Made by deepatlas. For research; not a medical device.",
    )
    write_bytes(page, text.encode("utf-8"), durable=False)  # it can be made again
    return page


def _examples(
    make: Callable[[RunFolder, Evaluation], list[Example]],
    run: RunFolder,
    latest: Evaluation | None,
) -> tuple[list[Example], str | None]:
    """Examples of one kind, or why there are none."""
    if latest is None:
        return [], "Examples are shown once the run has been evaluated; see the summary."
    try:
        return make(run, latest), latest.fault
    except (DeepAtlasError, OSError) as error:
        return [], f"No examples: {error}"
