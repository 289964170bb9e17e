"""A whole generation is always left, and an optimiser goes on as if nothing had happened."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from small import make_networks
from torch import Tensor, nn

from deepatlas.errors import DeepAtlasError
from deepatlas.training.checkpoint import (
    CheckpointStore,
    pack,
    pack_optimiser,
    restore_optimiser,
    unpack,
)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoint")


def save(store: CheckpointStore, step: int) -> None:
    store.save({"x": torch.full((3,), float(step))}, {"step": step, "best": {"a": 0.1 + 0.2}})


def loaded(store: CheckpointStore) -> int:
    found = store.load()
    assert found is not None
    tensors, facts = found
    assert facts == {"step": facts["step"], "best": {"a": 0.1 + 0.2}}
    assert tensors["x"].tolist() == [facts["step"]] * 3
    return facts["step"]


def test_nothing_saved(store: CheckpointStore) -> None:
    assert store.load() is None


def test_the_newest_counts_and_its_predecessor_stays(store: CheckpointStore) -> None:
    for step in (1, 2, 3):
        save(store, step)
    assert loaded(store) == 3
    assert sorted(path.name for path in store.folder.iterdir()) == ["latest", "previous"]
    shutil.rmtree(store.folder / "latest")
    assert loaded(store) == 2


@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json"])
def test_a_damaged_generation_is_passed_over(
    name: str, store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 1)
    save(store, 2)
    path = store.folder / "latest" / name
    path.write_bytes(path.read_bytes()[:-5])
    assert loaded(store) == 1
    assert "latest: damaged" in caplog.text


@pytest.mark.parametrize("with_latest", [True, False])
def test_killed_before_a_rename_the_unfinished_generation_counts(
    with_latest: bool, store: CheckpointStore
) -> None:
    save(store, 1)
    save(store, 2)
    save(store, 3)
    (store.folder / "latest").rename(store.folder / "unfinished")
    if with_latest:  # killed before the first rename, not between the two
        (store.folder / "previous").rename(store.folder / "latest")
    assert loaded(store) == 3
    assert sorted(path.name for path in store.folder.iterdir()) == ["latest", "previous"]
    aside = store.folder / "unfinished"  # the next is killed while it is being written
    aside.mkdir()
    (aside / "tensors.safetensors").write_bytes(b"half")
    assert loaded(store) == 3


def test_a_full_disk_leaves_the_generations_before(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, 1)

    def full(path: Path, content: bytes) -> None:
        path.open("wb").write(content[:10])
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(DeepAtlasError, match=r"tensors.safetensors: the disk is full"):
            save(store, 2)
    assert loaded(store) == 1
    save(store, 3)
    assert loaded(store) == 3


def test_odd_tensors_come_back(store: CheckpointStore) -> None:
    tied = torch.rand(5)
    tensors: dict[str, Tensor] = {
        "tied": tied,
        "tied too": tied,
        "strided": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        "number": torch.tensor(7),
        "empty": torch.zeros(0),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    store.save(tensors, {})
    found = store.load()
    assert found is not None
    assert all(torch.equal(found[0][name], tensors[name]) for name in tensors)
    assert found[0]["half"].dtype == torch.bfloat16


def test_prefixes() -> None:
    network = nn.Linear(2, 2)
    packed = {**pack("a", network), **pack("best.a", nn.Linear(2, 2))}
    assert sorted(packed) == ["a/bias", "a/weight", "best.a/bias", "best.a/weight"]
    assert torch.equal(unpack("a", packed)["weight"], network.weight)


def train(network: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        image = torch.rand(2, 1, 12, 9, 10, generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        network(image).square().mean().backward()
        optimiser.step()


@pytest.mark.parametrize("settings", [{"weight_decay": 0.01}, {"amsgrad": True}])
def test_a_restored_optimiser_goes_on_bit_for_bit(
    settings: dict[str, Any], store: CheckpointStore
) -> None:
    network = make_networks(3)["segmentation"]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, **settings)
    train(network, optimiser, range(4))
    store.save({**pack("n", network), **pack_optimiser("o", optimiser)}, {})
    train(network, optimiser, range(4, 8))

    found = store.load()
    assert found is not None
    other = make_networks(3, seed=1)["segmentation"]
    other.load_state_dict(unpack("n", found[0]))
    again = torch.optim.AdamW(other.parameters(), lr=1e-2, **settings)
    restore_optimiser("o", found[0], again)
    train(other, again, range(4, 8))
    for (name, one), two in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name
        for key, moment in optimiser.state[one].items():
            assert torch.equal(moment, again.state[two][key])
            assert moment.stride() == again.state[two][key].stride()
