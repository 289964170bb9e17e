"""Networks by dotted path: MONAI as the example, small modules for what can go wrong."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepatlas.errors import BadInput
from deepatlas.networks.registration import build_registration
from deepatlas.networks.registration.base import Deformation, RegistrationNetwork
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.spatial.velocity import integrate

SHAPES = [(17, 13, 10), (31, 45)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
UNET = {
    "kind": "monai.networks.nets:UNet",
    "spatial_dims": "{ndim}",
    "channels": [4, 8, 8],
    "strides": [2, 2],
    "multiple": 4,
}


class Convolution(nn.Module):
    """Any number of channels, with a parameter that is no convolution's."""

    def __init__(self, ndim: int, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        kind = nn.Conv2d if ndim == 2 else nn.Conv3d
        self.convolution = kind(inputs, outputs, 3, stride=stride, padding=1)
        self.factor = nn.Parameter(torch.ones(1, 1, 1, 1) if ndim == 3 else torch.ones(1))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[2:]))
        return self.convolution(x) * self.factor.reshape(-1)[0]


class Supervised(Convolution):
    """Gives a list of outputs, the finest first."""

    def forward(self, x: Tensor) -> Any:
        out = super().forward(x)
        return [out, out[..., ::2]]


class Nested(nn.Module):
    """Placeholders within lists and mappings."""

    def __init__(self, sizes: list[int], more: dict[str, Any]) -> None:
        super().__init__()
        self.net = Convolution(sizes[0], 1, more["heads"][0])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Own(RegistrationNetwork):
    """A registration network by its own contract."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        zeros = torch.zeros(len(fixed), fixed.ndim - 2, *fixed.shape[2:])
        return Deformation(zeros + self.step)


def no_network() -> dict[str, int]:
    """A callable that returns something else."""
    return {}


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes above in a package `somebody.nets`."""
    package, module = ModuleType("somebody"), ModuleType("somebody.nets")
    for thing in (Convolution, Supervised, Nested, Own, no_network):
        setattr(module, thing.__name__, thing)
    monkeypatch.setitem(sys.modules, "somebody", package)
    monkeypatch.setitem(sys.modules, "somebody.nets", module)


