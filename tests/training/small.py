"""Prepared scans drawn from formulas, and small networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deepatlas.data.batches import Batch, Scans
from deepatlas.data.prepare import Preparation, PreparedScan
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine

SHAPES = {2: (14, 11), 3: (12, 9, 10)}
SPACINGS = {2: (1.0, 1.5), 3: (1.0, 1.5, 2.0)}
CLASSES = 3  # the background and two structures
SEGMENTATION = {"kind": "unet", "features": [4, 6]}
REGISTRATION = {"kind": "voxelmorph", "encoder": [4], "decoder": [4], "final": [4]}


def make_scans(ndim: int, count: int, labelled: int) -> list[PreparedScan]:
    """Noisy images of a box beside a half space, elsewhere in each; the first few are labelled."""
    shape = SHAPES[ndim]
    grid = Geometry.axis_aligned(shape, SPACINGS[ndim])
    preparation = Preparation(grid, Affine.translation([0.0] * ndim))
    random = torch.Generator().manual_seed(5)
    scans = []
    for index in range(count):
        labels = torch.zeros(shape, dtype=torch.uint8)
        labels[(slice(2 + index % 3, 7 + index % 3), slice(2, 6))] = 1
        labels[:, 7 + index % 2 :] = 2
        noise = torch.rand(shape, generator=random) * 0.2
        image = ((labels * 0.4 + noise).half().float())[None]
        has = index < labelled
        present = torch.tensor([has, has])
        scans.append(
            PreparedScan(f"s{index}", image, labels if has else None, present, preparation)
        )
    return scans


def make_networks(ndim: int, seed: int = 0) -> nn.ModuleDict:
    """Both networks; the registration network moves things by about half a voxel."""
    torch.manual_seed(seed)
    registration = build_registration(REGISTRATION, ndim=ndim)
    nn.init.normal_(registration.flow.weight, std=0.3)
    segmentation = build_segmentation(SEGMENTATION, ndim=ndim, classes=CLASSES)
    return nn.ModuleDict({"segmentation": segmentation, "registration": registration})


def stack(scans: Sequence[PreparedScan]) -> Scans:
    """Scans as a batch has them."""
    blank = torch.zeros(scans[0].image.shape[1:], dtype=torch.int16)
    return Scans(
        image=torch.stack([scan.image for scan in scans]),
        labels=torch.stack([blank if s.labels is None else s.labels.short() for s in scans]),
        labelled=torch.tensor([scan.labels is not None for scan in scans]),
        present=torch.stack([scan.present for scan in scans]),
        ids=tuple(scan.id for scan in scans),
    )


def batch(**roles: Sequence[PreparedScan]) -> Batch:
    """A batch of given scans by role, without augmentation."""
    return Batch({role: stack(scans) for role, scans in roles.items()}, {})


def touched(network: nn.Module) -> bool:
    """Whether a gradient other than zero has reached a network."""
    gradients = [p.grad for p in network.parameters()]
    return any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


def values(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's tensors."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(one[name], other[name]) for name in one)
