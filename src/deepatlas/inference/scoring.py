"""Score a run on labelled scans, in each scan's own space, alone or against other runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepatlas.data.check import check_cohort
from deepatlas.data.config import DataConfig
from deepatlas.data.labels import LabelRule
from deepatlas.data.plan import grouped
from deepatlas.data.survey import Survey
from deepatlas.errors import BadInput
from deepatlas.evaluation.comparison import compare_tables, comparison_table
from deepatlas.evaluation.folding import folding
from deepatlas.evaluation.scores import Scores, score_labels
from deepatlas.evaluation.statistics import DRAWS, LEVEL
from deepatlas.evaluation.summary import (
    left_out_notes,
    summarise,
    summarise_groups,
    summarise_structures,
)
from deepatlas.evaluation.tables import Row, csv_table, pair_row, scan_row
from deepatlas.inference.selection import (
    Pair,
    choose_pairs,
    read_pairs,
    select_scans,
)
from deepatlas.inference.session import Session
from deepatlas.io.atomic import write_json, write_text
from deepatlas.io.images import read_labels
from deepatlas.io.label_groups import read_label_groups
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort, Subject
from deepatlas.run.environment import describe_environment
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import ancestors, labels_seen, splits
from deepatlas.run.seen import seen_by
from deepatlas.spatial.geometry import Volume
from deepatlas.spatial.transform import resample

Progress = Callable[[str, int, int], None]
Tables = dict[str, list[Row]]

FILES = {"segmentation": "scans.csv", "registration": "pairs.csv"}


@dataclass(frozen=True)
class Work:
    """What is scored, the same for every run that is compared.

    Parameters
    ----------
    facts : what is in the files of the labelled scans.
    values : label values of the structures.
    groups : named sets of them.
    names : of them, where they have one.
    rule : what the values of label files stand for.
    """

    cohort: Cohort
    facts: Survey
    scans: tuple[Subject, ...]
    pairs: tuple[Pair, ...]
    values: tuple[int, ...]
    groups: dict[str, tuple[int, ...]]
    names: dict[int, str]
    rule: LabelRule


def evaluate(
    run: RunFolder,
    cohort_path: Path,
    out: Path,
    *,
    pairs: Path | None = None,
    n_pairs: int = 40,
    against: Sequence[RunFolder] = (),
    label_groups: Path | str | None = None,
    annotated: Path | None = None,
    device: torch.device | str = "cpu",
    max_memory: int | str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a run and write scans.csv, pairs.csv, summary.json (and comparisons.csv) into `out`.

    Parameters
    ----------
    run : a run with at least one trained network.
    cohort_path : the training cohort (then the run's test part is scored) or another one.
    pairs : CSV with columns moving and fixed; without it `n_pairs` pairs of the scored scans,
        those that the cohort names itself where it does.
    against : other runs, scored on the same scans and pairs into `out`/against/<name>.
    label_groups : JSON of groups of label values that are scored in place of the values, or of the
        groups that the run has learnt.
    annotated : JSON of what was annotated in which scan; else the cohort's annotations.json and,
        for the training cohort, what the run was told.
    max_memory : for the networks, see `Session`; the score tables (distances) are not counted.
    seed : of the bootstrap resamples.
    progress : called with what is being done, how much is done and how much there is to do.

    Segmentations are scored on each scan's own grid; registrations by the moving labels, carried
    through the whole transform by nearest neighbour, on the fixed scan's own grid. Seconds are
    those of one case from its files to the result. What one run scores is written before the next
    begins. Returns the summary.

    Raises
    ------
    BadInput : faults in the cohort or the pairs, a run without networks, or runs that segment into
        other groups than those that are scored.
    """
    out = Path(out)
    cohort = _cohort(run, read_cohort(Path(cohort_path), annotated))
    groups = () if label_groups is None else read_label_groups(label_groups)
    plan = replace(run.plan, **grouped(groups)) if groups else run.plan
    ignored = {*DataConfig(label_groups=groups).ignored(cohort), *run.plan.ignored}
    rule = LabelRule(plan.members, tuple(sorted(ignored)))
    cohort = replace(cohort, ignored=rule.ignored)
    rivals = _named(against)
    _refuse_other_groups([run, *rivals.values()], rule)

    def session(of: RunFolder) -> Session:
        return Session(of, device, max_memory=max_memory)

    for one in (run, *rivals.values()):
        session(one)  # a run that cannot work is said before hours of it, not after
    given = None if pairs is None else read_pairs(pairs, cohort)
    facts = _check(cohort, progress)
    seen = _seen(run, cohort, facts)
    selection = select_scans(run.split, seen, cohort, facts)
    work = Work(
        cohort=cohort,
        facts=facts,
        scans=selection.scans,
        pairs=tuple(given or choose_pairs(cohort, selection.scans, n_pairs)),
        values=plan.label_values or _all_values(facts),
        groups=plan.groups if rule.members else cohort.groups or plan.groups,
        names=plan.label_names if rule.members else {**plan.label_names, **cohort.label_names},
        rule=rule,
    )
    tables = _score(session(run), work, seen, progress)
    summary = _summary(run, work, tables, device, seed)
    summary["notes"] = [*selection.notes, *cohort.notes, *summary["notes"]]
    _write(out, tables, summary)  # which stay where another run fails
    others: dict[str, Tables] = {}
    for name, rival in rivals.items():
        theirs = _score(
            session(rival), work, _seen(rival, cohort, facts), progress, f" with {name}"
        )
        _write(out / "against" / name, theirs, _summary(rival, work, theirs, device, seed))
        others[name] = theirs
    summary["comparisons"] = compare_tables(tables, others, np.random.default_rng(seed))
    _write(out, tables, summary)
    run.add_evaluation({"cohort": summary["cohort"], "out": str(out.resolve()), "summary": summary})
    return summary


