"""The schema of a recipe: what is trained, on what, for how long; YAML in, YAML out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from deepatlas.data.plan import DataConfig
from deepatlas.errors import BadInput
from deepatlas.parts import build
from deepatlas.training.schedule import Optimiser
from deepatlas.training.tasks import TASKS

NETWORKS = ("segmentation", "registration")


@dataclass(frozen=True)
class Training:
    """How long and how.

    Parameters
    ----------
    steps : optimiser steps of the whole run, divided among its stages by their shares.
    deterministic : the same weights bit for bit, interrupted or not (same machine and threads).
    checkpoint_minutes : minutes between checkpoints.
    validations : how often the networks are scored on validation scans in a stage.
    precision : "bfloat16" (autocast; maps and losses stay float32) or "float32".
    """

    steps: int = 3000
    deterministic: bool = False
    checkpoint_minutes: float = 2.0
    validations: int = 8
    precision: str = "bfloat16"

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")
        if self.precision not in ("bfloat16", "float32"):
            raise ValueError(f"precision must be bfloat16 or float32, not {self.precision!r}")


@dataclass(frozen=True)
class Stage:
    """One task for a share of the steps.

    Parameters
    ----------
    share : of the run's steps, relative to the other stages' shares.
    pretraining : left out when the run starts from the networks of another run (--init).
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
        if self.share <= 0:
            raise ValueError(f"share must be positive, not {self.share}")
        if self.start not in ("best", "last"):
            raise ValueError(f"start must be best or last, not {self.start!r}")
        object.__setattr__(self, "task", build(TASKS, self.task, f"stages.{self.name}.task"))


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

    @property
    def needs_labels(self) -> bool:
        """Whether a segmentation network is trained."""
        return "segmentation" in self.networks

    @property
    def needs_pairs(self) -> bool:
        """Whether a registration network is trained."""
        return "registration" in self.networks

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
    continued: bool = False,
) -> Recipe:
    """A recipe by name, with a user's YAML laid over it and single keys over that.

    Parameters
    ----------
    config : YAML with any of the recipe's keys; a `stages` list replaces the recipe's.
    overrides : dotted keys, `training.steps` or `stages.0.task.batch`, to values.
    continued : leave the pretraining stages out.
    """
    source = resources.files("deepatlas.recipes") / f"{name}.yaml"
    if not source.is_file():
        raise BadInput(f"there is no recipe {name!r}; choose one of {', '.join(recipe_names())}")
    tree = yaml.safe_load(source.read_text(encoding="utf-8"))
    if config is not None:
        tree = _merge(tree, _read_yaml(config))
    for key, value in (overrides or {}).items():
        _set(tree, key, value)
    if continued:
        tree["stages"] = [s for s in tree["stages"] if not s.get("pretraining")]
        if not tree["stages"]:
            raise BadInput(f"recipe {name!r} has only pretraining stages: --init leaves nothing")
    return parse_recipe(tree, what=str(config or f"recipe {name}"))


def parse_recipe(tree: Mapping[str, Any], *, what: str = "recipe") -> Recipe:
    """A recipe from plain YAML values; faults are named with their keys."""
    try:
        return _ADAPTER.validate_python(tree)
    except ValidationError as error:
        faults = [f"{what}: {_place(e['loc'])}: {e['msg']}" for e in error.errors()]
        raise BadInput(faults) from None


def to_tree(part: Any) -> Any:
    """Plain YAML values of a recipe or any part of it, all defaults written out."""
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {f.name: to_tree(getattr(part, f.name)) for f in dataclasses.fields(part)}
        kind = _kinds().get(type(part))
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


def _place(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location) or "recipe"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); give a YAML file") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise BadInput(f"{path}: expected keys such as `training:`, got {type(tree).__name__}")
    return tree


def _merge(base: Any, top: Any) -> Any:
    if isinstance(base, dict) and isinstance(top, dict):
        merged = {key: _merge(base[key], top[key]) for key in base.keys() & top.keys()}
        return {**base, **top, **merged}
    return top


def _set(tree: Any, key: str, value: Any) -> None:
    *path, last = key.split(".")
    place = tree
    for part in path:
        if isinstance(place, list):
            place = place[_index(place, part, key)]
        else:
            if not isinstance(place.get(part), dict | list):
                place[part] = {"kind": place[part]} if isinstance(place.get(part), str) else {}
            place = place[part]
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _index(items: list[Any], part: str, key: str) -> int:
    """Position in a list, by number or by the name of a stage."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise BadInput(f"--set {key}: no {part!r} among {[n for n in names if n]}")


for _schema in (DataConfig, Optimiser, Training, Stage, Recipe):
    _schema.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
_ADAPTER: TypeAdapter[Recipe] = TypeAdapter(Recipe)
