"""The correlation kernel against the plain formulas in float64."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from deepatlas.losses.similarity.lncc import LocalNCC


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("border", ["ends", "zeros"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("shape", [(20, 17, 23), (31, 26), (4, 30, 6), (1, 9, 9)])
def test_value_and_gradients(
    shape: tuple[int, ...],
    masked: bool,
    border: Literal["ends", "zeros"],
    signed: bool,
    wanted: tuple[bool, bool],
) -> None:
    torch.manual_seed(2)
    images = torch.rand(2, 3, 1, *shape)
    images[1] = 0.6 * images[0] + 0.4 * images[1]
    images[1, 0, 0, 0] = 0.5  # flat windows
    mask = (torch.rand(3, 1, *shape) > 0.3).float() if masked else None
    _equals_float64(LocalNCC(window=5, signed=signed, border=border), images, mask, wanted)


@pytest.mark.parametrize("shape", [(3, 700), (2, 3, 257), (1, 2, 2100)])
@pytest.mark.parametrize("window", [3, 7, 9, 31])
@pytest.mark.parametrize("border", ["ends", "zeros"])
@pytest.mark.parametrize("masked", [True, False])
def test_long_rows(
    shape: tuple[int, ...], masked: bool, border: Literal["ends", "zeros"], window: int
) -> None:
    """Rows are taken in pieces, and short ones several at a time."""
    torch.manual_seed(2)
    images = torch.rand(2, 1, 1, *shape)
    images[1] = 0.6 * images[0] + 0.4 * images[1]
    mask = (torch.rand(1, 1, *shape) > 0.3).float() if masked else None
    part = LocalNCC(window=window, smallest_variance=1e-3, border=border)
    _equals_float64(part, images, mask, (True, True))


def _equals_float64(
    part: LocalNCC, images: Tensor, mask: Tensor | None, wanted: tuple[bool, bool]
) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        pair = [x.to(dtype).requires_grad_(want) for x, want in zip(images, wanted, strict=True)]
        loss = part(*pair, None if mask is None else mask.to(dtype))
        loss.backward()
        results.append([loss.detach(), *(x.grad for x in pair if x.grad is not None)])
    for one, other in zip(*results, strict=True):
        atol = 1e-4 * float(other.abs().max())
        torch.testing.assert_close(one.double(), other, rtol=0, atol=atol)


def test_the_number_of_threads_hardly_matters() -> None:
    torch.manual_seed(2)
    a, b = torch.rand(2, 1, 1, 14, 12, 13)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            image = a.clone().requires_grad_()
            LocalNCC(window=9)(image, b).backward()
            found.append(image.grad)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found)
