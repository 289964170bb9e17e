"""Laws of every overlap where a scan says nothing: of some structures, or of some voxels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.losses import OVERLAPS
from deepatlas.losses.protocols import Overlap

SHAPES = [(6, 7), (5, 4, 6)]
PARTS = {
    **{name: part() for name, part in OVERLAPS.items()},
    "dice with background": OVERLAPS["dice"](background=True),
    "dice_ce with background": OVERLAPS["dice_ce"](background=True),
}
KNOWN = torch.tensor([[True, False, True], [True, True, True]])  # class 2 is unknown in the first


def drawn(shape: tuple[int, ...], seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, 4, *shape, generator=random, dtype=torch.float64)


def hard(shape: tuple[int, ...], seed: int, classes: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
    """One-hot maps of these classes, in blobs of any shape."""
    picked = torch.tensor(classes)[drawn(shape, seed)[:, : len(classes)].argmax(dim=1)]
    return F.one_hot(picked, 4).movedim(-1, 1).double()


def gradient(part: Overlap, logits: Tensor, target: Tensor, **more: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    part(logits.softmax(dim=1), target, **more).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.fixture(params=SHAPES, ids=["2-D", "3-D"])
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return request.param


@pytest.fixture(params=PARTS, ids=str)
def part(request: pytest.FixtureRequest) -> Overlap:
    return PARTS[request.param]


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_no_gradient_and_no_value_where_voxels_are_ignored(
    part: Overlap, shape: tuple[int, ...], soft: bool
) -> None:
    logits = drawn(shape, 0)
    target = drawn(shape, 1).softmax(dim=1) if soft else hard(shape, 1)
    weight = (drawn(shape, 2)[:, :1] > 0).double()
    ignored = (weight == 0).expand_as(logits)
    found = gradient(part, logits, target, weight=weight, present=KNOWN)
    assert (found[ignored] == 0).all()
    assert (found[~ignored] != 0).any()
    other_logits = torch.where(ignored, drawn(shape, 3), logits)
    other_target = torch.where(ignored, torch.zeros_like(target), target)
    one = part(logits.softmax(dim=1), target, present=KNOWN, weight=weight)
    other = part(other_logits.softmax(dim=1), other_target, present=KNOWN, weight=weight)
    assert other.item() == pytest.approx(one.item(), rel=1e-12)


def test_a_structure_that_was_not_annotated_is_not_pushed_down_where_the_map_is_0(
    part: Overlap, shape: tuple[int, ...]
) -> None:
    target = hard(shape, 1, classes=(0, 1, 3))
    logits = drawn(shape, 0)
    found = gradient(part, logits, target, present=KNOWN)[0, 2]
    zero = target[0, 0] == 1
    assert (found[zero] <= 1e-12).all()  # descent never lowers it
    assert (found[zero] < -1e-6).any()  # other structures give way, to it as to the background
    as_background = gradient(part, logits, target)[0, 2]
    if part != OVERLAPS["dice"]():  # which has no gradient where a target lacks the structure
        assert (as_background[zero] > 1e-6).any()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_background_and_what_was_not_annotated_are_one(
    part: Overlap, shape: tuple[int, ...], soft: bool
) -> None:
    """Nothing changes where either map moves mass between them."""
    p, q = drawn(shape, 0).softmax(dim=1), hard(shape, 1)
    if soft:
        q = drawn(shape, 1).softmax(dim=1)

    def moved(maps: Tensor) -> Tensor:
        maps = maps.clone()
        maps[0, 0] += maps[0, 2]
        maps[0, 2] = 0
        return maps

    expected = part(p, q, present=KNOWN).item()
    for one, other in ((moved(p), q), (p, moved(q)), (moved(p), moved(q))):
        assert part(one, other, present=KNOWN).item() == pytest.approx(expected, rel=1e-9)


def test_all_annotated_and_nothing_ignored_is_the_plain_loss(
    part: Overlap, shape: tuple[int, ...]
) -> None:
    p, q = drawn(shape, 0).softmax(dim=1), drawn(shape, 1).softmax(dim=1)
    everything = {"present": torch.ones_like(KNOWN), "weight": torch.ones(2, 1, *shape)}
    assert part(p, q, **everything).item() == pytest.approx(part(p, q).item(), rel=1e-12)


def test_everything_ignored_is_zero_with_a_gradient(part: Overlap, shape: tuple[int, ...]) -> None:
    nothing = torch.zeros(2, 1, *shape)
    found = gradient(part, drawn(shape, 0), hard(shape, 1), weight=nothing)
    assert (found == 0).all()
    assert part(hard(shape, 0), hard(shape, 1), weight=nothing).item() == 0
