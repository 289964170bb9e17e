"""The schema of a recipe: what is trained, on what, for how long; YAML in, YAML out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from deepatlas.data.augment import Augmentation
from deepatlas.data.config import DataConfig
from deepatlas.errors import BadInput
from deepatlas.io.label_groups import LabelGroup
from deepatlas.networks.outside import is_outside
from deepatlas.networks.registration import REGISTRATION_NETWORKS
from deepatlas.networks.segmentation import SEGMENTATION_NETWORKS
from deepatlas.parts import resolve
from deepatlas.training.schedule import Optimiser
from deepatlas.training.tasks import TASKS
from deepatlas.training.tasks.base import make_part

TABLES: dict[str, Any] = {
    "segmentation": SEGMENTATION_NETWORKS,
    "registration": REGISTRATION_NETWORKS,
}
NETWORKS = tuple(TABLES)


@dataclass(frozen=True)
class Training:
    """How long and how.

    Parameters
    ----------
    steps : optimiser steps of the whole run, divided among its stages by their shares. Where a run
        is continued with more of them, the last stage gets what is added.
    deterministic : the same weights bit for bit, interrupted or not (same machine and threads).
    checkpoint_minutes : minutes between checkpoints.
    validations : how often the networks are scored on validation scans in a stage. Without such
        scans, or with 0, the networks of the last step are taken.
    precision : "bfloat16" (autocast; maps and losses stay float32) or "float32".
    recompute : levels of the networks are computed again in the backward pass instead of kept:
        less memory, slower steps, the same weights. For volumes that would not fit.
    """

    steps: int = 3000
    deterministic: bool = False
    checkpoint_minutes: float = 2.0
    validations: int = 8
    precision: str = "bfloat16"
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.validations < 0:
            raise ValueError(f"validations must be at least 0, not {self.validations}")
        if not self.checkpoint_minutes >= 0:
            raise ValueError(
                f"checkpoint_minutes must be at least 0, not {self.checkpoint_minutes}"
            )
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f"precision must be bfloat16 or float32, not {self.precision!r}")


@dataclass(frozen=True)
class Stage:
    """One task for a share of the steps.

    Parameters
    ----------
    share : of the run's steps, relative to the other stages' shares.
    pretraining : left out when the networks it trains come from another run (--init).
    start : networks of the stages before as they were "best" on validation, or "last".
    fresh : networks that start this stage with new weights.
    """

    name: str
    task: Any
    share: float = 1.0
    pretraining: bool = False
    start: str = "best"
    fresh: tuple[str, ...] = ()
    optimisers: dict[str, Optimiser] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise ValueError(f"share must be positive, not {self.share}")
        if self.start not in ("best", "last"):
            raise ValueError(f"start must be best or last, not {self.start!r}")
        object.__setattr__(self, "task", make_part(TASKS, self.task, f"stages.{self.name}.task"))


@dataclass(frozen=True)
class Recipe:
    """A way of training: networks, data rules, and stages one after another.

    Parameters
    ----------
    init : the run folder whose networks were started from, filled in by --init.
    """

    name: str
    stages: tuple[Stage, ...]
    about: str = ""
    init: str | None = None
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    networks: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.networks) - set(NETWORKS))
        if unknown or not self.networks:
            raise ValueError(f"networks must be among {NETWORKS}, got {sorted(self.networks)}")
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"stages must be one or more, each of its own name, got {names}")
        faults = [fault for stage in self.stages for fault in self._stage_faults(stage)]
        if faults:
            raise BadInput(faults)
        full = {name: _full_spec(name, spec) for name, spec in self.networks.items()}
        object.__setattr__(self, "networks", full)

    def _stage_faults(self, stage: Stage) -> list[str]:
        """Networks that a stage names and the recipe has not."""
        named = {
            "task": getattr(stage.task, "needs", ()),
            "optimisers": stage.optimisers,
            "fresh": stage.fresh,
        }
        return [
            f"stages.{stage.name}.{key}: speaks of the network {name!r}, and the recipe "
            f"{self.name} has {', '.join(self.networks)}; take it out or add the network"
            for key, names in named.items()
            for name in names
            if name not in self.networks
        ]

    @property
    def needs_labels(self) -> bool:
        """Whether a segmentation network is trained."""
        return "segmentation" in self.networks

    @property
    def needs_pairs(self) -> bool:
        """Whether a registration network is trained."""
        return "registration" in self.networks

    @property
    def uses_labels(self) -> bool:
        """Whether any stage looks at manual segmentations of training scans."""
        return any(getattr(stage.task, "uses_labels", True) for stage in self.stages)

    def continued(self, networks: Collection[str]) -> Recipe:
        """Without the pretraining of these networks, which come from another run.

        Raises
        ------
        BadInput : no stage would be left.
        """
        stages = tuple(
            stage
            for stage in self.stages
            if not stage.pretraining
            or not set(getattr(stage.task, "trains", NETWORKS)) <= set(networks)
        )
        if not stages:
            raise BadInput(f"recipe {self.name!r} has only pretraining: --init leaves nothing")
        return replace(self, stages=stages)

    def stage_steps(self) -> list[int]:
        """Steps of each stage; they add up to training.steps."""
        total = sum(stage.share for stage in self.stages)
        ends, done = [], 0.0
        for stage in self.stages:
            done += stage.share
            ends.append(round(self.training.steps * done / total))
        return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def recipe_names() -> list[str]:
    """Recipes that come with the package."""
    files = resources.files("deepatlas.recipes").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def load_recipe(
    name: str,
    *,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """A recipe by name, with a user's YAML laid over it and single keys over that.

    Parameters
    ----------
    config : YAML with any of the recipe's keys; a `stages` list replaces the recipe's.
    overrides : dotted keys, `training.steps` or `stages.joint.task.batch`, to values.

    Raises
    ------
    BadInput : an unknown recipe, key or part, or a value that does not fit; all faults together.
    """
    source = resources.files("deepatlas.recipes") / f"{name}.yaml"
    if not source.is_file():
        raise BadInput(f"there is no recipe {name!r}; choose one of {', '.join(recipe_names())}")
    tree = yaml.safe_load(source.read_text(encoding="utf-8"))
    usual = parse_recipe(tree, what=f"recipe {name}")
    if config is not None:
        tree = _merge(tree, _read_yaml(config))
    for key, value in sorted((overrides or {}).items(), key=_outer_first):
        _set(tree, key, value)
    recipe = parse_recipe(tree, what=str(config or f"recipe {name}"))
    _refuse_idle_optimisers(recipe, usual)
    return recipe


def _refuse_idle_optimisers(recipe: Recipe, usual: Recipe) -> None:
    """BadInput where the user, not the recipe's own file, sets an optimiser that does nothing."""
    own = {(s.name, name): each for s in usual.stages for name, each in s.optimisers.items()}
    faults = []
    for stage in recipe.stages:
        trains = getattr(stage.task, "trains", NETWORKS)
        faults += [
            f"stages.{stage.name}.optimisers.{name}: the task of this stage trains "
            f"{' and '.join(trains)} only; take it out"
            for name, settings in stage.optimisers.items()
            if name not in trains and own.get((stage.name, name)) != settings
        ]
    if faults:
        raise BadInput(faults)


