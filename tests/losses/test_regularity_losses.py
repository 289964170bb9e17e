"""Bending and diffusion on fields whose energy is known, and against MONAI."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.losses import BendingEnergyLoss, DiffusionLoss
from torch import Tensor

from deepatlas.losses.regularity import Bending, Diffusion

pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # MONAI's

SPACINGS = {2: (0.8, 2.5), 3: (0.8, 2.5, 1.3)}
SHAPES = {2: (9, 7), 3: (9, 7, 6)}


def _points_mm(d: int) -> list[Tensor]:
    axes = [
        h * torch.arange(n, dtype=torch.float64)
        for n, h in zip(SHAPES[d], SPACINGS[d], strict=True)
    ]
    return list(torch.meshgrid(*axes, indexing="ij"))


def _field(components_mm: list[Tensor]) -> Tensor:
    """(1, d, *S) in voxels from components in mm."""
    spacing = SPACINGS[len(components_mm)]
    return torch.stack([u / h for u, h in zip(components_mm, spacing, strict=True)])[None]


def _single(d: int, component: int, u_mm: Tensor) -> Tensor:
    components = [torch.zeros_like(u_mm) for _ in range(d)]
    components[component] = u_mm
    return _field(components)


CASES = [(d, n, a) for d in (2, 3) for n in range(d) for a in range(d)]


BENDINGS = [Bending(), Bending("central")]


@pytest.mark.parametrize("bending", BENDINGS)
@pytest.mark.parametrize(("d", "component", "axis"), CASES)
def test_bending_of_a_square_is_four(d: int, component: int, axis: int, bending: Bending) -> None:
    field = _single(d, component, _points_mm(d)[axis] ** 2)
    assert bending(field, SPACINGS[d]).item() == pytest.approx(4, rel=1e-9)


@pytest.mark.parametrize(
    ("d", "component", "axes"),
    [(d, n, p) for d in (2, 3) for n in range(d) for p in itertools.combinations(range(d), 2)],
)
def test_bending_of_a_product_is_two(d: int, component: int, axes: tuple[int, int]) -> None:
    x = _points_mm(d)
    field = _single(d, component, x[axes[0]] * x[axes[1]])
    for bending in BENDINGS:
        assert bending(field, SPACINGS[d]).item() == pytest.approx(2, rel=1e-9)


@pytest.mark.parametrize("d", [2, 3])
def test_bending_of_quadratic_fields_is_that_of_their_hessians(d: int) -> None:
    draw = np.random.default_rng(0)
    hessians = [(h + h.T) / 2 for h in draw.normal(size=(d, d, d))]
    x = torch.stack(_points_mm(d))
    field = _field(
        [0.5 * torch.einsum("a...,ab,b...->...", x, torch.tensor(h), x) for h in hessians]
    )
    expected = sum((h**2).sum() for h in hessians)
    # MONAI's differences are exact on these too; unit spacing, mean over components.
    peer = BendingEnergyLoss()(field).item() * d
    for bending in BENDINGS:
        assert bending(field, SPACINGS[d]).item() == pytest.approx(expected, rel=1e-9)
        assert bending(field, [1.0] * d).item() == pytest.approx(peer, rel=1e-5)


@pytest.mark.parametrize("d", [2, 3])
def test_central_mixed_terms_are_those_of_monai(d: int) -> None:
    draw = torch.Generator().manual_seed(5)
    field = torch.randn((2, d, 7, 4, 6)[: d + 2], generator=draw, dtype=torch.float64)
    field.requires_grad_()
    ours, peer = Bending("central")(field, [1.0] * d), d * BendingEnergyLoss()(field)
    assert ours.item() == pytest.approx(peer.item(), rel=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(one, field)[0] for one in (ours, peer)))


@pytest.mark.parametrize("part", [*BENDINGS, Diffusion()])
def test_fields_of_one_axis_are_refused(part: Bending | Diffusion) -> None:
    with pytest.raises(ValueError, match="two or three"):
        part(torch.zeros(1, 1, 9), [1.0])


def test_mixed_terms_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="compact or central, got 'forward'"):
        Bending("forward")  # type: ignore[arg-type]


@pytest.mark.parametrize("d", [2, 3])
def test_affine_maps_do_not_bend(d: int) -> None:
    matrix = torch.tensor(np.random.default_rng(1).normal(size=(d, d)))
    field = _field(list(torch.einsum("ab,b...->a...", matrix, torch.stack(_points_mm(d))) + 3))
    assert Bending()(field, SPACINGS[d]).item() == pytest.approx(0, abs=1e-20)
    expected = (matrix**2).sum().item()
    assert Diffusion()(field, SPACINGS[d]).item() == pytest.approx(expected, rel=1e-9)
    assert Diffusion("l1")(field, SPACINGS[d]).item() == pytest.approx(
        matrix.abs().sum().item(), rel=1e-9
    )


@pytest.mark.parametrize("d", [2, 3])
def test_a_checkerboard_is_seen(d: int) -> None:
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in SHAPES[d]], indexing="ij"))
    board = (1.0 - 2.0 * (index.sum(dim=0) % 2)).expand(1, d, *SHAPES[d])
    # Differences are 2, second differences 4, pure and mixed alike.
    assert Bending()(board, [1.0] * d).item() == pytest.approx(d * d * d * 16)
    assert Bending("central")(board, [1.0] * d).item() == pytest.approx(d * d * 16)
    assert Diffusion()(board, [1.0] * d).item() == pytest.approx(d * d * 4)
    assert Diffusion("l1")(board, [1.0] * d).item() == pytest.approx(d * d * 2)


def test_diffusion_is_the_sum_of_monai_s_terms() -> None:
    # MONAI takes central differences: the same on a field that is linear along each axis.
    matrix = torch.tensor(np.random.default_rng(2).normal(size=(3, 3)))
    field = torch.einsum("ab,b...->a...", matrix, torch.stack(_points_mm(3)))[None]
    peer = DiffusionLoss()(field).item() * 3
    assert Diffusion()(field, (1, 1, 1)).item() == pytest.approx(peer, rel=1e-5)


@pytest.mark.parametrize("part", [*BENDINGS, Diffusion()])
def test_a_weight_means_the_same_on_a_finer_grid(part: Bending | Diffusion) -> None:
    values = []
    for refine in (1, 2):
        spacing = (1.0 / refine, 1.5 / refine)
        x, y = torch.meshgrid(
            torch.arange(40 * refine) * spacing[0],
            torch.arange(30 * refine) * spacing[1],
            indexing="ij",
        )
        wave = torch.sin(x / 5) * torch.cos(y / 7)
        values.append(part(torch.stack([wave / spacing[0], 2 * wave / spacing[1]])[None], spacing))
    assert values[1].item() == pytest.approx(values[0].item(), rel=0.05)


@pytest.mark.parametrize("part", [*BENDINGS, Diffusion(), Diffusion("l1")])
@pytest.mark.parametrize("d", [2, 3])
def test_gradcheck_and_mean_over_the_batch(part: Bending | Diffusion, d: int) -> None:
    draw = torch.Generator().manual_seed(4)
    shape = (2, d, 4, 5, 3)[: d + 2]
    field = torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: part(u, SPACINGS[d]), (field,), fast_mode=True)
    each = [part(item[None], SPACINGS[d]).item() for item in field]
    assert part(field, SPACINGS[d]).item() == pytest.approx(np.mean(each))


def test_slices_of_a_larger_tensor_are_fine() -> None:
    whole = torch.randn(1, 5, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    field = whole[:, 1:4].transpose(2, 4).requires_grad_()
    copy = field.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    for part in (*BENDINGS, Diffusion()):
        (one,) = torch.autograd.grad(part(field, (1, 2, 3)), field)
        (other,) = torch.autograd.grad(part(copy, (1, 2, 3)), copy)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((1, 2, 5, 5, 5), (1, 1, 1)),
        ((1, 3, 5, 5, 5), (1, 1)),
        ((1, 3, 5, 5, 5), (1, 0, 1)),
        ((1, 3, 5, 1, 5), (1, 1, 1)),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    for part in (*BENDINGS, Diffusion()):
        with pytest.raises(ValueError, match="spacings"):
            part(torch.zeros(shape), spacing)


def test_the_norm_is_checked() -> None:
    with pytest.raises(ValueError, match="l1"):
        Diffusion("l3")  # type: ignore[arg-type]
