"""From a folder of scans to a finished run: check, prepare, train, or resume where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepatlas.compute import choose_device, deterministic, use_threads
from deepatlas.data.batches import Batches
from deepatlas.data.cache import default_cache, prepare_cohort
from deepatlas.data.check import check_cohort
from deepatlas.data.label_notes import label_notes, some, untaught
from deepatlas.data.plan import Plan, label_fields, make_plan
from deepatlas.data.prepare import PreparedScan, say_if_misaligned
from deepatlas.data.survey import Survey
from deepatlas.errors import BadInput
from deepatlas.io.label_groups import read_label_groups
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort
from deepatlas.networks.recompute import make_recompute
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.run.changes import content_of, refuse_other_content, refuse_other_settings
from deepatlas.run.environment import describe_environment
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import record_of, splits
from deepatlas.run.lock import locked
from deepatlas.run.seen import met, seen_by
from deepatlas.run.split import PARTS, make_split
from deepatlas.run.start import with_start
from deepatlas.run.stopping import stop_on_signals
from deepatlas.training.recipe import Recipe, load_recipe
from deepatlas.training.tasks.registration import Registration
from deepatlas.training.trainer import State, Trainer
from deepatlas.training.validation import Validation

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int, Mapping[str, Any]], None]  # what, done, of, the log line


@dataclass(frozen=True)
class Job:
    """What the user asked for, resolved."""

    run: RunFolder
    recipe: Recipe
    cohort: Cohort
    split: dict[str, Any]
    device: torch.device
    cache: Path | None


def train(
    cohort: Path | str,
    out: Path | str,
    *,
    recipe: str = "da",
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    labelled: str | int | Path = "all",
    label_groups: Path | str | None = None,
    annotated: Path | None = None,
    split: Path | None = None,
    init: Path | str | None = None,
    seed: int | None = None,
    cache: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Train the networks of a recipe on a cohort; the same call again resumes.

    Parameters
    ----------
    cohort : folder or CSV of images and, for some of them, label files.
    out : the run folder.
    recipe, config, overrides : a recipe's name, a YAML over it, single dotted keys over that.
    labelled : "all", a number or a file of ids: the training labels that may be seen.
    label_groups : JSON of named groups of label values that are learnt in place of the values.
    annotated : JSON of what was annotated in which scan; by default the cohort's annotations.json.
    split : JSON with train, validation and test ids; without it the split that the cohort brings
        along holds, or else every scan is trained on.
    init : a finished run to start from: its networks, without the recipe's stages that pretrain
        them, and its preparation of scans.
    seed : overrides the recipe's seed.
    cache : where prepared scans are kept; the user's cache folder by default.
    device : "auto", "cpu", "cuda" or "cuda:N".
    threads : of the CPU; None leaves torch's choice.
    progress : told what is done, how much of it, of how much, and the log line of a step.

    Raises
    ------
    BadInput : faults of the files or settings, all of them at once.
    Stopped : SIGTERM or Ctrl-C came; a checkpoint has been saved.
    """
    use_threads(threads)
    job, start = _resolve(
        cohort, out, recipe=recipe, config=config, overrides=overrides, labelled=labelled,
        label_groups=label_groups, annotated=annotated, split=split, init=init, seed=seed,
        cache=cache, device=choose_device(device),
    )  # fmt: skip
    run = job.run
    if run.exists():
        refuse_other_settings(run, job.recipe, job.split)
        if _nothing_left(job):
            logger.info("%s: finished at step %d", run.path, run.state["step"])
            return run
    elif not run.is_free():
        raise BadInput(f"{run.path}: neither empty nor a run folder; give another --out")
    facts = _check(job)
    if run.exists():
        refuse_other_content(run, _used(job), job.split, facts)
    run.path.mkdir(parents=True, exist_ok=True)
    with locked(run.path), deterministic(job.recipe.training.deterministic):
        run.tidy()
        _train(job, facts, start, progress or (lambda *_: None))
    return run


def _resolve(
    cohort: Path | str,
    out: Path | str,
    *,
    recipe: str,
    config: Path | None,
    overrides: Mapping[str, Any] | None,
    labelled: str | int | Path,
    label_groups: Path | str | None,
    annotated: Path | None,
    split: Path | None,
    init: Path | str | None,
    seed: int | None,
    cache: Path | None,
    device: torch.device,
) -> tuple[Job, RunFolder | None]:
    """The job that is asked for, and the run whose networks it starts from, if it begins."""
    asked = dict(overrides or {})
    if seed is not None:
        asked["seed"] = seed
    if label_groups is not None:
        asked["data.label_groups"] = [asdict(one) for one in read_label_groups(label_groups)]
    chosen = load_recipe(recipe, config=config, overrides=asked)
    run = RunFolder(out)
    chosen, start = (chosen, None) if init is None else with_start(chosen, init, run)
    if chosen.training.deterministic and device.type != "cpu":
        raise BadInput(
            f"training.deterministic holds on the CPU, not on {device}: interpolation has no "
            "deterministic gradient there; use --device cpu, or take the setting back"
        )
    scans = read_cohort(Path(cohort), annotated)
    scans = replace(scans, ignored=chosen.data.ignored(scans))
    for note in scans.notes:
        logger.warning("%s: %s", scans.root, note)
    if not chosen.uses_labels and str(labelled) != "all":
        raise BadInput(f"recipe {chosen.name} looks at no labels; leave --labelled out")
    parts = make_split(scans, split=split, labelled=labelled, seed=chosen.seed)
    if not chosen.uses_labels:
        parts["labelled"] = []
    return Job(run, chosen, scans, parts, device, cache), start