def parse_recipe(tree: Mapping[str, Any], *, what: str = "recipe") -> Recipe:
    """A recipe from plain YAML values; faults are named with their keys."""
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        raise BadInput([_sentence(what, fault) for fault in error.errors()]) from None


def to_tree(part: Any) -> Any:
    """Plain YAML values of a recipe or any part of it, all defaults written out."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: to_tree(getattr(part, f.name)) for f in dataclasses.fields(part)}
        kind = _kind(type(part))
        return {"kind": kind, **fields} if kind else fields
    if isinstance(part, Mapping):
        return {key: to_tree(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [to_tree(value) for value in part]
    return part


def _kinds() -> dict[type, str]:
    """The names under which parts stand in their tables."""
    from deepatlas.losses.overlap import OVERLAPS
    from deepatlas.losses.regularity import REGULARITIES
    from deepatlas.losses.similarity import SIMILARITIES

    tables: Sequence[Mapping[str, type]] = (TASKS, OVERLAPS, REGULARITIES, SIMILARITIES)
    return {kind: name for table in tables for name, kind in table.items()}


def _kind(cls: type) -> str | None:
    """The name of a part's class in YAML; None for what needs none in its place."""
    if cls in _SCHEMAS:
        return None
    return _kinds().get(cls, f"{cls.__module__}:{cls.__qualname__}")


def _full_spec(name: str, spec: Any) -> dict[str, Any]:
    """The specification of a network with all its defaults; one from outside as it was given."""
    if is_outside(spec):
        return {"kind": spec} if isinstance(spec, str) else dict(spec)
    return resolve(TABLES[name], spec, f"networks.{name}")


def _sentence(what: str, fault: Any) -> str:
    """One of pydantic's faults in our words; it names the key."""
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        message = "there is no such key; take it out or mend its name"
    elif fault["loc"] and not isinstance(fault["input"], dict | list):
        message = f"{message[0].lower()}{message[1:]}, got {fault['input']!r}"
    return f"{what}: {key}: {message}" if key else f"{what}: {message}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: expected keys such as `training:`, got {type(tree).__name__}")
    return tree


def _merge(base: Any, top: Any) -> Any:
    """Mappings key by key; one of another kind takes the place of the whole."""
    if isinstance(base, dict) and isinstance(top, dict) and not _other_kind(base, top):
        merged = {key: _merge(base[key], top[key]) for key in base.keys() & top.keys()}
        return {**base, **top, **merged}
    return top


def _other_kind(base: Mapping[str, Any], top: Mapping[str, Any]) -> bool:
    return "kind" in base and "kind" in top and base["kind"] != top["kind"]


def _outer_first(override: tuple[str, Any]) -> tuple[int, bool]:
    """Order of single settings: the outer before the inner, a part's kind before its fields."""
    *path, last = override[0].split(".")
    return len(path), last != "kind"


def _set(tree: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    place = tree
    at: Any
    for part in path:
        at = _index(place, part, key) if isinstance(place, list) else part
        inner = place[at] if isinstance(place, list) else place.get(at)
        if not isinstance(inner, dict | list):
            place[at] = {"kind": inner} if isinstance(inner, str) else {}
        place = place[at]
    if last == "kind" and isinstance(place, dict) and _other_kind(place, {last: value}):
        place.clear()
    place[_index(place, last, key) if isinstance(place, list) else last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    """Position in a list, by number or by the name of a stage."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise BadInput(f"--set {key}: no {part!r} among {[n for n in names if n]}")


_SCHEMAS: tuple[Any, ...] = (
    Augmentation, LabelGroup, DataConfig, Optimiser, Training, Stage, Recipe,
)  # fmt: skip
for _schema in _SCHEMAS:
    _schema.__pydantic_config__ = ConfigDict(extra="forbid")
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe)
