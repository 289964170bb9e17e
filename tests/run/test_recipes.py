"""Every recipe trains on tiny phantoms, in 2-D and 3-D, with the losses that it has always had.

`python tests/run/test_recipes.py` writes golden_losses.json anew, for a change that is meant to
change them; the commit says why.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import write_cohort, write_split

from deepatlas.kernels import plain
from deepatlas.run.folder import RunFolder
from deepatlas.run.train import train
from deepatlas.training.recipe import load_recipe, recipe_names

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 9  # at least one of each kind in every stage
TOLERANCE = 0.05  # between machines and versions of torch
# Of a term that is small beside the total: the order of one sum moves regularities by a tenth.
SMALL = 5e-4
# Registration in three levels: on the fifth of these phantoms two voxels are normalised, which
# magnifies rounding without bounds.
SHALLOW = {"encoder": [16, 32], "decoder": [32, 32], "final": [16]}
SETTINGS = {"training.steps": STEPS, "training.validations": 1, "training.precision": "float32"}


def run_recipe(name: str, ndim: int, folder: Path, precision: str = "float32") -> RunFolder:
    """Nine steps; the cohort is drawn if it is not there."""
    cohort, split = folder / f"cohort{ndim}", folder / f"split{ndim}.json"
    if not cohort.exists():
        write_cohort(cohort, ndim=ndim)
        train_ids, validation = ["s00", "s01", "s02", "s05", "s06"], ["s03", "s04"]
        write_split(split, train=train_ids, validation=validation, test=["s07"])
    settings = {**SETTINGS, "training.precision": precision}
    if "registration" in load_recipe(name).networks:
        settings |= {f"networks.registration.{key}": value for key, value in SHALLOW.items()}
    return train(
        cohort,
        folder / f"{name}{ndim}{precision}",
        recipe=name,
        overrides=settings,
        split=split,
        cache=folder / "cache",
        device="cpu",
        threads=1,
    )


def losses(run: RunFolder) -> list[dict[str, float]]:
    """Of each step the total and its terms, unweighted."""
    lines = [line for line in run.log() if line["event"] == "train"]
    return [{"total": line["total"], **line["terms"]} for line in lines]


def close(found: list[dict[str, float]], tolerance: float) -> list[Any]:
    """These losses and all near them."""
    return [pytest.approx(step, rel=tolerance, abs=SMALL) for step in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains_with_its_losses(name: str, ndim: int, folder: Path) -> None:
    with plain():  # compiled loops round differently, and nine steps magnify that
        run = run_recipe(name, ndim, folder)
    assert (run.state["step"], run.state["finished"]) == (STEPS, True)
    assert run.network_names() == list(run.recipe.networks)
    stages = list(dict.fromkeys(line["stage"] for line in run.log() if "stage" in line))
    assert stages == [stage.name for stage in run.recipe.stages]
    expected = json.loads(GOLDEN.read_text())[f"{name} {ndim}-D"]
    assert losses(run) == close(expected, TOLERANCE)


def test_bfloat16_has_nearly_the_same_losses(folder: Path) -> None:
    run = run_recipe("da", 3, folder, precision="bfloat16")
    expected = json.loads(GOLDEN.read_text())["da 3-D"]
    totals = [[step["total"] for step in steps] for steps in (losses(run), expected)]
    assert totals[0][:5] == pytest.approx(totals[1][:5], rel=0.05)
    assert totals[0] != pytest.approx(totals[1], rel=1e-5)  # it is in use


def test_compiled_loops_have_nearly_the_same_losses(tmp_path: Path) -> None:
    totals = []
    for context in (nullcontext(), plain()):
        with context:
            run = run_recipe("da", 3, tmp_path / str(len(totals)))
        totals.append([step["total"] for step in losses(run)])
    assert totals[0][:5] == pytest.approx(totals[1][:5], rel=0.01)
    assert totals[0] != totals[1]  # they are in use


def test_every_recipe_has_its_losses() -> None:
    assert sorted(json.loads(GOLDEN.read_text())) == sorted(
        f"{name} {ndim}-D" for name in recipe_names() for ndim in (2, 3)
    )


def write_golden() -> None:
    """What the losses are now."""
    torch.set_num_threads(1)
    with plain(), tempfile.TemporaryDirectory() as scratch:
        found = {
            f"{name} {ndim}-D": [
                {key: float(f"{value:.5g}") for key, value in step.items()}
                for step in losses(run_recipe(name, ndim, Path(scratch)))
            ]
            for name in recipe_names()
            for ndim in (2, 3)
        }
    lines = [
        f" {json.dumps(key)}: [\n" + ",\n".join(f"  {json.dumps(step)}" for step in steps) + "\n ]"
        for key, steps in found.items()
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write_golden()