def image(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.rand(2, 1, *shape, generator=torch.Generator().manual_seed(seed))


def convolution(outputs: Any, **fields: Any) -> dict[str, Any]:
    inputs = 2 if outputs == "{ndim}" else 1
    made = {"kind": "somebody.nets:Convolution", "ndim": "{ndim}", "inputs": inputs}
    return {**made, "outputs": outputs, **fields}


@shapes
def test_monai_segments(shape: tuple[int, ...]) -> None:
    pytest.importorskip("monai.networks.nets")
    spec = {**UNET, "in_channels": 1, "out_channels": "{classes}"}
    network = build_segmentation(spec, ndim=len(shape), classes=5)
    logits = network(image(shape))
    assert logits.shape == (2, 5, *shape)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = network(image(shape))
    assert half.dtype == torch.float32
    assert (half - logits).abs().max() < 0.1 * logits.abs().max()


@shapes
@pytest.mark.parametrize("velocity", [True, False])
def test_monai_registers(shape: tuple[int, ...], velocity: bool) -> None:
    pytest.importorskip("monai.networks.nets")
    spec = {**UNET, "in_channels": 2, "out_channels": "{ndim}", "velocity": velocity}
    network = build_registration(spec, ndim=len(shape))
    moving, fixed = image(shape, 1), image(shape, 2)
    result = network(moving, fixed)
    assert result.displacement.shape == (2, len(shape), *shape)
    if velocity:
        torch.testing.assert_close(result.displacement, integrate(result.velocity))
    else:
        assert result.velocity is None
    result.displacement.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        half = network(moving, fixed)
    assert half.displacement.dtype == torch.float32
    swapped = network(fixed, moving).displacement
    assert (swapped - result.displacement).abs().mean() > 1e-3


@shapes
def test_padded_to_a_multiple_and_cropped(shape: tuple[int, ...]) -> None:
    for multiple, spec in ((16, {}), (8, {"multiple": 8}), (1, {"multiple": 1})):
        network = build_segmentation(convolution("{classes}", **spec), ndim=len(shape), classes=3)
        assert network(image(shape)).shape == (2, 3, *shape)
        inner = network.get_submodule("module")
        assert isinstance(inner, Convolution)
        assert inner.seen == [tuple(-(-n // multiple) * multiple for n in shape)]


@torch.no_grad()
def test_outputs_are_float32_and_velocities_integrated() -> None:
    segmentation = build_segmentation(convolution("{classes}"), ndim=3, classes=3)
    registration = build_registration(convolution("{ndim}", velocity=True), ndim=3)
    moving, fixed = image((9, 7, 5), 1), image((9, 7, 5), 2)
    with torch.autocast("cpu", torch.bfloat16):
        logits, (displacement, velocity) = segmentation(moving), registration(moving, fixed)
    assert {part.dtype for part in (logits, displacement, velocity)} == {torch.float32}
    assert torch.equal(displacement, integrate(velocity))
    assert not torch.equal(displacement, velocity)


def test_the_first_of_several_outputs_counts() -> None:
    fields = {"kind": "somebody.nets:Supervised"}
    segmentation = build_segmentation(convolution(3, **fields), ndim=2, classes=3)
    assert segmentation(image((9, 7))).shape == (2, 3, 9, 7)
    registration = build_registration(convolution("{ndim}", **fields), ndim=3)
    assert registration(image((9, 7, 5)), image((9, 7, 5))).displacement.shape == (2, 3, 9, 7, 5)


def test_placeholders_within_lists_and_mappings() -> None:
    spec = {"kind": "somebody.nets:Nested", "sizes": ["{ndim}"], "more": {"heads": ["{classes}"]}}
    network = build_segmentation(spec, ndim=3, classes=6)
    assert network(image((4, 5, 3))).shape == (2, 6, 4, 5, 3)
    assert spec["sizes"] == ["{ndim}"]  # the recipe's own values stay


def test_a_registration_network_of_its_own() -> None:
    network = build_registration({"kind": "somebody.nets:Own", "step": 0.5}, ndim=2)
    assert isinstance(network, Own)
    result = network(image((5, 6)), image((5, 6)))
    assert (result.displacement == 0.5).all()
    with pytest.raises(BadInput, match="velocity"):
        build_registration({"kind": "somebody.nets:Own", "step": 1.0, "velocity": True}, ndim=2)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (convolution("{channels}"), r"outputs: .*\{channels\}; use one of \{ndim\}, \{classes\}"),
        ({"kind": "somebody.networks:Net"}, "no module somebody.networks"),
        ({"kind": "nowhere_to_be_found:Net"}, "no module nowhere_to_be_found"),
        ("nowhere_to_be_found:Net", "no module nowhere_to_be_found"),
        ({"kind": "somebody.nets:Convolutoin"}, 'did you mean "Convolution"'),
        ("somebody.nets:no_network", "gives a dict, no nn.Module"),
        (convolution(3, colour="red"), "colour"),
        (convolution("many"), "cannot be made"),
        (convolution(3, multiple="16"), "multiple: expected a value such as 16, got '16'"),
        (convolution(3, multiple=0), "multiple"),
        ("unett", 'did you mean "unet"'),
        ({"features": [8]}, "kind"),
    ],
    ids=str,
)
def test_faults_of_a_segmentation_spec(spec: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says) as raised:
        build_segmentation(spec, ndim=2, classes=3)
    assert "networks.segmentation" in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (convolution("{classes}"), r"\{classes\}; use one of \{ndim\}"),
        (convolution("{ndim}", velocity="yes"), "velocity: expected a value such as False"),
        ("voxelmorf", 'did you mean "voxelmorph"'),
        ({"kind": "voxelmorph", "decoder": [8]}, "decoder"),
    ],
    ids=str,
)
def test_faults_of_a_registration_spec(spec: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says) as raised:
        build_registration(spec, ndim=2)
    assert "networks.registration" in str(raised.value)


def test_velocity_is_no_field_of_segmentation() -> None:
    with pytest.raises(BadInput, match="velocity"):
        build_segmentation(convolution(3, velocity=True), ndim=2, classes=3)


def test_outputs_of_a_wrong_size_are_told() -> None:
    channels = build_segmentation(convolution(2), ndim=2, classes=3)
    with pytest.raises(BadInput, match=r"gives .*channels"):
        channels(image((16, 16)))
    small = build_registration(convolution("{ndim}", stride=2), ndim=3)
    with pytest.raises(BadInput, match=r"\(2, 3, 8, 8, 8\) where \(2, 3, 16, 16, 16\)"):
        small(image((9, 7, 5)), image((9, 7, 5)))
