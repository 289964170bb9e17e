"""A recipe that goes on from the networks of another run (`--init`), and such a run resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from deepatlas.data.config import DataConfig
from deepatlas.errors import BadInput
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import is_start
from deepatlas.training.recipe import Recipe

_LABELS = ("label_groups", "ignore_value")  # of the data settings, what only classes depend on


def with_start(recipe: Recipe, init: Path | str, run: RunFolder) -> tuple[Recipe, RunFolder | None]:
    """The recipe as it goes on from the run at `init`, and that run; None if `run` is resumed.

    A run with a checkpoint has all weights: what it started from may be moved or gone.

    Raises
    ------
    BadInput : no finished run that fits is there.
    """
    if run.exists() and run.checkpoints.is_whole():
        return _resumed(recipe, init, run), None
    start = RunFolder.open(init)
    return _started(recipe, start), start


def _started(recipe: Recipe, start: RunFolder) -> Recipe:
    """The recipe as it goes on from another run: with its preparation, without its stages."""
    shared = [name for name in start.network_names() if name in recipe.networks]
    if shared and not start.state["finished"]:
        raise BadInput(f"{start.path}: its training is not finished; run its command again first")
    if not shared:
        wanted = " or ".join(recipe.networks)
        raise BadInput(f"{start.path}: has no {wanted} network yet; finish its training first")
    before = start.recipe
    for name in shared:
        if before.networks[name] != recipe.networks[name]:
            raise BadInput(
                f"{start.path}: its {name} network is {before.networks[name]}, this recipe's "
                f"{recipe.networks[name]}; give networks.{name} the same settings"
            )
    data = _merged(recipe.data, before.data, free=() if "segmentation" in shared else _LABELS)
    if data is None:
        raise BadInput(
            f"{start.path}: scans are prepared as in the run that is started from, by "
            f"{before.data}; take other data settings back"
        )
    changed = replace(recipe, init=str(start.path.resolve()), data=data)
    return changed.continued(shared)


def _resumed(recipe: Recipe, init: Path | str, run: RunFolder) -> Recipe:
    """The recipe as `run` was begun with it; where it differs, `refuse_other_settings` says so."""
    before = run.recipe
    begun = {stage.name for stage in before.stages}
    stages = tuple(s for s in recipe.stages if not s.pretraining or s.name in begun)
    path = str(Path(init).resolve())
    return replace(
        recipe,
        init=before.init if is_start(run, RunFolder(init)) else path,
        data=_merged(recipe.data, before.data, free=_LABELS) or recipe.data,
        stages=stages or recipe.stages,
    )


def _merged(asked: DataConfig, before: DataConfig, *, free: Sequence[str]) -> DataConfig | None:
    """The settings of before with the free ones that are asked for; None where others are, too."""
    usual = DataConfig()
    given = {n: getattr(asked, n) for n in free if getattr(asked, n) != getattr(usual, n)}
    merged = replace(before, **given)
    return merged if asked in (replace(usual, **given), merged) else None