def _cohort(run: RunFolder, cohort: Cohort) -> Cohort:
    """The cohort; where the run was trained on it, with what was said then of its label maps."""
    trained_on, said = run.split.get("cohort"), run.split.get("annotated", {})
    if not trained_on or Path(trained_on).resolve() != cohort.root.resolve():
        return cohort
    subjects = (
        s
        if s.annotated is not None or s.id not in said
        else replace(s, annotated=tuple(said[s.id]))
        for s in cohort.subjects
    )
    return replace(cohort, subjects=tuple(subjects))


def _refuse_other_groups(runs: Sequence[RunFolder], rule: LabelRule) -> None:
    """BadInput where a run segments into structures that are not made of what is scored."""
    faults = [
        f"{run.path}: its segmentation network has learnt other label groups than those that are "
        "scored here; give --label-groups as in its training, or leave it out of this evaluation"
        for run in runs
        if "segmentation" in run.network_names()
        and run.plan.members
        and run.plan.members != rule.members
    ]
    if faults:
        raise BadInput(faults)


def _check(cohort: Cohort, progress: Progress | None) -> Survey:
    """Look at all files that may be scored; their faults are listed together."""

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress("checking", done, total)

    scored = replace(cohort, subjects=cohort.labelled)
    return check_cohort(scored, needs_labels=False, needs_pairs=False, progress=report)


def _score(
    session: Session, work: Work, seen: dict[str, str], progress: Progress | None, of: str = ""
) -> Tables:
    """Rows of the tables that the run's networks have."""
    tables: Tables = {}
    if "segmentation" in session.networks:
        tables["segmentation"] = []
        for done, subject in enumerate(work.scans):
            _tell(progress, f"segmenting{of}", done, len(work.scans))
            tables["segmentation"].append(_scan(session, work, subject, seen[subject.id]))
        _tell(progress, f"segmenting{of}", len(work.scans), len(work.scans))
    if "registration" in session.networks:
        tables["registration"] = []
        for done, pair in enumerate(work.pairs):
            _tell(progress, f"registering{of}", done, len(work.pairs))
            part = min((seen[identifier] for identifier in pair if seen[identifier]), default="")
            tables["registration"].append(_pair(session, work, pair, part))
        _tell(progress, f"registering{of}", len(work.pairs), len(work.pairs))
    return tables


def _scan(session: Session, work: Work, subject: Subject, seen: str) -> Row:
    target = _labels(subject)
    start = time.perf_counter()
    prediction = session.segment(subject.image)
    seconds = time.perf_counter() - start
    if not session.plan.members:
        prediction = Volume(work.rule(prediction.data)[0], prediction.geometry)
    scores = _scores(work, prediction, target, work.rule.annotated(subject.annotated))
    return scan_row(scan=subject.id, seen=seen, scores=scores, seconds=seconds)


def _pair(session: Session, work: Work, pair: Pair, seen: str) -> Row:
    moving, fixed = (work.cohort.by_id(identifier) for identifier in pair)
    labels, target = _labels(moving), _labels(fixed)
    annotated = _both(*(work.rule.annotated(scan.annotated) for scan in (moving, fixed)))
    start = time.perf_counter()
    transform = session.register(moving=moving.image, fixed=fixed.image)
    seconds = time.perf_counter() - start
    alignment = session.alignment(moving=moving.image, fixed=fixed.image)
    before = resample(labels, target.geometry, alignment, labels=True)
    carried = resample(labels, target.geometry, transform, labels=True)
    return pair_row(
        moving=moving.id,
        fixed=fixed.id,
        seen=seen,
        align=session.plan.align,
        before=_carried_scores(work, before, target, annotated, distances=False),
        scores=_carried_scores(work, carried, target, annotated),
        folding=folding(transform.displacement(target.geometry)),
        seconds=seconds,
    )


