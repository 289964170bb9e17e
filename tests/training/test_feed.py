"""Batches drawn ahead in a thread: the same ones, in time, and faults where they are asked for."""

from __future__ import annotations

import threading

import pytest
import torch
from small import make_scans

from deepatlas.data.augment import Augmentation
from deepatlas.data.batches import Batch, Batches, Draw
from deepatlas.errors import BadInput
from deepatlas.training.feed import ahead

REQUEST = {"scan": Draw(2, "yes", augment=Augmentation()), "other": Draw(1, "any")}


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("deepatlas-feed")]


def test_the_same_batches_and_no_random_number_of_the_callers() -> None:
    batches = Batches(make_scans(3, 5, labelled=3))

    def draw(step: int) -> Batch:
        return batches.draw(REQUEST, 0, "a", step)

    with ahead(draw, 9) as get:
        state = torch.random.get_rng_state()
        found = [get(step) for step in range(4, 9)]  # from where a checkpoint left it
        assert torch.equal(torch.random.get_rng_state(), state)
    for step, batch in enumerate(found, 4):
        expected = draw(step)
        assert {role: scans.ids for role, scans in batch.scans.items()} == {
            role: scans.ids for role, scans in expected.scans.items()
        }
        one, other = batch.views["scan"], expected.views["scan"]
        image = expected.scans["scan"].image
        assert torch.equal(one.image(image), other.image(image))
    assert not threads()


def test_the_next_is_drawn_before_it_is_asked_for() -> None:
    drawn = [threading.Event() for _ in range(3)]

    def draw(step: int) -> Batch:
        drawn[step].set()
        return Batch({}, {})

    with ahead(draw, 3) as get:
        assert not drawn[0].is_set()
        get(0)
        assert drawn[1].wait(10)
        assert not drawn[2].wait(0.1)  # one ahead, no more
        get(1)
        assert drawn[2].wait(10)
        get(2)


def test_none_is_drawn_beyond_the_last() -> None:
    seen: list[int] = []

    def draw(step: int) -> Batch:
        seen.append(step)
        return Batch({}, {})

    with ahead(draw, 2) as get:
        get(0)
        get(1)
    assert seen == [0, 1]


def test_a_fault_is_told_where_its_batch_is_asked_for() -> None:
    def draw(step: int) -> Batch:
        if step == 1:
            raise BadInput("scan.safetensors: cannot be read")
        return Batch({}, {})

    with ahead(draw, 5) as get:
        get(0)
        with pytest.raises(BadInput, match=r"scan\.safetensors"):
            get(1)
    assert not threads()


def test_who_is_interrupted_leaves_no_thread() -> None:
    def train() -> None:
        with ahead(lambda step: Batch({}, {}), 5) as get:
            get(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not threads()
