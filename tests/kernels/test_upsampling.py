"""A decoder's input by kernels against PyTorch's repetition and concatenation."""

from __future__ import annotations

import pytest
import torch

from deepatlas.kernels import plain
from deepatlas.kernels.upsampling import joinable
from deepatlas.networks.blocks import join


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 5, 4), (1, 2, 7), (6, 5)], ids=str)
@pytest.mark.parametrize("layout", ["channels last", "contiguous"])
@pytest.mark.parametrize("channels", [(8, 4), (4, 12), (5, 3)])
def test_values_and_gradients(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, channels: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    memory = torch.contiguous_format
    if layout == "channels last":
        memory = torch.channels_last if len(shape) == 2 else torch.channels_last_3d
    x = (
        torch.randn(2, channels[0], *shape)
        .to(dtype)
        .contiguous(memory_format=memory)
        .requires_grad_()
    )
    skip = torch.randn(2, channels[1], *[2 * n for n in shape]).to(dtype)
    skip = skip.contiguous(memory_format=memory).requires_grad_()
    assert joinable(x, skip) == (channels != (5, 3))
    found = join(x, skip)
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, [x, skip], upstream)
    with plain():
        wanted = join(x.double(), skip.double())
    exact = torch.autograd.grad(wanted, [x, skip], upstream.double())
    assert found.dtype == dtype
    assert torch.equal(found.double(), wanted)
    assert torch.equal(gradients[1], exact[1])
    near = 1e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(gradients[0], exact[0], rtol=near, atol=near)


def test_channels_last_comes_out_and_goes_back() -> None:
    x = torch.randn(1, 4, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    out = join(x, torch.randn(1, 2, 6, 8, 10))
    assert out.is_contiguous(memory_format=torch.channels_last_3d)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.is_contiguous(memory_format=torch.channels_last_3d)


def test_another_type_beside_it_is_converted() -> None:
    out = join(torch.randn(1, 2, 3, 3).bfloat16(), torch.ones(1, 1, 6, 6))
    assert out.dtype == torch.bfloat16
    assert bool((out[:, 2] == 1).all())


def test_single_voxels_and_memory_at_any_place() -> None:
    """Strides of axes with one voxel, and where a tensor begins, may be any number."""
    x, skip = torch.randn(2, 8, 1, 1, 1), torch.randn(2, 8, 2, 2, 2)
    with plain():
        wanted = join(x, skip)
    assert torch.equal(join(x, skip), wanted)
    somewhere = torch.randn(x.numel() + 1)[1:].view(2, 1, 1, 1, 8).movedim(-1, 1).requires_grad_()
    out = join(somewhere, skip)
    upstream = torch.randn(out.numel() + 1)[1:].view(2, 2, 2, 2, 16).movedim(-1, 1)
    (gradient,) = torch.autograd.grad(out, somewhere, upstream)
    summed = upstream[:, :8].sum(dim=(2, 3, 4), keepdim=True)
    torch.testing.assert_close(gradient, summed)


@pytest.mark.parametrize("skip", [(1, 4, 5, 6), (1, 4, 8, 6), (2, 4, 6, 6)])
def test_sizes_that_do_not_fit_are_refused(skip: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        join(torch.ones(1, 4, 3, 3), torch.ones(skip))
