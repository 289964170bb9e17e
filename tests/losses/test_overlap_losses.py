"""Dice and cross-entropy for hard, soft and partly annotated maps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

from deepatlas.losses.overlap import CrossEntropy, DiceCE, SoftDice
from deepatlas.losses.protocols import Overlap

PARTS = [SoftDice(), SoftDice(background=True), CrossEntropy(), DiceCE()]


def _soft(
    seed: int, batch: int = 2, classes: int = 4, dtype: torch.dtype = torch.float32
) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, 6, 7, 5, generator=draw, dtype=torch.float64)
    return (2 * logits).softmax(dim=1).to(dtype)


def _hard(soft: Tensor) -> Tensor:
    classes = soft.shape[1]
    return F.one_hot(soft.argmax(dim=1), classes).movedim(-1, 1).to(soft.dtype)


def _paper(p: Tensor, q: Tensor, first: int = 1) -> Tensor:
    """1 - 2 sum(pq) / (sum p + sum q), mean over classes and batch."""
    p, q = p[:, first:].flatten(2), q[:, first:].flatten(2)
    return (1 - 2 * (p * q).sum(2) / (p.sum(2) + q.sum(2))).mean()


@pytest.mark.parametrize("background", [True, False])
def test_dice_of_equal_maps_is_zero_hard_or_soft(background: bool) -> None:
    soft = _soft(0)
    for maps in (soft, _hard(soft)):
        assert SoftDice(background)(maps, maps.clone()).item() == 0
    assert _paper(soft, soft) > 0.3  # what the usual formula makes of it


@pytest.mark.parametrize("background", [True, False])
def test_dice_is_the_papers_with_one_hard_side(background: bool) -> None:
    soft, hard = _soft(0), _hard(_soft(1))
    for p, q in ((soft, hard), (hard, soft), (hard, _hard(soft))):
        expected = _paper(p, q, 0 if background else 1).item()
        assert SoftDice(background)(p, q).item() == pytest.approx(expected, abs=1e-6)
        peer = DiceLoss(include_background=background, smooth_nr=0, smooth_dr=0)(p, q).item()
        assert SoftDice(background)(p, q).item() == pytest.approx(peer, abs=1e-6)


@pytest.mark.parametrize("background", [True, False])
def test_dice_of_products_is_monais_for_soft_maps(background: bool) -> None:
    p, q = _soft(0).requires_grad_(), _soft(1).requires_grad_()
    peer = DiceLoss(include_background=background, smooth_nr=0, smooth_dr=0)(p, q)
    found = SoftDice(background, product=True)(p, q)
    assert found.item() == pytest.approx(peer.item(), abs=1e-6)
    wanted = torch.autograd.grad(peer, [p, q])
    for one, other in zip(torch.autograd.grad(found, [p, q]), wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-8)
    together = DiceCE(background=background, product=True)(p, q)
    assert together.item() == pytest.approx(peer.item() + CrossEntropy()(p, q).item(), abs=1e-5)


def test_dice_is_least_at_the_target() -> None:
    target = _soft(2, dtype=torch.float64)[..., :3]
    logits = torch.zeros_like(target, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        SoftDice(background=True)(logits.softmax(dim=1), target).backward()
        optimiser.step()
    assert (logits.softmax(dim=1) - target).abs().mean() < 0.02


def test_dice_leaves_out_what_is_absent_or_not_annotated() -> None:
    p, q = _soft(0), _hard(_soft(1))
    per_class = [
        _paper(p[i : i + 1, [0, c]], q[i : i + 1, [0, c]]) for i in (0, 1) for c in (1, 2, 3)
    ]
    present = torch.tensor([[True, False, True], [False, True, True]])
    expected = torch.stack(per_class)[present.flatten()].mean().item()
    assert SoftDice()(p, q, present).item() == pytest.approx(expected, abs=1e-6)
    q[0, 2] = 17  # whatever stands there
    assert SoftDice()(p, q, present).item() == pytest.approx(expected, abs=1e-6)

    p, q = _soft(0, batch=1), _hard(_soft(1, batch=1))
    p[:, 2], q[:, 2] = 0, 0
    expected = (_paper(p[:, [0, 1]], q[:, [0, 1]]) + _paper(p[:, [0, 3]], q[:, [0, 3]])).item() / 2
    assert SoftDice()(p, q).item() == pytest.approx(expected, abs=1e-6)


def test_a_class_missing_on_one_side_counts_in_full() -> None:
    p, q = _soft(0, batch=1, classes=2), torch.zeros(1, 2, 6, 7, 5)
    q[:, 0] = 1
    assert SoftDice()(p, q).item() == pytest.approx(1)
    assert SoftDice()(q, p).item() == pytest.approx(1)


def test_a_vanishing_class_has_a_finite_gradient() -> None:
    logits = torch.zeros(1, 3, 6, 7, 5)
    logits[:, 2] = -95  # exp(-95) is a denormal number
    logits.requires_grad_()
    target = torch.zeros(1, 3, 6, 7, 5)
    target[:, 1] = 1
    for part in PARTS:
        (gradient,) = torch.autograd.grad(part(logits.softmax(dim=1), target), logits)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().max() < 1


def test_background_counts_only_where_everything_is_annotated() -> None:
    p, q = _soft(0), _hard(_soft(1))
    present = torch.tensor([[True, True, True], [True, False, True]])
    with_background = SoftDice(background=True)
    terms = [_paper(p[:1, [c, c]], q[:1, [c, c]]) for c in range(4)]
    terms += [_paper(p[1:, [c, c]], q[1:, [c, c]]) for c in (1, 3)]
    expected = torch.stack(terms).mean().item()
    assert with_background(p, q, present).item() == pytest.approx(expected, abs=1e-6)


def test_cross_entropy_is_that_of_torch() -> None:
    logits = torch.randn(2, 4, 6, 7, 5, generator=torch.Generator().manual_seed(0))
    for target in (_soft(1), _hard(_soft(1))):
        expected = F.cross_entropy(logits, target).item()
        ours = CrossEntropy()(logits.softmax(dim=1), target).item()
        assert ours == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_merges_what_is_not_annotated() -> None:
    p, q = _soft(0), _hard(_soft(1))
    present = torch.tensor([[True, False, False], [True, True, True]])
    merged = [x[:1, [0, 1]] + torch.cat([x[:1, 2:].sum(1, True), 0 * x[:1, :1]], 1) for x in (p, q)]
    expected = F.nll_loss(merged[0].log(), merged[1].argmax(dim=1)).item()
    expected = (expected + F.nll_loss(p[1:].log(), q[1:].argmax(dim=1)).item()) / 2
    assert CrossEntropy()(p, q, present).item() == pytest.approx(expected, rel=1e-5)
    # Where the target cannot tell classes apart, moving probability between them is free.
    moved = p.clone()
    moved[0, 2], moved[0, 0] = p[0, 0], p[0, 2]
    assert CrossEntropy()(moved, q, present).item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_a_soft_target_is_least_there() -> None:
    target = _soft(3, dtype=torch.float64)
    logits = target.log().requires_grad_()
    for present in (None, torch.tensor([[True, True, False]] * 2)):
        (gradient,) = torch.autograd.grad(
            CrossEntropy()(logits.softmax(dim=1), target, present), logits
        )
        assert gradient.abs().max() < 1e-9


def test_cross_entropy_still_teaches_who_is_wrong_with_confidence() -> None:
    logits = torch.tensor([20.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    target = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    CrossEntropy()(logits.softmax(dim=1), target).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].item() == pytest.approx(1, rel=1e-3)
    assert CrossEntropy()(1 - target, target).item() == pytest.approx(27.63, abs=0.01)


@pytest.mark.parametrize("part", PARTS)
def test_gradcheck(part: Overlap) -> None:
    p, q = _soft(0, dtype=torch.float64), _soft(1, dtype=torch.float64)
    p, q = (x[:, :, :2, :3, :2].clone().requires_grad_() for x in (p, q))
    present = torch.tensor([[True, False, True], [True, True, True]])
    weight = torch.rand(2, 1, 2, 3, 2, generator=torch.Generator().manual_seed(5)).double()
    assert torch.autograd.gradcheck(
        lambda x, y: part(x, y, present, weight), (p, q), fast_mode=True
    )


@pytest.mark.parametrize("part", PARTS)
def test_nothing_annotated_is_zero_with_a_gradient(part: Overlap) -> None:
    p = _soft(0).requires_grad_()
    loss = part(p, _hard(_soft(1)), torch.zeros(2, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(loss, p)
    assert loss.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("part", PARTS)
def test_scans_without_annotation_leave_the_mean(part: Overlap) -> None:
    p, q = _soft(0), _soft(1)
    present = torch.tensor([[True] * 3, [False] * 3])
    assert part(p, q, present).item() == pytest.approx(part(p[:1], q[:1]).item(), rel=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_all_annotated_is_as_none_given(part: Overlap) -> None:
    p, q = _soft(0), _soft(1)
    present = torch.ones(2, 3, dtype=torch.bool)
    assert part(p, q, present).item() == pytest.approx(part(p, q).item(), rel=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_weight_zero_is_as_if_the_voxel_were_not_there(part: Overlap) -> None:
    p, q = _soft(0), _soft(1)
    inside = (slice(None), slice(None), slice(1, 5), slice(2, 7), slice(0, 3))
    weight = torch.zeros(2, 1, 6, 7, 5)
    weight[inside] = 1
    expected = part(p[inside], q[inside]).item()
    assert part(p, q, weight=weight).item() == pytest.approx(expected, rel=1e-5)


def test_weights_weigh() -> None:
    p, q = _soft(0), _soft(1)
    weight = torch.ones(2, 1, 6, 7, 5)
    weight[:, :, 3:] = 3
    twice = [torch.cat([x, x[:, :, 3:], x[:, :, 3:]], dim=2) for x in (p, q)]
    for part in PARTS:
        expected = part(*twice).item()
        assert part(p, q, weight=weight).item() == pytest.approx(expected, rel=1e-5)


def test_dice_ce_is_the_sum() -> None:
    p, q = _soft(0), _hard(_soft(1))
    present = torch.tensor([[True, False, True], [True, True, True]])
    expected = SoftDice(True)(p, q, present) + 0.5 * CrossEntropy(1e-3)(p, q, present)
    ours = DiceCE(cross_entropy=0.5, background=True, floor=1e-3)(p, q, present)
    assert ours.item() == pytest.approx(expected.item())


def test_what_does_not_fit_is_refused() -> None:
    p = _soft(0)
    for part in PARTS:
        with pytest.raises(ValueError, match="same shape"):
            part(p, p[:, :3])
        with pytest.raises(ValueError, match="present"):
            part(p, p, torch.ones(2, 4, dtype=torch.bool))
        with pytest.raises(ValueError, match="weight"):
            part(p, p, weight=torch.ones(2, 4, 6, 7, 5))
        with pytest.raises(ValueError, match="a class"):
            part(p[:, :1], p[:, :1])


def test_options_are_checked() -> None:
    for make in (lambda: CrossEntropy(0), lambda: DiceCE(floor=1), lambda: DiceCE(-1)):
        with pytest.raises(ValueError, match=r"floor|negative"):
            make()
