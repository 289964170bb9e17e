"""From a folder of scans to a finished run: check, prepare, train, or resume where it stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deepatlas.compute import choose_device, use_threads
from deepatlas.data.batches import Batches
from deepatlas.data.check import check_cohort
from deepatlas.data.plan import Plan, make_plan
from deepatlas.data.cache import default_cache, prepare_cohort
from deepatlas.data.prepare import PreparedScan
from deepatlas.data.survey import Survey
from deepatlas.errors import BadInput
from deepatlas.io.layouts import read_cohort
from deepatlas.io.subject import Cohort
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.run.environment import describe_environment
from deepatlas.run.folder import RunFolder
from deepatlas.run.lock import locked
from deepatlas.run.split import make_split
from deepatlas.run.stopping import stop_on_signals
from deepatlas.training.recipe import Recipe, load_recipe, to_tree
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
    split: Path | None = None,
    init: Path | str | None = None,
    seed: int | None = None,
    cache: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Train the networks of a recipe on a folder of scans; the same call again resumes.

    Parameters
    ----------
    cohort : folder with images and, for some of them, label files.
    out : the run folder.
    recipe, config, overrides : a recipe's name, a YAML over it, single dotted keys over that.
    labelled : "all", a number or a file of ids: the training labels that may be seen.
    split : JSON with train, validation and test ids; without it every scan is trained on.
    init : a finished run whose networks replace the recipe's pretraining stages.
    seed : overrides the recipe's seed.
    cache : where prepared scans are kept; the user's cache folder by default.
    progress : told what is going on.

    Raises
    ------
    BadInput : faults of the files or settings, all of them at once.
    Stopped : SIGTERM or Ctrl-C came; a checkpoint has been saved.
    """
    use_threads(threads)
    where = choose_device(device)
    asked = dict(overrides or {})
    if seed is not None:
        asked["seed"] = seed
    start = RunFolder.open(init) if init else None
    chosen = load_recipe(recipe, config=config, overrides=asked, continued=start is not None)
    if start is not None:
        chosen = replace(chosen, init=str(start.path.resolve()))
    scans = read_cohort(Path(cohort))
    parts = make_split(scans, split=split, labelled=labelled, seed=chosen.seed)
    job = Job(RunFolder(out), chosen, scans, parts, where, cache)
    if job.run.exists():
        _refuse_changes(job)
        if _nothing_left(job):
            logger.info("%s: finished at step %d", job.run.path, job.run.state["step"])
            return job.run
    elif job.run.path.exists() and any(job.run.path.iterdir()):
        raise BadInput(f"{job.run.path}: neither empty nor a run folder; give another --out")
    facts = _check(job)
    job.run.path.mkdir(parents=True, exist_ok=True)
    with locked(job.run.path), _deterministic(chosen.training.deterministic):
        _train(job, facts, start, progress or (lambda *_: None))
    return job.run


def _refuse_changes(job: Job) -> None:
    """Only more steps are allowed on an existing run."""
    before, now = _flat(job.run.config), _flat(to_tree(job.recipe))
    before |= _flat({"split": job.run.split})
    now |= _flat({"split": job.split})
    more = now.get("training.steps", 0) >= before.get("training.steps", 0)
    changed = [
        f"{key}: {before.get(key, 'nothing')} in the run, {now.get(key, 'nothing')} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not (key == "training.steps" and more)
    ]
    if changed:
        raise BadInput(
            f"{job.run.path} was begun with other settings; give another --out, or take back:\n"
            + "\n".join(f"  {line}" for line in changed)
        )


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested plain values."""
    if isinstance(tree, dict) and tree:
        pairs = [_flat(value, f"{prefix}{key}.") for key, value in tree.items()]
        return {key: value for pair in pairs for key, value in pair.items()}
    if isinstance(tree, list | tuple) and any(isinstance(item, dict) for item in tree):
        return _flat({str(i): item for i, item in enumerate(tree)}, prefix)
    return {prefix.removesuffix("."): list(tree) if isinstance(tree, tuple) else tree}


def _nothing_left(job: Job) -> bool:
    steps = job.run.config["training"]["steps"]
    path = job.run.path / "state.json"
    return path.is_file() and job.run.state["finished"] and job.recipe.training.steps == steps


def _used(job: Job) -> Cohort:
    """The cohort without the scans that the split leaves out."""
    unused = set(job.split["unused"])
    return replace(
        job.cohort, subjects=tuple(s for s in job.cohort.subjects if s.id not in unused)
    )


def _check(job: Job) -> Survey:
    used = _used(job)
    facts = check_cohort(
        used, needs_labels=job.recipe.needs_labels, needs_pairs=job.recipe.needs_pairs
    )
    if job.recipe.needs_labels and not job.split["labelled"]:
        raise BadInput(
            f"{job.cohort.root}: no training scan has a label file, and recipe "
            f"{job.recipe.name} trains a segmentation network; add one to labels, "
            "or use --recipe voxelmorph"
        )
    return facts


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _plan(job: Job, facts: Survey, start: RunFolder | None) -> Plan:
    """The run's own plan, that of the run it starts from, or a new one of the cohort."""
    if (job.run.path / "plan.json").is_file():
        return job.run.plan
    return start.plan if start is not None else make_plan(_used(job), job.recipe.data, facts)


