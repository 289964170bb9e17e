"""Sampling kernels against PyTorch's own in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deepatlas.kernels import in_parts, plain, usable
from deepatlas.kernels.sampling import sample as sample_compiled
from deepatlas.spatial.field import double
from deepatlas.spatial.grid import Outside, sample
from deepatlas.spatial.velocity import integrate
from deepatlas.spatial.warp import warp

SHAPES = [(9, 7, 11), (13, 10), (1, 8, 6), (5, 1, 1), (1, 12)]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(5)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value, and gradients of its product with fixed weights."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*leaves)
    weights = torch.linspace(-1, 2, value.numel(), dtype=torch.float64).reshape(value.shape)
    (value * weights.to(value)).sum().backward()
    return [value.detach(), *(x.grad for x in leaves if x.grad is not None)]


def agree(function: Callable[..., Tensor], *inputs: Tensor, tolerance: float = 2e-5) -> None:
    found = with_gradients(function, *inputs)
    wanted = with_gradients(function, *(x.double() for x in inputs))
    for one, other in zip(found, wanted, strict=True):
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("outside", ["zeros", "border"])
@pytest.mark.parametrize("channels", [1, 7, 17])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_anywhere(
    shape: tuple[int, ...], channels: int, outside: Outside
) -> None:
    image = torch.randn(2, channels, *shape)
    reach = torch.tensor(shape, dtype=torch.float32).reshape(1, -1, *[1] * len(shape))
    index = torch.rand(2, len(shape), *[n + 2 for n in shape]) * (reach + 3) - 1.5
    agree(lambda x, i: sample(x, i, outside=outside), image, index)


@pytest.mark.parametrize("outside", ["zeros", "border"])
@pytest.mark.parametrize("shape", SHAPES)
def test_displacements(shape: tuple[int, ...], outside: Outside) -> None:
    image, displacement = torch.randn(2, 2, *shape), torch.randn(2, len(shape), *shape) * 2
    agree(lambda x, u: warp(x, u, outside=outside), image, displacement)


@pytest.mark.parametrize("shape", [(9, 7, 11), (13, 10)])
def test_scaling_and_squaring(shape: tuple[int, ...]) -> None:

    velocity = torch.randn(2, len(shape), *shape) * 0.7
    agree(lambda v: integrate(v, squarings=5), velocity, tolerance=2e-4)


@pytest.mark.parametrize("shape", [(9, 8, 11), (13, 10), (1, 8, 6), (2, 1, 1), (1, 12)])
def test_doubling(shape: tuple[int, ...]) -> None:
    field = torch.randn(2, len(shape), *[(n + 1) // 2 for n in shape])
    agree(lambda x: double(x, shape), field)


def test_the_number_of_threads_changes_no_bit() -> None:
    image, index = torch.randn(2, 3, 9, 8, 7), torch.rand(2, 3, 9, 8, 7) * 9
    velocity = torch.randn(1, 3, 9, 8, 7)
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(
                [*with_gradients(sample, image, index), *with_gradients(integrate, velocity)]
            )
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_any_layout_of_memory() -> None:
    image = torch.randn(2, 6, 7, 8, 3).movedim(-1, 1)
    index = (torch.rand(1, 6, 7, 8, 3) * 6).movedim(-1, 1).expand(2, -1, -1, -1, -1)
    assert torch.equal(sample(image, index), sample(image.contiguous(), index.contiguous()))


def test_places_that_are_no_numbers_touch_no_memory_but_the_image() -> None:
    image = torch.randn(1, 1, 5, 6, 7)
    index = torch.full((1, 3, 2, 2, 2), torch.nan)
    index[..., 1] = torch.inf
    index[:, 0, 0] = -1e30
    for outside in ("zeros", "border"):
        value, *gradients = with_gradients(
            lambda x, i, o=outside: sample(x, i, outside=o), image, index
        )
        assert value.shape == (1, 1, 2, 2, 2)
        assert [g.shape for g in gradients] == [image.shape, index.shape]


def test_an_image_and_an_index_of_other_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be sampled"):
        sample(torch.zeros(2, 1, 4, 4), torch.zeros(1, 2, 4, 4))


def test_kernels_are_for_float32_on_cpus_and_can_be_left_out() -> None:
    image = torch.zeros(1, 1, 4, 4)
    assert usable(image)
    assert not usable(image.double())
    assert not usable(image, image.to("meta"))
    with plain():
        assert not usable(image)
    assert usable(image)


def test_plain_and_compiled_agree() -> None:
    image, index = torch.randn(1, 2, 5, 6, 7), torch.rand(1, 3, 5, 6, 7) * 6
    compiled = sample_compiled(image, index, relative=False, zeros=True)
    with plain():
        torch.testing.assert_close(sample(image, index), compiled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11])
def test_parts_make_the_whole(count: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        parts = in_parts(lambda first, last: list(range(first, last)), count)
    finally:
        torch.set_num_threads(before)
    assert [n for part in parts for n in part] == list(range(count))


def test_what_fails_in_a_part_is_raised() -> None:
    before = torch.get_num_threads()

    def fail(first: int, last: int) -> None:
        if last == 4:
            raise ValueError("in the last part")

    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="last part"):
            in_parts(fail, 4)
    finally:
        torch.set_num_threads(before)