def _nothing_left(job: Job) -> bool:
    """Whether the run is finished: all of its steps done and all of its networks written."""
    run = job.run
    if not (run.path / "state.json").is_file():
        return False
    state, steps = run.state, job.recipe.training.steps
    written = set(run.network_names()) == set(job.recipe.networks)
    return bool(state["finished"]) and state["step"] >= steps and written


def _used(job: Job) -> Cohort:
    """The cohort without the scans that the split leaves out."""
    unused = set(job.split["unused"])
    return replace(job.cohort, subjects=tuple(s for s in job.cohort.subjects if s.id not in unused))


def _check(job: Job) -> Survey:
    """What is in the files; all faults together, and those of the training part."""
    recipe, split = job.recipe, job.split
    facts = check_cohort(
        _used(job),
        needs_labels=recipe.needs_labels,
        needs_pairs=recipe.needs_pairs,
        parts={part: split[part] for part in PARTS},
    )
    faults = []
    if recipe.needs_labels and not split["labelled"]:
        faults.append(
            f"{job.cohort.root}: no training scan has a label file, and recipe "
            f"{recipe.name} trains a segmentation network; add one, or use --recipe voxelmorph"
        )
    if recipe.needs_pairs and len(split["train"]) < 2:
        faults.append(
            f"{job.cohort.root}: one scan is left for training ({', '.join(split['train'])}), and "
            f"recipe {recipe.name} trains a registration network on pairs; add scans to the "
            "training part, or use --recipe segmentation"
        )
    if faults:
        raise BadInput(faults)
    return facts


def _plan(job: Job, facts: Survey, start: RunFolder | None) -> Plan:
    """The run's own plan, that of the run it starts from, or a new one of the cohort."""
    if job.run.exists():
        return job.run.plan
    used = _used(job)
    if start is None:
        plan = make_plan(used, job.recipe.data, facts, references=job.split["train"])
    elif "segmentation" in start.network_names():
        ignored = sorted({*start.plan.ignored, *job.cohort.ignored})
        plan = replace(start.plan, ignored=tuple(ignored))
    else:  # no network knows classes yet
        labels = label_fields(used, facts, job.recipe.data)
        plan = replace(start.plan, ignored=job.cohort.ignored, **labels)
    notes = label_notes(used, facts, plan) if job.recipe.uses_labels else []
    for note in notes:
        logger.info(note)
    return replace(plan, label_notes=tuple(notes))


def _check_flips(recipe: Recipe, plan: Plan) -> None:
    """Classes that trade places when mirrored must exist; they are numbered as in the plan."""
    for stage in recipe.stages:
        for field in ("augment", "augment_target"):
            augment = getattr(stage.task, field, None)
            known = range(1, plan.classes)
            pairs = augment.flip_pairs if augment is not None else ()
            if any(index not in known for pair in pairs for index in pair):
                numbered = ", ".join(f"{i}: {name}" for i, name in enumerate(plan.class_names, 1))
                raise BadInput(
                    f"stages.{stage.name}.task.{field}.flip_pairs: {pairs} are not classes of "
                    f"this cohort; classes are numbered {numbered}"
                )


def _say_what_cannot_be(job: Job, plan: Plan, facts: Survey) -> None:
    """What a recipe asks for and these scans do not have, where training goes on without it.

    Where no structure can be learnt, it does not go on: BadInput.
    """
    labelled = set(job.split["labelled"])
    teaching = [subject for subject in job.cohort.subjects if subject.id in labelled]
    unknown = untaught(teaching, facts, plan) if teaching else []
    if unknown:
        told = (
            f"{job.cohort.root}: of the {len(teaching)} label maps that training uses none has "
            f"{some(unknown)}, annotated there"
        )
        if len(unknown) == len(plan.label_values):
            raise BadInput(f"{told}; look at the values in --label-groups and annotations.json")
        logger.warning("%s: not learnt", told)
    weak = [s.name for s in job.recipe.stages if isinstance(s.task, Registration)
            and s.task.uses_labels]  # fmt: skip
    if weak and len(job.split["labelled"]) < 2:
        logger.warning(
            "fewer than two labelled scans: stage %s has no pair with two segmentations and learns "
            "from images alone; recipe one-shot is made for one labelled scan, voxelmorph for none",
            ", ".join(weak),
        )


