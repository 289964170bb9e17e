"""Laws of the intensity rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepatlas.data.intensity import landmarks, match, scale

PERCENTILES = (0.5, 99.5)


def image(seed: int = 0) -> torch.Tensor:
    """A dark background and two tissues."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn((20, 18, 16), generator=random)
    tissue = torch.where(torch.linspace(0, 1, 18)[None, :, None] > 0.6, 900.0, 500.0)
    inside = torch.linspace(0, 1, 20)[:, None, None] > 0.4
    return torch.where(inside, tissue + 40 * noise, 3 * noise)


def test_the_percentiles_become_zero_and_one() -> None:
    scaled = scale(image(), (2.0, 98.0))
    low, high = np.percentile(image().numpy(), (2, 98))
    assert scaled.dtype == torch.float32
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_allclose(scaled, ((image() - low) / (high - low)).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize(("slope", "shift"), [(0.001, 0.0), (7.0, -300.0), (1e6, 1e6)])
def test_gain_and_offset_of_the_scanner_do_not_matter(slope: float, shift: float) -> None:
    other = scale(image().double().mul(slope).add(shift).float(), PERCENTILES)
    np.testing.assert_allclose(other, scale(image(), PERCENTILES), atol=1e-3)


def test_a_small_object_on_an_empty_background_is_not_lost() -> None:
    values = torch.zeros(40, 40)
    values[:2, :3] = torch.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(scale(values, PERCENTILES), values / 5, atol=1e-6)


def test_nothing_but_numbers_comes_out() -> None:
    values = image()
    values[0, 0, :3] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    scaled = scale(values, PERCENTILES)
    assert scaled.isfinite().all()
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_allclose(scaled[1:], scale(image(), PERCENTILES)[1:], atol=1e-3)
    assert not scale(torch.full((3, 3), 7.0), PERCENTILES).any()
    assert not scale(torch.full((3, 3), float("nan")), PERCENTILES).any()


def test_matching_with_itself_changes_nothing() -> None:
    scaled = scale(image(), PERCENTILES)
    np.testing.assert_allclose(match(scaled, landmarks(scaled)), scaled, atol=1e-6)


def test_matching_undoes_a_change_of_contrast() -> None:
    reference = scale(image(0), PERCENTILES)
    other = scale(image(1), PERCENTILES)
    faded = other**1.7  # as from another protocol
    matched = match(faded, landmarks(reference))
    assert matched.min() >= 0
    assert matched.max() <= 1
    before, after = ((x - other).abs().mean() for x in (faded, matched))
    assert after < 0.25 * before


def test_matching_is_monotonous_and_takes_few_grey_values() -> None:
    levels = (torch.arange(60).reshape(6, 10) % 4) / 3
    matched = match(levels, landmarks(scale(image(), PERCENTILES)))
    means = [float(matched[levels == level].mean()) for level in levels.unique()]
    assert means == sorted(means)
    assert (means[0], means[-1]) == (0, 1)
    empty = torch.zeros(4, 4)
    assert torch.equal(match(empty, landmarks(empty)), empty)


def test_the_share_of_empty_background_does_not_matter() -> None:
    scaled = scale(image(), PERCENTILES)
    padded = torch.nn.functional.pad(scaled, (9, 9, 9, 9, 9, 9))
    assert landmarks(padded) == landmarks(scaled)
