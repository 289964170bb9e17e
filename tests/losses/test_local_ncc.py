"""Local NCC against plain float64 code, MONAI, and laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import LocalNormalizedCrossCorrelationLoss
from scipy.ndimage import uniform_filter
from torch import Tensor

from deepatlas.losses.similarity import LocalNCC


def _pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Two images that correlate at some places and anticorrelate at others."""
    draw = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    mix = torch.linspace(-1, 1, shape[2], dtype=torch.float64).view(-1, *[1] * (len(shape) - 3))
    return a.to(dtype), (0.5 + 0.4 * mix * a + 0.1 * b).to(dtype)


def _reference(a: Tensor, b: Tensor, window: int, signed: bool, floor: float = 1e-5) -> float:
    """The same by SciPy, in float64, one item at a time."""

    def mean(x: np.ndarray) -> np.ndarray:
        ones = uniform_filter(np.ones_like(x), window, mode="constant")
        return uniform_filter(x, window, mode="constant") / ones

    values = []
    for x, y in zip(a[:, 0].double().numpy(), b[:, 0].double().numpy(), strict=True):
        covariance = mean(x * y) - mean(x) * mean(y)
        variances = [np.maximum(mean(z * z) - mean(z) ** 2, floor) for z in (x, y)]
        ncc = covariance / np.sqrt(variances[0] * variances[1])
        values.append(1 - np.mean(ncc if signed else ncc**2))
    return float(np.mean(values))


def _autograd(a: Tensor, b: Tensor, window: int, signed: bool, floor: float = 1e-5) -> Tensor:
    """The same by torch pooling, for its gradient."""
    pool = torch.nn.functional.avg_pool3d if a.ndim == 5 else torch.nn.functional.avg_pool2d

    def mean(x: Tensor) -> Tensor:
        return pool(x, window, 1, window // 2, count_include_pad=False)

    covariance = mean(a * b) - mean(a) * mean(b)
    var_a, var_b = ((mean(x * x) - mean(x) ** 2).clamp_min(floor) for x in (a, b))
    ncc = covariance / (var_a * var_b).sqrt()
    return 1 - (ncc if signed else ncc.square()).mean()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("shape", "window"),
    [((2, 1, 13, 18, 11), 9), ((2, 1, 12, 7, 10), 3), ((2, 1, 21, 14), 5), ((1, 1, 5, 6, 4), 9)],
)
def test_value_is_that_of_scipy(shape: tuple[int, ...], window: int, signed: bool) -> None:
    a, b = _pair(*shape)
    expected = _reference(a, b, window, signed)
    assert LocalNCC(window, signed)(a, b).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("shape", [(2, 1, 12, 15, 10), (2, 1, 20, 13)])
def test_gradients_are_those_of_autograd(shape: tuple[int, ...], flat: bool, signed: bool) -> None:
    a, b = _pair(*shape)
    if flat:  # windows that correlate but vary less than the clamp
        a[..., :6, :] = 0.3 + 5e-3 * a[..., :6, :]
    exact = [x.double().requires_grad_() for x in (a, b)]
    expected = torch.autograd.grad(3 * _autograd(*exact, 5, signed), exact)
    ours = [x.requires_grad_() for x in (a, b)]
    for ours_by, by in zip(
        torch.autograd.grad(3 * LocalNCC(5, signed)(*ours), ours), expected, strict=True
    ):
        assert ours_by.dtype == torch.float32
        error = (ours_by - by).abs().max() / by.abs().max()
        assert error < (1e-3 if flat else 1e-5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_gradcheck(signed: bool, masked: bool) -> None:
    a, b = _pair(2, 1, 4, 6, 5, dtype=torch.float64)
    mask = None
    if masked:
        mask = torch.rand(a.shape, generator=torch.Generator().manual_seed(3), dtype=a.dtype)
        mask[mask < 0.3] = 0
    part = LocalNCC(3, signed)
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: part(x, y, mask), inputs, fast_mode=True)


def test_precision_on_a_larger_volume() -> None:
    a, b = _pair(1, 1, 50, 64, 40)
    assert LocalNCC()(a, b).item() == pytest.approx(_reference(a, b, 9, True), abs=1e-6)


def test_intensity_offset_and_scale_do_not_matter() -> None:
    a, b = _pair(1, 1, 20, 24, 18)
    plain = LocalNCC()(a, b).item()
    assert LocalNCC()(40 + 3 * a, b - 90).item() == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, and plain
