"""Tiles of a sliding window: they cover, blend to one, and change nothing for local networks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from deepatlas.inference import native as native_classes
from deepatlas.inference.native import most_probable, share_voxels
from deepatlas.inference.window import blended, choose_tiles
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, resample

SHAPES = [(50, 41), (64, 30, 45), (17, 90, 33)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
@pytest.mark.parametrize("reach", [2, 40])
def test_tiles_cover_the_grid_and_weigh_one(
    shape: tuple[int, ...], share: float, reach: int
) -> None:
    most = max(share * math.prod(shape), 16 ** len(shape))
    tiles = choose_tiles(shape, multiple=8, reach=reach, fits=lambda size: math.prod(size) <= most)
    assert tiles is not None
    assert math.prod(tiles.size) <= most
    assert tiles.count > 1 or math.prod(shape) <= most
    for axis, (size, starts) in enumerate(zip(tiles.size, tiles.starts, strict=True)):
        assert size == shape[axis] or size % 8 == 0
        assert starts[0] == 0
        assert starts[-1] + size == shape[axis]
        weights = tiles.weights(axis)
        assert torch.allclose(weights.sum(dim=0), torch.ones(shape[axis]))
        assert float(weights.min()) >= 0
        for first, second in itertools.pairwise(starts):
            overlap = first + size - second
            assert overlap >= min(reach, size // 2) - 8
            if overlap > 2:  # a voxel at a tile's end counts little there
                assert float(weights[starts.index(first), first + size - 1]) <= 0.5


def test_no_tiles_fit() -> None:
    assert choose_tiles((64, 64), multiple=8, reach=4, fits=lambda size: False) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_a_local_network_gives_what_it_gives_in_one_pass(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 1, *shape)
    kernel = torch.randn(3, 1, *[3] * len(shape))
    convolve = F.conv2d if len(shape) == 2 else F.conv3d

    def network(x: torch.Tensor) -> torch.Tensor:
        return convolve(x, kernel, padding=1).softmax(dim=1)

    tiles = choose_tiles(shape, multiple=4, reach=6, fits=lambda size: math.prod(size) < 9000)
    assert tiles is not None
    found = blended(image, tiles, 3, network)
    inner = (slice(None), slice(None), *[slice(1, -1)] * len(shape))
    # at the ends of tiles a convolution sees zeros, and the blend gives that little weight
    assert (found.float() - network(image))[inner].abs().mean() < 5e-3
    assert found.shape == (1, 3, *shape)


def turned(ndim: int, degrees: float) -> Geometry:
    """A scan's grid, oblique to the working grid, and larger than it."""
    angle = math.radians(degrees)
    affine = torch.eye(ndim + 1, dtype=torch.float64)
    affine[:2, :2] = 0.8 * torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    affine[:ndim, ndim] = torch.tensor([-20.0, -26.0, -11.0][:ndim])
    return Geometry((53, 61, 24)[:ndim], affine)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_classes_of_a_scan_are_those_of_interpolated_probabilities(
    ndim: int, dtype: torch.dtype, degrees: float
) -> None:
    """One class after the other through `resample`, as the referee; ties aside."""
    torch.manual_seed(0)
    grid = Geometry.axis_aligned((30, 34, 18)[:ndim], (1.0, 1.1, 1.3)[:ndim])
    noise = torch.randn(1, 5, *[n // 3 for n in grid.shape])
    mode = "bilinear" if ndim == 2 else "trilinear"
    maps = (6 * F.interpolate(noise, grid.shape, mode=mode)).softmax(dim=1)
    native, to_grid = turned(ndim, degrees), Affine.translation([0.31, -0.2, 0.7][:ndim])
    expected = torch.stack([
        resample(Volume(m, grid), native, to_grid, outside=float(n == 0)).data
        for n, m in enumerate(maps[0])
    ]).argmax(dim=0)  # fmt: skip
    found = most_probable(maps.to(dtype), grid, native, to_grid)
    assert found.dtype == torch.uint8
    assert (expected == 0).float().mean() > 0.1
    assert len(expected.unique()) == 5
    wrong = float((found != expected).float().mean())
    assert wrong < (1e-4 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize("ndim", [2, 3])
def test_shared_voxels_are_seen(ndim: int) -> None:
    grid = Geometry.axis_aligned((30, 34, 18)[:ndim], (1.0, 1.5, 2.0)[:ndim])
    turn = torch.eye(ndim + 1, dtype=torch.float64)
    turn[0, 0], turn[0, ndim] = -1, 7.0
    there = Geometry((9, 100, 50)[:ndim], grid.affine @ turn)
    move = [2.0, -3.0, 4.0][:ndim]
    assert share_voxels(there, grid, Affine.translation(move))
    move[-1] += 0.01
    assert not share_voxels(there, grid, Affine.translation(move))
    wider = there.affine.clone()
    wider[:, 0] *= 1.001
    assert not share_voxels(Geometry(there.shape, wider), grid, Affine.identity(ndim))


@pytest.mark.parametrize("ndim", [2, 3])
def test_points_across_the_whole_grid_are_parted(
    ndim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many points as of a slanted plane: no box of the maps is large, and nothing changes."""
    torch.manual_seed(1)
    maps = torch.rand(1, 4, *(30, 34, 18)[:ndim]).half()
    last = torch.tensor(maps.shape[2:], dtype=torch.float64) - 1
    index = torch.rand(4000, ndim, dtype=torch.float64) * last
    whole = native_classes._interpolated(maps, index)
    boxes, sample = [], native_classes.sample

    def counted(image: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        boxes.append(image[0, 0].numel())
        return sample(image, *args, **options)

    monkeypatch.setattr(native_classes, "sample", counted)
    monkeypatch.setattr(native_classes, "SLAB_POINTS", 200)
    found = native_classes._interpolated(maps, index)
    assert max(boxes) <= 200
    assert len(boxes) < 4 * maps[0, 0].numel() / 200
    assert (found != whole).float().mean() < 1e-3  # ties, by rounding
