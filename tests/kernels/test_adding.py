"""What lies at corners, added at the fine voxels around them, against plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepatlas.kernels.adding import add_at_corners
from deepatlas.networks.convolving import to_channels_last

SHAPES = [(3, 5, 4), (1, 2, 7), (1, 1, 1), (6, 5), (1, 1)]
DTYPES = [torch.float32, torch.bfloat16]


def given(shape: tuple[int, ...], channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    corners = torch.randn(2, 2 ** len(shape) * channels, *[n + 1 for n in shape])
    fine = torch.randn(2, channels, *[2 * n for n in shape])
    return to_channels_last(corners.to(dtype)), to_channels_last(fine.to(dtype))


def placed(corners: Tensor, channels: int) -> Tensor:
    """The values of the corners at their fine voxels: sides put between, half a corner cut off."""
    d = corners.ndim - 2
    sides = corners.reshape(len(corners), *[2] * d, channels, *corners.shape[2:])
    axes = [pair for k in range(d) for pair in (d + 2 + k, 1 + k)]
    space = [2 * n for n in corners.shape[2:]]
    whole = sides.permute(0, d + 1, *axes).reshape(len(corners), channels, *space)
    return whole[(..., *[slice(1, -1)] * d)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_values_and_gradient(shape: tuple[int, ...], dtype: torch.dtype, channels: int) -> None:
    corners, fine = given(shape, channels, dtype)
    corners.requires_grad_()
    wanted = (fine.float() + placed(corners.float(), channels)).to(dtype)
    upstream = to_channels_last(torch.randn_like(wanted))
    (exact,) = torch.autograd.grad(wanted, corners, upstream)
    kept = fine.clone()
    found = add_at_corners(kept, corners)
    assert found.data_ptr() == kept.data_ptr()
    assert torch.equal(found, wanted)
    (gradient,) = torch.autograd.grad(found, corners, upstream)
    assert torch.equal(gradient, exact)
    assert gradient.movedim(1, -1).is_contiguous()


def test_the_gradient_of_what_it_is_added_to_is_that_of_the_sum() -> None:
    corners, fine = given((2, 3, 4), 4, torch.float32)
    fine.requires_grad_()
    out = add_at_corners(1 * fine, corners)
    upstream = torch.randn_like(out)
    assert torch.equal(torch.autograd.grad(out, fine, upstream)[0], upstream)


@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_threads(threads: int) -> None:
    corners, fine = given((3, 5, 4), 8, torch.float32)
    wanted = fine + placed(corners, 8)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(add_at_corners(fine, corners), wanted)
    finally:
        torch.set_num_threads(before)


def test_memory_that_begins_at_any_place() -> None:
    corners, fine = given((3, 5, 4), 4, torch.bfloat16)
    wanted = (fine.float() + placed(corners.float(), 4)).bfloat16()
    moved = torch.empty(1 + corners.numel(), dtype=torch.bfloat16)[1:]
    rows = corners.movedim(1, -1)
    moved.copy_(rows.flatten())
    somewhere = moved.view(rows.shape).movedim(-1, 1).requires_grad_()
    out = add_at_corners(fine, somewhere)
    assert torch.equal(out, wanted)
    upstream = torch.empty(1 + math.prod(out.shape), dtype=torch.bfloat16)[1:].fill_(1)
    (gradient,) = torch.autograd.grad(
        out, somewhere, upstream.view(out.movedim(1, -1).shape).movedim(-1, 1)
    )
    assert float(gradient.sum()) == out.numel()


@pytest.mark.parametrize(
    ("fine", "corners", "dtype"),
    [((1, 4, 6, 8), (1, 16, 4, 4), "float32"), ((1, 4, 6, 8), (1, 8, 4, 5), "float32"),
     ((1, 4, 5, 8), (1, 16, 3, 5), "float32"), ((1, 4, 6, 8), (1, 16, 4, 5), "bfloat16")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    fine: tuple[int, ...], corners: tuple[int, ...], dtype: str
) -> None:
    values = to_channels_last(torch.zeros(fine))
    with pytest.raises(ValueError, match="do not fit"):
        add_at_corners(values, torch.ones(corners, dtype=getattr(torch, dtype)))
    assert not values.any()


def test_another_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="channels last"):
        add_at_corners(torch.zeros(1, 4, 6, 8), torch.ones(1, 16, 4, 5))
