"""Learning rates: a warm-up, then down to zero."""

from __future__ import annotations

import itertools

import pytest

from deepatlas.training.schedule import Optimiser

STEPS = 200


def rates(**settings: object) -> list[float]:
    optimiser = Optimiser(rate=2.0, **settings)  # type: ignore[arg-type]
    return [optimiser.rate_at(step, STEPS) for step in range(STEPS)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "steps"])
def test_it_grows_during_the_warm_up(schedule: str) -> None:
    first = rates(schedule=schedule, warmup=0.1)[:20]
    assert first == pytest.approx([2.0 * (k + 1) / 20 for k in range(20)])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_falls_to_zero(schedule: str) -> None:
    falling = rates(schedule=schedule, warmup=0.1)[20:]
    assert all(later < earlier for earlier, later in itertools.pairwise(falling))
    assert falling[0] == 2.0
    assert 0 < falling[-1] < 0.02


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert rates(warmup=0.0)[101] == pytest.approx(1.0, abs=0.02)


def test_steps_are_a_fifth_each() -> None:
    assert sorted(set(rates(schedule="steps", warmup=0.0))) == pytest.approx([0.08, 0.4, 2.0])


def test_constant() -> None:
    assert set(rates(schedule="constant", warmup=0.0)) == {2.0}


def test_a_stage_of_one_step_has_a_rate() -> None:
    assert Optimiser().rate_at(0, 1) == Optimiser().rate


@pytest.mark.parametrize(
    "fault",
    [{"rate": 0.0}, {"rate": -1.0}, {"clip": 0.0}, {"weight_decay": -0.1}, {"warmup": 1.5},
     {"warmup": -0.1}, {"schedule": "cosin"}, {"average": 1.0}, {"average": -0.1}],
)  # fmt: skip
def test_impossible_settings(fault: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(fault))):
        Optimiser(**fault)  # type: ignore[arg-type]