def _fresh(job: Job, plan: Plan, name: str, seed: int) -> nn.Module:
    """A network with new weights, drawn from the seed."""
    spec, ndim = job.recipe.networks[name], len(plan.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "segmentation":
            return build_segmentation(spec, ndim=ndim, classes=plan.classes)
        return build_registration(spec, ndim=ndim)


def _networks(job: Job, plan: Plan, start: RunFolder | None) -> nn.ModuleDict:
    """Fresh networks from the seed, or those of the run it starts from."""
    networks = nn.ModuleDict()
    for name in job.recipe.networks:
        networks[name] = _fresh(job, plan, name, job.recipe.seed)
        if start is not None and name in start.network_names():
            try:
                networks[name].load_state_dict(start.network(name).state_dict())
            except RuntimeError as error:
                raise BadInput(
                    f"{start.path}: its {name} network does not fit this recipe's: {error}"
                ) from None
        if job.recipe.training.recompute:
            make_recompute(networks[name], f"networks.{name}")
    return networks.to(job.device)


def _say_what_was_seen(job: Job, facts: Survey, start: RunFolder) -> None:
    """Warn where scans that are set aside now have trained what the run starts from."""
    for sentence in met(job.split, seen_by(splits(start), _used(job), facts)):
        logger.warning("%s: %s", start.path, sentence)


def _begin(
    job: Job,
    plan: Plan,
    facts: Survey,
    start: RunFolder | None,
    prepared: Mapping[str, PreparedScan],
) -> None:
    """Everything that says what the run is, config.yaml last: with it the run exists."""
    run = job.run
    run.write_plan(plan)
    if start is not None:
        networks = set(start.network_names()) & set(job.recipe.networks)
        run.write("started_from.json", record_of(start, networks))
    if plan.reference is not None:
        found = {name: scan.preparation.alignment for name, scan in prepared.items()}
        scans = {name: entry.to_json() for name, entry in found.items() if entry is not None}
        run.write("alignment.json", {"reference": plan.reference.id, "scans": scans})
    run.write("split.json", {**job.split, **content_of(_used(job), facts)})
    run.write("environment.json", describe_environment(job.device))
    run.write_config(job.recipe)


def _train(job: Job, facts: Survey, start: RunFolder | None, progress: Progress) -> None:
    plan = _plan(job, facts, start)
    _check_flips(job.recipe, plan)
    _say_what_cannot_be(job, plan, facts)
    if start is not None:
        _say_what_was_seen(job, facts, start)
    networks = _networks(job, plan, start)
    prepared = prepare_cohort(
        _needed(job),
        plan,
        job.cache or default_cache(),
        lambda done, of: progress("prepare", done, of, {}),
        facts,
    )
    for name, scan in prepared.items():
        say_if_misaligned(name, scan.preparation)
    _begin(job, plan, facts, start, prepared)
    with stop_on_signals() as stop:
        trainer = _trainer(job, plan, networks, prepared, stop, progress)
        if trainer.restore():
            logger.info("resumed at step %d", trainer.state.step)
        if not job.split["validation"]:
            logger.info("no validation scans: the networks of the last step are taken")
        trainer.run()


def _trainer(
    job: Job,
    plan: Plan,
    networks: nn.ModuleDict,
    prepared: Mapping[str, PreparedScan],
    stop: Callable[[], int],
    progress: Progress,
) -> Trainer:
    run, recipe = job.run, job.recipe

    def on_state(state: State) -> None:
        if state.finished:  # first: where the state says so, they are there
            for name, weights in trainer.chosen().items():
                run.write_network(name, weights, recipe)
        run.write("state.json", {**asdict(state), "stage": recipe.stages[state.stage].name})

    trainer = Trainer(
        recipe,
        networks,
        Batches([prepared[name] for name in job.split["train"]], plan.geometry),
        Validation([prepared[name] for name in job.split["validation"]], job.device),
        spacing_mm=plan.spacing_mm,
        device=job.device,
        store=run.checkpoints,
        log=run.training_log(),
        fresh=lambda name: _fresh(job, plan, name, recipe.seed + 1).state_dict(),
        on_state=on_state,
        on_step=lambda line: progress("train", line["step"], recipe.training.steps, line),
        should_stop=stop,
    )
    return trainer


def _needed(job: Job) -> Cohort:
    """Training scans, hidden labels taken from them, and validation scans; no test scans."""
    split = job.split
    wanted = {*split["train"], *split["validation"]}
    seen = {*split["labelled"], *split["validation"]}
    subjects = (s if s.id in seen else replace(s, labels=None) for s in job.cohort.subjects)
    return replace(job.cohort, subjects=tuple(s for s in subjects if s.id in wanted))
