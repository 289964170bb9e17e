"""A U-Net in slabs gives what it gives in one pass."""

from __future__ import annotations

import pytest
import torch

from deepatlas.networks.segmentation import build_segmentation
from deepatlas.networks.segmentation.unet import UNetNetwork


@pytest.mark.parametrize("shape", [(37, 50), (21, 18, 26), (16, 16, 16)])
@pytest.mark.parametrize("rows", [2, 7, 100])
@pytest.mark.parametrize("features", [[4, 6], [4, 6, 8, 8]])
def test_slabs_are_exact(shape: tuple[int, ...], rows: int, features: list[int]) -> None:
    torch.manual_seed(0)
    spec = {"kind": "unet", "features": features}
    network = build_segmentation(spec, ndim=len(shape), classes=3).eval()
    assert isinstance(network, UNetNetwork)
    image = torch.rand(1, 1, *shape)
    with torch.inference_mode():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        expected = network(image)
        parts = dict(network.in_slabs(image, rows))
    found = torch.cat([parts[start] for start in sorted(parts)], dim=2)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("shape", [(40, 48), (24, 32, 16)])
def test_in_half_precision_too(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = build_segmentation("unet", ndim=len(shape), classes=4).eval()
    assert isinstance(network, UNetNetwork)
    image = torch.rand(1, 1, *shape)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(image)
        found = torch.cat([logits for _, logits in network.in_slabs(image, 6)], dim=2)
    assert (found - expected).abs().mean() < 0.01 * expected.std()