def _carried_scores(
    work: Work, carried: Volume, target: Volume, annotated: tuple[int, ...] | None, **more: bool
) -> Scores:
    """Scores of the carried labels of another scan, in the values of its file."""
    labels, ignored = work.rule(carried.data)
    return _scores(work, Volume(labels, carried.geometry), target, annotated, ignored, **more)


def _scores(
    work: Work,
    prediction: Volume,
    target: Volume,
    annotated: tuple[int, ...] | None,
    ignored: torch.Tensor | None = None,
    *,
    distances: bool = True,
) -> Scores:
    """Scores of structures against a target in the values of its file."""
    wanted, unknown = work.rule(target.data)
    if unknown is not None and ignored is not None:
        unknown = unknown | ignored
    return score_labels(
        prediction.data,
        wanted,
        values=work.values,
        spacing_mm=target.geometry.spacing_mm,
        groups=work.groups,
        annotated=annotated,
        ignored=unknown,
        distances=distances,
    )


def _summary(
    run: RunFolder, work: Work, tables: Tables, device: torch.device | str, seed: int
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        **{part: summarise(rows, rng) for part, rows in tables.items()},
        "labels_seen": labels_seen(splits(run)),
        "align": run.plan.align,
        "groups": {part: summarise_groups(rows, rng) for part, rows in tables.items()},
        "per_structure": {
            part: summarise_structures(rows, work.names, rng) for part, rows in tables.items()
        },
        "seen": {part: sum(row.seen for row in rows) for part, rows in tables.items()},
        "notes": _notes(run, work, tables),
        "run": str(run.path.resolve()),
        "cohort": str(work.cohort.root.resolve()),
        "bootstrap": {"seed": seed, "level": LEVEL, "draws": DRAWS},
        **describe_environment(torch.device(device)),
    }


def _notes(run: RunFolder, work: Work, tables: Tables) -> list[str]:
    """What a reader of the numbers must know about the run and the cohort."""
    notes = []
    if not run.state["finished"]:
        notes.append("the run's training is not finished")
    for earlier in ancestors(run):
        if earlier.split is None:
            notes.append(
                f"the run started from {earlier.path}, which is gone: what that had seen is not "
                "known, and not marked"
            )
        elif not set(earlier.split["labelled"]) <= set(run.split["labelled"]):
            notes.append(
                f"the run started from {earlier.path}, which had seen other labels: "
                f"{labels_seen([earlier.split])}"
            )
    if "registration" in tables and not work.pairs:
        notes.append("fewer than two labelled scans can be scored, so there is no pair")
    for part, rows in tables.items():
        notes += [f"{part}: {note}" for note in left_out_notes(rows, work.names)]
    if not set(work.rule.structures(_all_values(work.facts))) & set(work.values):
        notes.append("no label map of the cohort holds a structure that the run knows")
    return notes


def _seen(run: RunFolder, cohort: Cohort, facts: Survey) -> dict[str, str]:
    """In which part the run, or a run that it started from, saw each labelled scan."""
    return seen_by(splits(run), cohort, facts)


def _all_values(facts: Survey) -> tuple[int, ...]:
    """Label values that occur in the label maps of the cohort."""
    return tuple(sorted({v for scan in facts.values() if scan.labels for v in scan.labels.values}))


def _write(out: Path, tables: Tables, summary: Mapping[str, Any]) -> None:
    """Write the tables and the summary; a table of an earlier evaluation does not stay."""
    texts = {FILES[part]: csv_table(rows) for part, rows in tables.items()}
    if summary.get("comparisons"):
        texts["comparisons.csv"] = comparison_table(summary["comparisons"])
    for name in (*FILES.values(), "comparisons.csv"):
        if name in texts:
            write_text(out / name, texts[name])
        else:
            (out / name).unlink(missing_ok=True)
    write_json(out / "summary.json", summary)


def _named(runs: Sequence[RunFolder]) -> dict[str, RunFolder]:
    """The other runs by the names of their folders, numbered where two have one name."""
    named: dict[str, RunFolder] = {}
    for run in runs:
        base = run.path.resolve().name
        name, number = base, 2
        while name in named:
            name, number = f"{base}-{number}", number + 1
        named[name] = run
    return named


def _labels(subject: Subject) -> Volume:
    if subject.labels is None:
        raise BadInput(f"{subject.image}: has no label map to score against; add its label file")
    return read_labels(subject.labels)[0]


def _both(first: tuple[int, ...] | None, second: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Values that were annotated in both scans."""
    if first is None or second is None:
        return second if first is None else first
    return tuple(value for value in first if value in second)


def _tell(progress: Progress | None, what: str, done: int, total: int) -> None:
    if progress is not None:
        progress(what, done, total)
