"""Steps of our own recipe, without and with `training.recompute`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from deepatlas.data.batches import Batch, Draw, Scans
from deepatlas.networks.recompute import make_recompute
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.training.recipe import load_recipe
from deepatlas.training.stage_run import StageRun
from deepatlas.training.tasks.base import Context

RECIPE, CLASSES = "da", 4


def step(size: int, which: str) -> Case:
    """A training step of one of the networks; the second keeps less and computes it again."""
    return Case(
        [
            Candidate("deepatlas", stepping(size, which), "bfloat16"),
            Candidate("ours, recomputing", stepping(size, which, recompute=True), "bfloat16"),
        ],
        comparable=False,
        note=f"batch 2, {CLASSES} classes, in a process as PyTorch sets it up; the second by "
        "`training.recompute`",
    )


def stepping(size: int, which: str, *, recompute: bool = False) -> Callable[[], Outputs]:
    """The joint stage, batch 2, on images that are made up; a step at each call."""
    recipe = load_recipe(RECIPE)
    stage = recipe.stages[-1]
    torch.manual_seed(0)
    networks = nn.ModuleDict(
        {
            "segmentation": build_segmentation(
                recipe.networks["segmentation"], ndim=3, classes=CLASSES
            ),
            "registration": build_registration(recipe.networks["registration"], ndim=3),
        }
    )
    if recompute:
        for name, network in networks.items():
            make_recompute(network, f"networks.{name}")
    context = Context((1.0,) * 3, 1000, (0, stage.name), labelled=4, unlabelled=8)
    run = StageRun(stage, networks, context, torch.get_default_device(), recipe.training.precision)
    index = run.turns.index(which)
    batch = _batch(run.task.request(index), size)

    def once() -> Outputs:
        return (torch.tensor(run.step(index, batch)["total"]),)

    return once


def _batch(request: Mapping[str, Draw], size: int) -> Batch:
    """What a task asks for, of images that are made up."""
    scans, views = {}, {}
    for number, (role, draw) in enumerate(request.items()):
        has = draw.labelled == "yes"
        scans[role] = Scans(
            image=inputs.image(draw.count, [size] * 3, seed=number),
            labels=inputs.labels(draw.count, CLASSES, [size] * 3, seed=number) * has,
            labelled=torch.full((draw.count,), has),
            present=torch.full((draw.count, CLASSES - 1), has),
            ids=tuple(f"{role}{k}" for k in range(draw.count)),
        )
        if draw.augment is not None:
            random = torch.Generator("cpu").manual_seed(number)
            with torch.device("cpu"):
                views[role] = draw.augment.draw(draw.count, [size] * 3, random, None)
    return Batch(scans, views)


def _row(which: str) -> Row:
    return Row(
        f"recipe-{which}", f"our recipe, {which} step", step,
        {"size": 96, "which": which}, {"size": 48, "which": which}, {"size": 32, "which": which},
        seconds=0.0, least=10,
    )  # fmt: skip


ROWS = (_row("registration"), _row("segmentation"))