def _networks(job: Job, plan: Plan, start: RunFolder | None) -> nn.ModuleDict:
    """Fresh networks from the seed, or those of the run it starts from."""
    ndim = len(plan.shape)
    networks = nn.ModuleDict()
    for name, spec in job.recipe.networks.items():
        with torch.random.fork_rng():
            torch.manual_seed(job.recipe.seed)
            if name == "segmentation":
                networks[name] = build_segmentation(spec, ndim=ndim, classes=plan.classes)
            else:
                networks[name] = build_registration(spec, ndim=ndim)
    if start is not None:
        shared = [name for name in start.network_names() if name in networks]
        if not shared:
            raise BadInput(f"{start.path}: has none of the networks {sorted(networks)}; train it")
        for name in shared:
            try:
                networks[name].load_state_dict(start.network(name).state_dict())
            except RuntimeError as error:
                raise BadInput(
                    f"{start.path}: its {name} network differs from this recipe's: {error}"
                ) from None
    return networks.to(job.device)


def _begin(job: Job, plan: Plan) -> None:
    """Everything that says what the run is, config.yaml last: with it the run exists."""
    run = job.run
    run.write("plan.json", plan.to_json())
    run.write("split.json", job.split)
    run.write("environment.json", describe_environment(job.device))
    run.write_config(job.recipe)


def _train(job: Job, facts: Survey, start: RunFolder | None, progress: Progress) -> None:
    run, recipe = job.run, job.recipe
    plan = _plan(job, facts, start)
    _begin(job, plan)
    prepared = prepare_cohort(
        _needed(job),
        plan,
        job.cache or default_cache(),
        lambda done, of: progress("prepare", done, of, {}),
        facts,
    )
    hidden = set(job.split["train"]) - set(job.split["labelled"])
    scans = [_hide(prepared[name], name in hidden) for name in job.split["train"]]
    networks = _networks(job, plan, start)

    def on_state(state: State) -> None:
        stage = recipe.stages[state.stage].name
        run.write("state.json", {**asdict(state), "stage": stage})

    with stop_on_signals() as stop:
        trainer = Trainer(
            recipe,
            networks,
            Batches(scans),
            Validation([prepared[name] for name in job.split["validation"]], job.device),
            spacing_mm=plan.spacing_mm,
            device=job.device,
            store=run.checkpoints,
            log=run.training_log(),
            on_state=on_state,
            on_step=lambda line: progress("train", line["step"], recipe.training.steps, line),
            should_stop=lambda: bool(stop()),
        )
        if trainer.restore():
            logger.info("resumed at step %d", trainer.state.step)
            progress("resumed", trainer.state.step, recipe.training.steps, {})
        trainer.run()
    for name, weights in trainer.chosen().items():
        run.write_network(name, weights, recipe)
    on_state(trainer.state)


def _needed(job: Job) -> Cohort:
    """Training and validation scans; test scans are not looked at here."""
    wanted = {*job.split["train"], *job.split["validation"]}
    return replace(job.cohort, subjects=tuple(s for s in job.cohort.subjects if s.id in wanted))


def _hide(scan: PreparedScan, hidden: bool) -> PreparedScan:
    return replace(scan, labels=None) if hidden else scan