@pytest.mark.parametrize("window", [3, 9])
@pytest.mark.parametrize("shape", [(2, 1, 14, 18, 12), (2, 1, 22, 16)])
def test_zeros_beyond_the_border_and_squares_are_monais_formula(
    shape: tuple[int, ...], window: int, dtype: torch.dtype
) -> None:
    pair = [x.requires_grad_() for x in _pair(*shape, dtype=dtype)]
    peer = LocalNormalizedCrossCorrelationLoss(len(shape) - 2, kernel_size=window)
    floor = peer.smooth_dr / window ** (len(shape) - 2)  # theirs is of the sum
    ours = LocalNCC(window, signed=False, smallest_variance=floor, border="zeros")(*pair)
    expected = 1 + peer(*(x.double() for x in pair))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert ours.item() == pytest.approx(expected.item(), rel=tolerance)
    for one, other in zip(
        torch.autograd.grad(ours, pair), torch.autograd.grad(expected, pair), strict=True
    ):
        torch.testing.assert_close(
            one, other, rtol=0, atol=10 * tolerance * float(other.abs().max())
        )


def test_zeros_beyond_the_mask() -> None:
    a, b = _pair(2, 1, 14, 18, 12)
    mask = (torch.rand(a.shape, generator=torch.Generator().manual_seed(1)) > 0.1).float()
    part = LocalNCC(5, border="zeros")
    plain = part(*(x.double() for x in (a, b, mask)))
    assert part(a, b, mask).item() == pytest.approx(plain.item(), abs=1e-5)
    ones = torch.ones_like(a)
    assert part(a, b, ones).item() == pytest.approx(part(a, b).item(), abs=1e-6)
    a2, b2 = (torch.where(mask > 0, x, 17.0) for x in (a, b))
    assert part(a2, b2, mask).item() == pytest.approx(plain.item(), abs=1e-5)


def test_sign() -> None:
    a, _ = _pair(1, 1, 16, 20, 14)
    assert LocalNCC()(a, a).item() == pytest.approx(0, abs=1e-5)
    assert LocalNCC()(a, 1 - a).item() == pytest.approx(2, abs=1e-5)
    assert LocalNCC(signed=False)(a, 1 - a).item() == pytest.approx(0, abs=1e-5)


def test_constant_patches() -> None:
    a, b = _pair(1, 1, 30, 12, 10)
    a[:, :, :18] = 0.7
    a.requires_grad_()
    loss = LocalNCC(3)(a, b)
    loss.backward()
    assert a.grad is not None
    assert 0 <= loss.item() <= 2
    assert torch.isfinite(a.grad).all()
    # A flat patch counts as uncorrelated: over the patch alone the mean correlation is nothing.
    patch = LocalNCC(3)(a.detach()[:, :, :18], b[:, :, :18])
    assert patch.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_images_count_one(level: float) -> None:
    _, b = _pair(1, 1, 12, 14, 10)
    a = torch.full_like(b, level)
    assert LocalNCC()(a, b).item() == pytest.approx(1, abs=1e-3)
    assert LocalNCC()(a, a).item() == pytest.approx(1, abs=1e-3)


def test_a_mask_is_as_if_the_image_ended_there() -> None:
    a, b = _pair(2, 1, 14, 18, 12)
    inside = (slice(None), slice(None), slice(2, 12), slice(3, 17), slice(1, 9))
    mask = torch.zeros_like(a)
    mask[inside] = 1
    cropped = [x[inside].clone().requires_grad_() for x in (a, b)]
    expected = LocalNCC(5)(*cropped)
    expected.backward()
    a[mask == 0] = 17
    a.requires_grad_()
    loss = LocalNCC(5)(a, b, mask)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert a.grad is not None
    assert (a.grad[mask == 0] == 0).all()
    torch.testing.assert_close(a.grad[inside], cropped[0].grad, rtol=1e-3, atol=1e-7)


def test_an_item_without_mask_counts_one_and_has_no_gradient() -> None:
    a, b = _pair(2, 1, 8, 10, 9)
    mask = torch.ones_like(a)
    mask[0] = 0
    a.requires_grad_()
    loss = LocalNCC(3)(a, b, mask)
    loss.backward()
    assert loss.item() == pytest.approx((1 + LocalNCC(3)(a[1:], b[1:]).item()) / 2, abs=1e-6)
    assert a.grad is not None
    assert (a.grad[0] == 0).all()
    assert (a.grad[1] != 0).any()


def test_only_wanted_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from deepatlas.losses.similarity import lncc

    calls = []
    original = lncc._box_back
    monkeypatch.setattr(lncc, "_box_back", lambda *x: calls.append(1) or original(*x))
    a, b = (x.double() for x in _pair(1, 1, 6, 8, 7))  # the plain way
    LocalNCC(3)(a, b)
    with torch.no_grad():
        LocalNCC(3)(a.requires_grad_(), b)
    assert len(calls) == 0
    LocalNCC(3)(a, b)
    assert len(calls) == 3


@pytest.mark.parametrize("window", [0, 1, 4, -3])
def test_window_must_be_odd(window: int) -> None:
    with pytest.raises(ValueError, match="odd"):
        LocalNCC(window)


def test_variance_must_be_positive() -> None:
    with pytest.raises(ValueError, match="smallest_variance"):
        LocalNCC(smallest_variance=0)
    with pytest.raises(ValueError, match="border must be ends or zeros"):
        LocalNCC(border="wrap")  # type: ignore[arg-type]
