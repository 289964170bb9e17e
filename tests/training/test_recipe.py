"""Recipes: every fault is named with its key, and what is resolved reads back as the same."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.training.recipe import (
    NETWORKS,
    Recipe,
    Stage,
    load_recipe,
    parse_recipe,
    recipe_names,
    to_tree,
)
from deepatlas.training.tasks import Joint, Registration, Segmentation

NAMES = [
    "baseline", "da", "da-paper", "one-shot", "segmentation", "semi-da-registration",
    "semi-da-segmentation", "voxelmorph", "weak",
]  # fmt: skip


@dataclass(frozen=True)
class Brightness:
    """A similarity from outside."""

    weight: float = 2.0

    def __call__(self, warped: Tensor, fixed: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.weight * (warped.mean() - fixed.mean()).abs()


def plain_function() -> Any:
    """Gives a part that cannot tell its settings."""
    return lambda warped, fixed: warped.mean()


def again(recipe: Recipe) -> Recipe:
    """Written to YAML and read back."""
    return parse_recipe(yaml.safe_load(yaml.safe_dump(to_tree(recipe), sort_keys=False)))


def test_the_recipes_of_the_package() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_reads_back_as_the_same(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert again(recipe) == recipe
    tree = to_tree(recipe)
    assert tree["training"]["checkpoint_minutes"] == 2.0  # defaults are written out
    assert all("kind" in stage["task"] for stage in tree["stages"])
    assert all(len(spec) > 1 for spec in tree["networks"].values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 11, 4999, 100_003])
def test_the_steps_of_the_stages_add_up(name: str, steps: int) -> None:
    recipe = load_recipe(name, overrides={"training.steps": steps})
    lengths = recipe.stage_steps()
    assert sum(lengths) == steps
    total = sum(stage.share for stage in recipe.stages)
    for length, stage in zip(lengths, recipe.stages, strict=True):
        assert length == pytest.approx(steps * stage.share / total, abs=1)


def test_the_paper_has_its_ratio_weights_and_rates() -> None:
    recipe = load_recipe("da-paper")
    task = recipe.stages[-1].task
    assert (task.registration_steps, task.segmentation_steps) == (20, 1)
    weights = (task.anatomy_weight, task.segmentation_anatomy_weight, task.supervised_weight)
    assert weights == (3.0, 3.0, 3.0)
    assert (type(task.similarity).__name__, type(task.regularity).__name__) == (
        "GlobalNCC",
        "Bending",
    )
    assert task.regularity_weight == 3.2
    assert task.augment is not None  # which the paper has not, and so it says
    assert "with our augmentation" in recipe.about


def test_overrides_reach_every_depth() -> None:
    recipe = load_recipe(
        "da",
        overrides={
            "training.steps": 7,
            "seed": 3,
            "stages.joint.task.registration_steps": 9,
            "stages.0.optimisers.segmentation.rate": 0.5,
            "stages.joint.task.similarity.window": 5,
            "stages.joint.task.augment.noise": 0.01,
            "data.align": "world",
            "networks.segmentation.features": [4, 8],
        },
    )
    joint = recipe.stages[2]
    assert (recipe.training.steps, recipe.seed, joint.task.registration_steps) == (7, 3, 9)
    assert recipe.stages[0].optimisers["segmentation"].rate == 0.5
    assert (joint.task.similarity.window, joint.task.augment.noise) == (5, 0.01)
    assert recipe.data.align == "world"
    assert recipe.networks["segmentation"] == {"kind": "unet", "features": [4, 8]}
    assert load_recipe("da").training.steps == 5000  # the recipe itself is as it was


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("trainng.steps", 5, "trainng"),
        ("training.stepz", 5, r"training\.stepz: there is no such key"),
        ("training.steps", "many", r"training\.steps.*'many'"),
        ("training.steps", 0, "steps must be at least 1"),
        ("training.steps", 2.5, r"training\.steps"),
        ("training.validations", -1, "validations"),
        ("training.checkpoint_minutes", -1.0, "checkpoint_minutes"),
        ("training.precision", "float16", "precision"),
        ("seed", "zero", "seed"),
        ("seed.value", 3, "seed"),
        ("data.spacing", [1, 1, 1], r"data\.spacing: there is no such key"),
        ("data.align", "left", r"data\.align"),
        ("data.percentiles.0.x", 1, r"data\.percentiles"),
        ("networks.segmentaton", "unet", "segmentaton"),
        ("networks.segmentation.featurs", [4], "featurs.*did you mean.*features"),
        ("networks.registration", "voxelmorf", "voxelmorf.*did you mean.*voxelmorph"),
        ("stages.jiont.share", 1, "stages.jiont.share.*no 'jiont' among.*joint"),
        ("stages.9.share", 1, "no '9' among"),
        ("stages.joint.share", 0, "share must be positive"),
        ("stages.joint.start", "middle", "start must be best or last"),
        ("stages.joint.task.ramb", 0.5, "ramb.*did you mean.*ramp"),
        ("stages.joint.task.similarity", "lcc", 'there is no "lcc"'),
        ("stages.joint.task.similarity.windo", 5, "windo"),
        ("stages.joint.task.augment.nois", 0.5, r"augment\.nois"),
        ("stages.joint.task.batch", 0, "batch must be at least 1"),
        ("stages.joint.task.atlases", 0, "atlases must be at least 1"),
        ("stages.joint.share", math.inf, "share must be positive"),
        ("stages.joint.task.labelled_pairs", 10, "labelled_pairs is a share, 0 to 1, not 10"),
        ("stages.joint.task.moving_labelled", -2, "moving_labelled is a share"),
        ("stages.joint.task.ramp", -3, "ramp is a share"),
        ("stages.joint.task.carried", math.nan, "carried is a share"),
        ("stages.joint.task.sharpen", 0, "sharpen must be positive"),
        ("stages.joint.task.anatomy_weight", -5, "anatomy_weight is a weight, 0 or more, not -5"),
        ("stages.joint.task.supervised_weight", math.nan, "supervised_weight is a weight"),
        ("stages.joint.task.segmentation_anatomy_weight", -1, "segmentation_anatomy_weight is"),
        ("stages.joint.task.regularity_weight", math.inf, "regularity_weight is a weight"),
        ("stages.registration.task.labelled_pairs", 10, "labelled_pairs is a share"),
        ("stages.registration.task.anatomy_weight", -5, "anatomy_weight is a weight"),
        ("stages.registration.task.regularity_weight", math.nan, "regularity_weight is a weight"),
        ("stages.registration.optimisers.segmentation.rate", 0.1, "trains registration only"),
        ("stages.joint.optimisers.segmentaton.rate", 0.1, "optimisers.*'segmentaton'"),
        ("stages.joint.optimisers.segmentation.rat", 0.1, r"optimisers\.segmentation\.rat"),
        ("stages.joint.fresh", ["both"], "fresh.*'both'"),
        ("stages.joint.name", "segmentation", "each of its own name"),
        ("stages", [], "one or more"),
        ("stages", 3, "stages"),
        ("training", None, "training"),
    ],
)
def test_a_wrong_setting_is_named(key: str, value: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        load_recipe("da", overrides={key: value})


def test_an_optimiser_of_a_frozen_network_is_refused_where_the_user_sets_it() -> None:
    key = "stages.semi-da.optimisers.segmentation.rate"
    with pytest.raises(BadInput, match=r"semi-da\.optimisers\.segmentation: .* registration only"):
        load_recipe("semi-da-registration", overrides={key: 0.1})
    frozen = load_recipe("da", overrides={"stages.joint.task.segmentation_steps": 0})
    assert "segmentation" in frozen.stages[-1].optimisers  # the recipe's own, nobody's fault


def test_a_task_needs_its_networks() -> None:
    with pytest.raises(BadInput, match=r"stages\.registration\.task.*'segmentation'.*voxelmorph"):
        load_recipe("voxelmorph", overrides={"stages.registration.task": "joint"})


def test_all_faults_of_one_kind_come_together() -> None:
    with pytest.raises(BadInput) as caught:
        load_recipe("da", overrides={"training.stepz": 5, "data.spacing": 1, "sed": 1})
    assert len(caught.value.faults) == 3


def test_an_unknown_recipe() -> None:
    with pytest.raises(BadInput, match=r"no recipe 'dda'; choose one of baseline, da"):
        load_recipe("dda")


def test_a_users_yaml_is_laid_over_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("training: {steps: 40}\ndata: {align: world}\n")
    recipe = load_recipe("da", config=path, overrides={"data.align": "centre"})
    assert (recipe.training.steps, recipe.data.align, len(recipe.stages)) == (40, "centre", 3)
    path.write_text("networks: {segmentation: {features: [4, 8]}}\n")
    recipe = load_recipe("da", config=path)
    assert list(recipe.networks) == ["segmentation", "registration"]
    assert recipe.networks["segmentation"] == {"kind": "unet", "features": [4, 8]}
    path.write_text("stages: [{name: only, task: {kind: segmentation}}]\n")
    assert [stage.name for stage in load_recipe("da", config=path).stages] == ["only"]


def test_a_part_of_another_kind_does_not_inherit_fields(tmp_path: Path) -> None:
    other = "monai.networks.nets:UNet"
    path = tmp_path / "my.yaml"
    path.write_text(f"networks: {{registration: {{kind: '{other}', channels: [4, 8]}}}}")
    wanted = {"kind": other, "channels": [4, 8]}
    assert load_recipe("weak", config=path).networks["registration"] == wanted
    by_keys = {"networks.registration.kind": other, "networks.registration.channels": [4, 8]}
    assert load_recipe("weak", overrides=by_keys).networks["registration"] == wanted
    backwards = dict(reversed(by_keys.items()))
    assert load_recipe("weak", overrides=backwards).networks["registration"] == wanted
    same = load_recipe("weak", overrides={"networks.registration.kind": "voxelmorph"})
    assert to_tree(same) == to_tree(load_recipe("weak"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("training: {stepz: 3}", r"my\.yaml: training\.stepz: there is no such key"),
        ("training: [", r"my\.yaml: not valid YAML"),
        ("- a\n- b\n", r"my\.yaml: expected keys .* got list"),
        ("", r"my\.yaml: expected keys .* got NoneType"),
        (None, r"my\.yaml: cannot be read"),
    ],
)
def test_a_faulty_yaml_is_named(content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=says):
        load_recipe("da", config=path)


def test_who_trains_and_who_looks_at_labels() -> None:
    assert not load_recipe("voxelmorph").uses_labels
    assert all(load_recipe(name).uses_labels for name in NAMES if name != "voxelmorph")
    assert Segmentation().trains == ("segmentation",)
    assert Registration().trains == ("registration",)
    assert Joint(segmentation_steps=0).trains == ("registration",)
    assert set(Joint().needs) == set(NETWORKS)


@pytest.mark.parametrize(
    ("name", "networks", "left"),
    [
        ("da", ["segmentation", "registration"], ["joint"]),
        ("da", ["registration"], ["segmentation", "joint"]),
        ("one-shot", ["registration"], ["semi-da", "joint"]),
        ("semi-da-registration", ["segmentation", "registration"], ["semi-da"]),
        ("baseline", ["segmentation"], ["segmentation", "registration"]),  # these are its own
    ],
)
def test_networks_of_another_run_replace_their_pretraining(
    name: str, networks: list[str], left: list[str]
) -> None:
    recipe = load_recipe(name).continued(networks)
    assert [stage.name for stage in recipe.stages] == left
    assert sum(recipe.stage_steps()) == recipe.training.steps


def test_something_must_be_left_to_train() -> None:
    recipe = load_recipe("da")
    with pytest.raises(BadInput, match="only pretraining"):
        replace(recipe, stages=recipe.stages[:2]).continued(NETWORKS)


def test_a_part_from_outside_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    kind = "test_recipe:Brightness"
    recipe = load_recipe(
        "voxelmorph", overrides={"stages.registration.task.similarity": {"kind": kind}}
    )
    assert to_tree(recipe)["stages"][0]["task"]["similarity"] == {"kind": kind, "weight": 2.0}
    assert again(recipe) == recipe


def test_a_part_that_cannot_be_recorded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(BadInput, match=r"plain_function.*make it a dataclass"):
        load_recipe(
            "voxelmorph",
            overrides={"stages.registration.task.similarity": "test_recipe:plain_function"},
        )


def test_a_network_from_outside_stays_as_it_was_given() -> None:
    spec = {"kind": "monai.networks.nets:UNet", "spatial_dims": "{ndim}", "multiple": 8}
    recipe = load_recipe("segmentation", overrides={"networks.segmentation": spec})
    assert recipe.networks["segmentation"] == spec
    assert again(recipe) == recipe


def test_stages_can_be_replaced() -> None:
    stage = load_recipe("da").stages[0]
    assert replace(stage, share=3.0).task == stage.task
    assert Stage("a", Segmentation()).task == Segmentation()
