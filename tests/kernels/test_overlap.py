"""Sums of two maps and their gradients, by kernels, against PyTorch in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepatlas.kernels import plain
from deepatlas.kernels.overlap import differences, log_likelihood
from deepatlas.networks.convolving import to_channels_last

SHAPES = [(1, 2, 5, 7), (3, 3, 40, 31), (2, 4, 7, 8, 9), (2, 37, 9, 4, 13), (2, 300, 3, 5)]
FLOOR = 1e-6


def two_maps(shape: tuple[int, ...], hard: bool) -> list[Tensor]:
    """A soft map with values of zero in it, and a target, equal in places, wanting gradients."""
    torch.manual_seed(0)
    p, q = (torch.randn(shape).softmax(dim=1) for _ in range(2))
    if hard:
        q = torch.zeros(shape).scatter_(1, q.argmax(dim=1, keepdim=True), 1.0)
    p[:, :, 1], p[:, 0, 2] = q[:, :, 1], 0.0
    return [p, to_channels_last(q)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("first", [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("product", [False, True])
def test_sums_and_gradients(
    shape: tuple[int, ...], hard: bool, first: tuple[bool, bool], product: bool
) -> None:
    maps = [
        x.contiguous() if channels_first else to_channels_last(x)
        for x, channels_first in zip(two_maps(shape, hard), first, strict=True)
    ]

    def results(p: Tensor, q: Tensor) -> list[Tensor]:
        p, q = p.detach().requires_grad_(), q.detach().requires_grad_()
        apart, both = differences(p, q, product=product)
        assert apart.shape == both.shape == shape[:2]
        likely = log_likelihood(p, q, FLOOR)
        assert likely.shape == shape[:1]
        factors = torch.arange(1.0, 1 + apart.numel()).view_as(apart).to(p)
        total = (apart * factors).sum() - 0.3 * (both * factors).sum()
        first = torch.autograd.grad(total, [p, q])
        second = torch.autograd.grad((likely * factors[:, 0]).sum(), [p, q])
        return [apart, both, likely, *first, *second]

    found = results(*maps)
    with plain():
        wanted = results(*[x.double() for x in maps])
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32
        assert torch.allclose(
            one.double(), other, rtol=2e-5, atol=2e-5 * float(other.detach().abs().max())
        )


@pytest.mark.parametrize("which", [0, 1])
def test_one_gradient_only(which: int) -> None:
    def gradient() -> Tensor:
        maps = two_maps((1, 3, 4, 5), hard=True)
        maps[which].requires_grad_()
        apart, both = differences(*maps)
        total = apart.sum() + 2 * both.sum() + log_likelihood(*maps, FLOOR).sum()
        return torch.autograd.grad(total, maps[which])[0]

    found = gradient()
    with plain():
        torch.testing.assert_close(found, gradient())


def test_thread_numbers_change_gradients_by_rounding_only() -> None:
    p, q = two_maps((2, 3, 30, 20), hard=False)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            leaf = p.clone().requires_grad_()
            apart, both = differences(leaf, q)
            (apart / both).sum().backward()
            found.append(leaf.grad)
        finally:
            torch.set_num_threads(threads)
    assert found[0] is not None
    assert torch.allclose(found[0], found[1], rtol=1e-5, atol=0)


def test_nan_is_not_hidden_where_the_target_is_zero() -> None:
    p, q = two_maps((1, 3, 4, 5), hard=True)
    p[0, :, 1, 1] = torch.nan
    assert bool(log_likelihood(p, q, FLOOR).isnan().all())
    q[0, :, 1, 1] = 0
    assert bool(log_likelihood(p, q, FLOOR).isnan().all())
