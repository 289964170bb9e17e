"""Control points stand for the whole grid: the same displacement, the same bending energy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepatlas.classical.control import ControlGrid
from deepatlas.losses.regularity.bending import Bending

GRIDS = {2: ((4, 5), (9, 14), (0.7, 2.0)), 3: ((3, 5, 4), (3, 16, 9), (0.8, 1.1, 2.5))}


def drawn(d: int) -> tuple[ControlGrid, Tensor, Tensor, tuple[float, ...]]:
    """Control points of three fields, and the fields by PyTorch."""
    count, shape, spacing = GRIDS[d]
    control = torch.randn(3, d, *count, generator=torch.Generator().manual_seed(d)).double()
    mode = {2: "bilinear", 3: "trilinear"}[d]
    full = F.interpolate(control, size=shape, mode=mode, align_corners=True)
    return ControlGrid(count, shape, spacing, control), control, full, spacing


@pytest.mark.parametrize("d", [2, 3])
def test_between_control_points_the_displacement_is_linear(d: int) -> None:
    grid, control, full, _ = drawn(d)
    spread = grid.spread(control)
    torch.testing.assert_close(spread, full)
    assert spread.movedim(1, -1).is_contiguous()  # as kernels take it


@pytest.mark.parametrize("d", [2, 3])
def test_the_bending_energy_is_that_of_the_whole_grid(d: int) -> None:
    grid, control, full, spacing = drawn(d)
    energy = (grid.stiffness(control) * control).flatten(1).sum(1)
    expected = torch.stack([Bending()(one[None], spacing) for one in full])
    torch.testing.assert_close(energy, expected)


@pytest.mark.parametrize("d", [2, 3])
def test_stiffness_is_half_the_gradient_of_the_energy(d: int) -> None:
    grid, control, _, spacing = drawn(d)
    control.requires_grad_()
    Bending()(grid.spread(control), spacing).backward()
    assert control.grad is not None
    torch.testing.assert_close(2 * grid.stiffness(control) / len(control), control.grad)


@pytest.mark.parametrize("d", [2, 3])
def test_a_smoothed_gradient_leads_down_and_keeps_a_shift(d: int) -> None:
    grid, control, _, _ = drawn(d)
    assert bool(((grid.smooth(control) * control).flatten(1).sum(1) > 0).all())
    wide = ControlGrid([9] * d, [9] * d, [1.0] * d, control)
    inner = (slice(None), slice(None), *[slice(2, -2)] * d)
    shift = torch.ones(1, d, *[9] * d).double()
    torch.testing.assert_close(wide.smooth(shift)[inner], shift[inner], rtol=0, atol=0.05)
    alone = torch.zeros_like(shift)
    alone[(..., *[4] * d)] = 1
    beside = (..., *[4] * (d - 1), 5)
    smoothed = wide.smooth(alone)
    torch.testing.assert_close(smoothed[beside], smoothed[(..., *[4] * d)] * math.exp(-0.5 / 0.49))
