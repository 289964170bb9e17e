"""What a run is on disk, and what is said where it is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from deepatlas.data.plan import Plan
from deepatlas.errors import BadInput
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.run.environment import describe_environment
from deepatlas.run.folder import RunFolder
from deepatlas.training.recipe import load_recipe

SMALL = {
    "networks.segmentation.features": [4, 8],
    "networks.registration.encoder": [4],
    "networks.registration.decoder": [4],
    "networks.registration.final": [4],
}
RECIPE = load_recipe("da", overrides=SMALL)
PLAN = Plan(shape=(16, 24), spacing_mm=(1.0, 2.0), centre_mm=(0.0, 0.0), label_values=(3, 700))


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    return {
        "segmentation": build_segmentation(RECIPE.networks["segmentation"], ndim=2, classes=3),
        "registration": build_registration(RECIPE.networks["registration"], ndim=2),
    }


@pytest.fixture
def run(tmp_path: Path, networks: dict[str, nn.Module]) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.write("plan.json", PLAN.to_json())
    folder.write_config(RECIPE)
    for name, network in networks.items():
        folder.write_network(name, network.state_dict(), RECIPE)
    return folder


def test_networks_come_back(run: RunFolder, networks: dict[str, nn.Module]) -> None:
    image = torch.rand(1, 1, 16, 24)
    assert run.network_names() == ["segmentation", "registration"]
    segmentation, registration = run.segmentation_network(), run.registration_network()
    with torch.no_grad():
        assert torch.equal(segmentation(image), networks["segmentation"](image))
        moved = registration(image, image.flip(2)).displacement
        assert torch.equal(moved, networks["registration"](image, image.flip(2)).displacement)
    assert not segmentation.training
    assert not any(p.requires_grad for p in registration.parameters())


def test_recipe_and_plan_come_back(run: RunFolder) -> None:
    assert run.recipe == RECIPE
    assert run.plan == PLAN
    assert RunFolder.open(run.path).config["name"] == "da"


def test_a_folder_without_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"not a run folder .*deepatlas train"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("names", "free"),
    [
        ([], True),
        (["lock"], True),
        (["lock", "plan.json", ".partial-12-34-split.json"], True),
        (["lock", "plan.json", "split.json", "environment.json"], True),
        (["lock", "config.yaml"], False),
        (["letter.txt"], False),
        (["plan.json", "letter.txt"], False),
    ],
)
def test_where_a_run_may_begin(names: list[str], free: bool, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    assert RunFolder(folder).is_free() is free
    assert RunFolder(tmp_path / "missing").is_free()
    (tmp_path / "file").write_text("")
    assert not RunFolder(tmp_path / "file").is_free()


def test_leftovers_are_tidied_away(run: RunFolder) -> None:
    (run.path / ".partial-1-2-config.yaml").write_text("half")
    run.tidy()
    assert not list(run.path.glob(".partial*"))
    assert run.exists()


def test_a_network_that_is_not_there(run: RunFolder) -> None:
    (run.path / "registration.safetensors").unlink()
    assert run.network_names() == ["segmentation"]
    with pytest.raises(BadInput, match="has no registration network"):
        run.registration_network()


def test_a_damaged_network_is_named(run: RunFolder) -> None:
    path = run.path / "segmentation.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadInput, match=r"segmentation\.safetensors: not a segmentation network"):
        run.segmentation_network()


def test_a_file_of_other_tensors_is_no_network(run: RunFolder) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, run.path / "segmentation.safetensors")
    with pytest.raises(BadInput, match=r"not a segmentation network.*format"):
        run.segmentation_network()
    facts = {"format": "99", "network": "{}", "ndim": "2"}
    save_file({"x": torch.zeros(3)}, run.path / "segmentation.safetensors", metadata=facts)
    with pytest.raises(BadInput, match="format 99, expected 1"):
        run.segmentation_network()


@pytest.mark.parametrize(
    ("name", "read"),
    [("plan.json", "plan"), ("split.json", "split"), ("state.json", "state")],
)
@pytest.mark.parametrize("content", [None, "{", b"\xff\xfe"])
def test_a_damaged_file_is_named(
    content: str | bytes | None, name: str, read: str, run: RunFolder
) -> None:
    path = run.path / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(BadInput, match=name):
        getattr(run, read)


def test_a_plan_of_another_version_is_named_with_its_folder(run: RunFolder) -> None:
    run.write("plan.json", {**PLAN.to_json(), "version": 9})
    with pytest.raises(BadInput, match="not a plan of this version") as caught:
        _ = run.plan
    assert str(caught.value).startswith(str(run.path / "plan.json"))


@pytest.mark.parametrize("content", ["a: [", "training: {stepz: 1}", "- 1"])
def test_a_damaged_config_is_named(content: str, run: RunFolder) -> None:
    (run.path / "config.yaml").write_text(content)
    with pytest.raises(BadInput, match=r"config\.yaml"):
        _ = run.recipe


def test_evaluations_are_kept_by_folder(run: RunFolder) -> None:
    assert run.evaluations() == []
    for out, value in (("a", 1), ("b", 2), ("a", 3)):
        run.add_evaluation({"out": out, "value": value})
    assert run.evaluations() == [{"out": "b", "value": 2}, {"out": "a", "value": 3}]


def test_the_environment_names_versions_and_device() -> None:
    facts = describe_environment(torch.device("cpu"))
    assert facts["packages"]["torch"] == torch.__version__
    assert (facts["device"], facts["threads"]) == ("cpu", torch.get_num_threads())
