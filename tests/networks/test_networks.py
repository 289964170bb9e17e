"""What every entry of both tables of networks promises, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepatlas.networks.blocks import crop, pad_to_multiple
from deepatlas.networks.normalisation import NormActivation
from deepatlas.networks.registration import REGISTRATION_NETWORKS, build_registration
from deepatlas.networks.registration.base import Deformation
from deepatlas.networks.registration.voxelmorph import VoxelMorph, VoxelMorphNetwork
from deepatlas.networks.segmentation import SEGMENTATION_NETWORKS, build_segmentation
from deepatlas.networks.segmentation.unet import UNet
from deepatlas.parts import build
from deepatlas.spatial.field import double
from deepatlas.spatial.jacobian import jacobian_determinant
from deepatlas.spatial.velocity import integrate

CLASSES = 4
SHAPES = [(17, 13, 10), (31, 45)]
ODD_SHAPES = [(17, 23, 20), (31, 45), (16, 32), (5, 1, 9), (1, 1), (2, 3, 1)]
# besides the defaults, what changes how an entry of the table works
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "voxelmorph": [
        {"velocity": True, "half_resolution": True},
        {"velocity": True, "half_resolution": False},
        {"velocity": False, "half_resolution": False},
        {"velocity": False, "half_resolution": True, "norm": True, "repeats": 2, "flow_scale": 0.5},
    ],
    "unet": [{}, {"features": [8]}],
}
REGISTRATION = [
    {"kind": kind, **fields}
    for kind in REGISTRATION_NETWORKS
    for fields in VARIANTS.get(kind, [{}])
]
SEGMENTATION = [
    {"kind": kind, **fields}
    for kind in SEGMENTATION_NETWORKS
    for fields in VARIANTS.get(kind, [{}])
]

segmenting = pytest.mark.parametrize("spec", SEGMENTATION, ids=str)
registering = pytest.mark.parametrize("spec", REGISTRATION, ids=str)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
odd_shapes = pytest.mark.parametrize("shape", ODD_SHAPES, ids=str)


def image(shape: tuple[int, ...], seed: int = 0, batch: int = 1) -> Tensor:
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(seed))


def segmenter(spec: Any, ndim: int) -> nn.Module:
    torch.manual_seed(3)
    return build_segmentation(spec, ndim=ndim, classes=CLASSES)


def registrar(spec: Any, ndim: int, *, strong: bool = True) -> nn.Module:
    """Fresh weights; `strong` ones displace by about a voxel."""
    torch.manual_seed(3)
    network = build_registration(spec, ndim=ndim)
    if strong:
        nn.init.normal_(network.flow.weight, std=0.3)  # type: ignore[arg-type, union-attr]
        nn.init.normal_(network.flow.bias, std=0.3)  # type: ignore[arg-type, union-attr]
    return network


def outcomes(network: nn.Module, shape: tuple[int, ...], **drawn: Any) -> list[Tensor]:
    """All tensors that either kind of network says."""
    if isinstance(network, VoxelMorphNetwork):
        result = network(image(shape, 1, **drawn), image(shape, 2, **drawn))
        return [part for part in result if part is not None]
    return [network(image(shape, 1, **drawn))]


BOTH: list[tuple[Callable[..., nn.Module], Any]] = [
    *[(segmenter, spec) for spec in SEGMENTATION],
    *[(registrar, spec) for spec in REGISTRATION],
]
every = pytest.mark.parametrize(
    ("make", "spec"), BOTH, ids=lambda v: str(v) if type(v) is dict else ""
)


@segmenting
@odd_shapes
@torch.no_grad()
def test_logits_of_any_shape(spec: Any, shape: tuple[int, ...]) -> None:
    logits = segmenter(spec, len(shape))(image(shape, batch=2))
    assert logits.shape == (2, CLASSES, *shape)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@registering
@odd_shapes
@torch.no_grad()
def test_displacement_of_any_shape(spec: Any, shape: tuple[int, ...]) -> None:
    result = registrar(spec, len(shape))(image(shape, 1, batch=2), image(shape, 2, batch=2))
    assert isinstance(result, Deformation)
    assert result.displacement.shape == (2, len(shape), *shape)
    assert result.displacement.dtype == torch.float32
    assert torch.isfinite(result.displacement).all()


@registering
@shapes
@torch.no_grad()
def test_registration_begins_with_the_identity(spec: Any, shape: tuple[int, ...]) -> None:
    network = registrar(spec, len(shape), strong=False)
    result = network(image(shape, 1), image(shape, 2))
    assert 0 < result.displacement.abs().max() < 1e-3


@every
@shapes
@torch.no_grad()
def test_autocast_gives_float32_and_nearly_the_same(
    make: Any, spec: Any, shape: tuple[int, ...]
) -> None:
    network = make(spec, len(shape))
    full = outcomes(network, shape)
    with torch.autocast("cpu", torch.bfloat16):
        half = outcomes(network, shape)
    for a, b in zip(half, full, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).abs().max() < 0.05 * b.abs().max()
        # more than the 8 bits of bfloat16 in what is added up and integrated after the convolutions
        if make is registrar:
            assert (a != a.bfloat16().float()).float().mean() > 0.5


@every
@shapes
@torch.no_grad()
def test_training_and_use_are_the_same(make: Any, spec: Any, shape: tuple[int, ...]) -> None:
    network = make(spec, len(shape))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training = outcomes(network.train(), shape, batch=2)
    using = outcomes(network.eval(), shape, batch=2)
    for a, b in zip(training, using, strict=True):
        assert torch.equal(a, b)
    assert set(before) == {name for name, _ in network.named_parameters()}  # and no buffers
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@every
@shapes
@torch.no_grad()
def test_items_of_a_batch_do_not_meet(make: Any, spec: Any, shape: tuple[int, ...]) -> None:
    network = make(spec, len(shape))
    a, b = image(shape, 1), 5 * image(shape, 2)

    def of_first(other: Tensor) -> Tensor:
        if make is segmenter:
            return network(torch.cat([a, other]))[0]
        return network(torch.cat([a, other]), torch.cat([b, other])).displacement[0]

    assert torch.equal(of_first(b), of_first(100 * b))
    alone = network(a)[0] if make is segmenter else network(a, b).displacement[0]
    # Not closer: two voxels at the deepest level, normalised, enlarge what rounding leaves.
    torch.testing.assert_close(of_first(b), alone, rtol=0, atol=2e-3 * float(alone.abs().max()))


@every
@shapes
def test_gradient_reaches_every_parameter(make: Any, spec: Any, shape: tuple[int, ...]) -> None:
    network = make(spec, len(shape))
    first = outcomes(network, shape)[0]
    weight = torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    (first * weight).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


@every
@torch.no_grad()
def test_seeds_repeat_weights_and_results(make: Any, spec: Any) -> None:
    first, second = (outcomes(make(spec, 2), (31, 45)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@every
@pytest.mark.parametrize("ndim", [2, 3])
def test_convolutions_lie_channels_last(make: Any, spec: Any, ndim: int) -> None:
    layout = torch.channels_last if ndim == 2 else torch.channels_last_3d
    weights = [p for p in make(spec, ndim).parameters() if p.ndim == ndim + 2]
    assert weights
    assert all(weight.is_contiguous(memory_format=layout) for weight in weights)


@shapes
@torch.no_grad()
def test_moving_and_fixed_are_told_apart(shape: tuple[int, ...]) -> None:
    network = registrar("voxelmorph", len(shape))
    a, b = image(shape, 1), image(shape, 2)
    there, back = network(a, b).displacement, network(b, a).displacement
    assert (there - back).abs().mean() > 1e-3


@pytest.mark.parametrize("velocity", [True, False])
@pytest.mark.parametrize("shape", [*SHAPES, (32, 16)], ids=str)
@torch.no_grad()
def test_half_resolution(velocity: bool, shape: tuple[int, ...]) -> None:
    spec = {"kind": "voxelmorph", "velocity": velocity, "half_resolution": True, "squarings": 5}
    network = registrar({**spec, "flow_scale": 0.5}, len(shape))
    said: list[Tensor] = []
    hook = network.flow.register_forward_hook(lambda *call: said.append(call[2]))  # type: ignore[union-attr]
    displacement, flow = network(image(shape, 1), image(shape, 2))
    hook.remove()
    half = [(n + 1) // 2 for n in shape]
    field = 0.5 * crop(said[0], half)
    if velocity:
        assert flow is not None
        assert torch.equal(flow, field)
        field = integrate(flow, squarings=5)
    else:
        assert flow is None
    torch.testing.assert_close(displacement, double(field, shape))
    assert displacement.abs().max() > 0.1


@pytest.mark.parametrize("half", [True, False])
@shapes
@torch.no_grad()
def test_velocities_do_not_fold(half: bool, shape: tuple[int, ...]) -> None:
    network = VoxelMorph(velocity=True, half_resolution=half).build(ndim=len(shape))
    torch.manual_seed(0)
    nn.init.normal_(network.flow.weight)  # type: ignore[arg-type]
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    blobs = [torch.exp(-3 * sum((x - s) ** 2 for x in axes))[None, None] for s in (0, 0.3)]  # type: ignore[arg-type]
    _, velocity = network(*blobs)
    assert velocity is not None
    factor = 1.0
    while jacobian_determinant(factor * velocity).min() > -0.1:  # as a displacement it would fold
        factor *= 1.2
    network.flow.weight.mul_(factor)  # type: ignore[operator]
    displacement, velocity = network(*blobs)
    assert velocity is not None
    assert jacobian_determinant(velocity).min() < 0
    assert jacobian_determinant(displacement).min() > 0
    assert displacement.abs().max() > 1


def test_padding_is_after_the_last_voxel() -> None:
    x = 1 + torch.rand(1, 2, 5, 8, 3)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 2, 8, 8, 4)
    assert torch.equal(padded[:, :, :5, :, :3], x)
    assert padded.sum() == pytest.approx(float(x.sum()))
    assert pad_to_multiple(padded, 4) is padded


def test_features_are_those_of_the_papers() -> None:
    voxelmorph = VoxelMorph(half_resolution=False, velocity=False).build(ndim=3)
    convolutions = [m for m in voxelmorph.modules() if isinstance(m, nn.Conv3d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions] == [
        (2, 16, 2), (16, 32, 2), (32, 32, 2), (32, 32, 2),
        (32, 32, 1), (64, 32, 1), (64, 32, 1), (48, 32, 1),
        (34, 32, 1), (32, 16, 1), (16, 16, 1), (16, 3, 1),
    ]  # fmt: skip
    unet = UNet().build(ndim=2, classes=CLASSES)
    assert sum(p.numel() for p in unet.parameters()) < 500_000  # light


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("voxelmorph", {"encoder": (), "decoder": ()}), ("voxelmorph", {"decoder": (8, 8)}),
     ("voxelmorph", {"squarings": -1}), ("voxelmorph", {"repeats": 0}),
     ("voxelmorph", {"flow_scale": 0.0}), ("unet", {"features": ()})],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_network(kind: str, fields: dict[str, Any]) -> None:
    table = {**REGISTRATION_NETWORKS, **SEGMENTATION_NETWORKS}
    with pytest.raises(ValueError, match=next(iter(fields))):
        table[kind](**fields)
    with pytest.raises(Exception, match=next(iter(fields))):
        build(table, {"kind": kind, **fields}, "networks")


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_logits_depend_on_voxels_as_far_away_as_it_says(levels: int) -> None:
    torch.manual_seed(0)
    network = UNet(features=(2,) * levels).build(ndim=2, classes=2).double()
    for module in network.modules():
        if isinstance(module, NormActivation):
            module.forward = lambda x: x  # type: ignore[method-assign]
    with torch.no_grad():
        for weight in network.parameters():
            weight.abs_()
    size = 16 * network.multiple
    farthest = 0
    for at in range(size // 2, size // 2 + network.multiple):
        image = torch.zeros(1, 1, size, size, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(network(image)[0, 0, at, at], image)
        rows = torch.nonzero(gradient[0, 0].abs().sum(dim=1) > 0)
        farthest = max(farthest, at - int(rows.min()), int(rows.max()) - at)
    assert farthest == network.reach
