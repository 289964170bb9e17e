"""What every entry of the three tables promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
import torch
from torch import Tensor

from deepatlas.losses import OVERLAPS, REGULARITIES, SIMILARITIES
from deepatlas.parts import build, describe

TABLES = {"similarity": SIMILARITIES, "regularity": REGULARITIES, "overlap": OVERLAPS}
ENTRIES = [(what, name) for what, table in TABLES.items() for name in table]
SHAPES = [(9, 7, 6), (11, 8)]


def _case(what: str, name: str, shape: tuple[int, ...]) -> tuple[Any, tuple[Tensor, ...], tuple]:
    """A part, its tensors (the first is learned), and what it is called with besides."""
    draw = torch.Generator().manual_seed(0)
    part = build(TABLES[what], name, what)
    if what == "regularity":
        field = torch.randn(2, len(shape), *shape, generator=draw)
        return part, (field,), ((1.5, 0.7, 2.0)[: len(shape)],)
    if what == "similarity":
        a, b = (torch.rand(2, 1, *shape, generator=draw) for _ in range(2))
        return part, (a, b), ()
    p, q = ((2 * torch.randn(2, 3, *shape, generator=draw)).softmax(1) for _ in range(2))
    return part, (p, q), ()


@pytest.fixture(params=ENTRIES, ids=lambda entry: entry[1])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return lambda shape: _case(*request.param, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_scalar_with_a_finite_gradient(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    part, (first, *rest), extra = make(shape)
    first.requires_grad_()
    loss = part(first, *rest, *extra)
    (gradient,) = torch.autograd.grad(loss, first)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() > 0
    assert gradient.shape == first.shape
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_and_autocast_change_nothing(
    make: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    part, tensors, extra = make(shape)
    rounded = [x.bfloat16() for x in tensors]
    expected = part(*(x.float() for x in rounded), *extra)
    with torch.autocast("cpu", torch.bfloat16):
        inside = part(*(x.float() for x in rounded), *extra)
        mixed = part(*rounded, *extra)
    for loss in (inside, mixed):
        assert loss.dtype == torch.float32
        assert loss.item() == expected.item()


def test_gradient_inside_autocast_is_the_same(make: Callable[..., Any]) -> None:
    part, (first, *rest), extra = make((9, 7, 6))
    first.requires_grad_()
    (expected,) = torch.autograd.grad(part(first, *rest, *extra), first)
    with torch.autocast("cpu", torch.bfloat16):
        loss = part(first, *rest, *extra)
    (gradient,) = torch.autograd.grad(loss, first)
    assert torch.equal(gradient, expected)


def test_float64_stays(make: Callable[..., Any]) -> None:
    part, tensors, extra = make((9, 7, 6))
    exact = part(*(x.double() for x in tensors), *extra)
    assert exact.dtype == torch.float64
    assert exact.item() == pytest.approx(part(*tensors, *extra).item(), rel=1e-5)


@pytest.mark.parametrize(("what", "name"), [e for e in ENTRIES if e[0] != "regularity"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float64, torch.bfloat16])
def test_masks_and_weights_may_be_of_any_type(what: str, name: str, dtype: torch.dtype) -> None:
    part, (one, other), _ = _case(what, name, (9, 7, 6))
    where = one[:, :1] > one[:, :1].median()
    key = "mask" if what == "similarity" else "weight"
    loss = part(one, other, **{key: where.to(dtype)})
    assert loss.dtype == torch.float32
    assert loss.item() == part(one, other, **{key: where.float()}).item()


def test_axes_are_treated_alike(make: Callable[..., Any]) -> None:
    part, tensors, extra = make((9, 7, 6))
    turn = (2, 0, 1)
    axes = (0, 1, *(2 + a for a in turn))
    turned = [x.permute(axes) for x in tensors]
    if extra:
        turned = [turned[0][:, list(turn)]]
        extra = (tuple(extra[0][a] for a in turn),)
    _, original, original_extra = make((9, 7, 6))
    expected = part(*original, *original_extra).item()
    assert part(*turned, *extra).item() == pytest.approx(expected, rel=1e-5)


def test_arguments_are_left_alone(make: Callable[..., Any]) -> None:
    part, tensors, extra = make((9, 7, 6))
    before = [x.clone() for x in tensors]
    tensors[0].requires_grad_()
    part(*tensors, *extra).backward()
    for x, y in zip(tensors, before, strict=True):
        assert torch.equal(x.detach(), y)


@pytest.mark.parametrize(("what", "name"), [e for e in ENTRIES if e[0] != "regularity"])
def test_tensors_of_different_shapes_are_refused(what: str, name: str) -> None:
    part, (one, other), _ = _case(what, name, (9, 7, 6))
    with pytest.raises(ValueError, match="same shape"):
        part(one, other[:1])


@pytest.mark.parametrize(("what", "name"), ENTRIES)
def test_a_part_is_its_configuration(what: str, name: str) -> None:
    part = build(TABLES[what], name, what)
    spec = describe(TABLES[what], part)
    assert spec["kind"] == name
    assert set(spec) == {"kind", *(field.name for field in fields(part))}
    assert build(TABLES[what], spec, what) == part
    assert repr(part).startswith(type(part).__name__ + "(")
    with pytest.raises(FrozenInstanceError):
        part.anything = 1
