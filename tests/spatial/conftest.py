"""Smooth fields and slanted grids; small tensors, so threads would only wait for each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from deepatlas.spatial.geometry import Geometry


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _waves(shape: Sequence[int], size: float, seed: int = 0, batch: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in shape]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    window = torch.sin(math.pi * mesh).prod(dim=0)  # nothing moves at the border
    out = []
    for _ in range(batch * len(shape)):
        speed = (torch.rand(len(shape), generator=draw, dtype=torch.float64) - 0.5) * 8
        phase = torch.rand(1, generator=draw, dtype=torch.float64) * 6
        wave = window * torch.sin(torch.einsum("n,n...->...", speed, mesh) + phase)
        out.append(wave / wave.abs().max())
    return size * torch.stack(out).reshape(batch, len(shape), *shape)


@pytest.fixture
def waves() -> Callable[..., Tensor]:
    """(shape, size, seed=0, batch=1): smooth (B, d, *shape), float64, |component| <= size, 0 at
    the border; every component and item is another one."""
    return _waves


def _slanted(d: int, flip: Sequence[int] = (1, 1, 1), turn: float = 0.4) -> Geometry:
    c, s = math.cos(turn), math.sin(turn)
    about_z = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)
    about_x = torch.tensor([[1, 0, 0], [0, c, -s], [0, s, c]], dtype=torch.float64)
    axes = (about_z @ about_x)[:d, :d] if d == 3 else about_z[:2, :2]
    spacing = torch.tensor([1.1, 0.8, 2.0], dtype=torch.float64)[:d]
    affine = torch.eye(d + 1, dtype=torch.float64)
    affine[:d, :d] = axes * spacing * torch.tensor(list(flip), dtype=torch.float64)[:d]
    shape = (11, 14, 7)[:d]
    middle = affine[:d, :d] @ ((torch.tensor(shape, dtype=torch.float64) - 1) / 2)
    affine[:d, d] = torch.tensor([-20.0, 35.0, 8.0], dtype=torch.float64)[:d] - middle
    return Geometry(shape, affine)


@pytest.fixture
def slanted() -> Callable[..., Geometry]:
    """(d, flip, turn): an oblique, anisotropic, non-cubic, off-centre grid of 11 x 14 (x 7)."""
    return _slanted


def _affine(d: int) -> Tensor:
    matrix = torch.eye(d + 1, dtype=torch.float64)
    change = [[3.0, -2.0, 0.5], [2.5, 0.5, 1.0], [0.3, -1.0, -1.5]]
    matrix[:d, :d] += 0.06 * torch.tensor(change, dtype=torch.float64)[:d, :d]
    matrix[:d, d] = torch.tensor([1.53, -2.17, 0.74], dtype=torch.float64)[:d]
    return matrix


@pytest.fixture
def some_affine() -> Callable[[int], Tensor]:
    """(d): a matrix (d + 1, d + 1) without any symmetry, near the identity."""
    return _affine
