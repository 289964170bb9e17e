"""A pair of scans through a network, and through ANTs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from benchmarks.speed.peers.vxm_dense import Fast, VxmDense, lively
from deepatlas.networks.registration import build_registration
from deepatlas.spatial.warp import warp
from deepatlas.training.recipe import load_recipe

RECIPE = "da"
BFLOAT16 = "bfloat16 channels-last, field float32"


def our_network() -> nn.Module:
    """The default recipe's registration network, with fresh weights."""
    torch.manual_seed(0)
    return build_registration(load_recipe(RECIPE).networks["registration"], ndim=3).eval()


def same_network(shape: Sequence[int]) -> Case:
    """The layout of VxmDense with the same weights on both sides, displacement on the full grid."""
    plain = lively(VxmDense())
    moving, fixed = (inputs.image(1, shape, seed=k) for k in range(2))
    fast = Fast(plain)

    def forward(network: nn.Module) -> Callable[[], Outputs]:
        @torch.inference_mode()
        def run() -> Outputs:
            return (network(moving, fixed),)

        return run

    reference = forward(plain)
    return Case(
        [
            Candidate("deepatlas", forward(fast), BFLOAT16, exact=reference),
            Candidate("VxmDense layout", reference),
        ],
        note=f"{_times(shape)}, weights drawn at random; the reference is float32",
    )


def default_network(shape: Sequence[int]) -> Case:
    """Our default network against VoxelMorph's, each as it comes."""
    plain, ours = lively(VxmDense()), our_network()
    moving, fixed = (inputs.image(1, shape, seed=k) for k in range(2))

    @torch.inference_mode()
    def run() -> Outputs:
        with torch.autocast(moving.device.type, torch.bfloat16):
            return (ours(moving, fixed).displacement,)

    @torch.inference_mode()
    def dense() -> Outputs:
        return (plain(moving, fixed),)

    return Case(
        [
            Candidate("deepatlas", run, BFLOAT16),
            Candidate("VxmDense layout", dense),
            Candidate("voxelmorph", _pairwise(moving, fixed), "float32, VxmPairwise's defaults"),
        ],
        comparable=False,
        note=f"{_times(shape)}, displacement on the full grid; Dice is another benchmark's",
    )


def _pairwise(moving: Tensor, fixed: Tensor) -> Callable[[], Outputs]:
    from voxelmorph.nn.models import VxmPairwise

    network = VxmPairwise(3, 1, 1).eval()

    @torch.inference_mode()
    def run() -> Outputs:
        return (network(moving, fixed),)

    return run


def against_syn(shape: Sequence[int]) -> Case:
    """Image to moved image. The moving image is the fixed one through a smooth field."""
    import ants

    ours = our_network()
    fixed = inputs.image(1, shape)
    moving = warp(fixed, inputs.field(1, shape, voxels=2.0), outside="border")
    images = {
        name: ants.from_numpy(x[0, 0].cpu().numpy()) for name, x in (("f", fixed), ("m", moving))
    }

    @torch.inference_mode()
    def run() -> Outputs:
        with torch.autocast(moving.device.type, torch.bfloat16):
            field = ours(moving, fixed).displacement
        return (warp(moving, field),)

    def syn() -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            found = ants.registration(
                fixed=images["f"], moving=images["m"], type_of_transform="SyNOnly",
                outprefix=os.path.join(folder, "ants"),
            )  # fmt: skip
            return (torch.from_numpy(found["warpedmovout"].numpy())[None, None],)

    return Case(
        [
            Candidate("deepatlas", run, BFLOAT16),
            Candidate("ANTs SyN", syn, "SyNOnly, its defaults (mutual information)"),
        ],
        comparable=False,
        note=f"{_times(shape)}, images in memory; Dice is another benchmark's",
    )


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


FULL, SMALL, TINY = {"shape": (160, 192, 160)}, {"shape": (80, 96, 80)}, {"shape": (32, 32, 32)}
ROWS = (
    Row(
        "same-network", "a pair to its displacement, the same network", same_network, FULL, SMALL,
        TINY, {"VxmDense layout": 4.0}, least=5,
    ),
    Row(
        "default-network", "the same, our default network", default_network, FULL,
        {"shape": (96, 96, 96)}, TINY, {"VxmDense layout": 8.0}, least=5,
    ),
    Row(
        "syn", "image to moved image, affinely aligned", against_syn, FULL, {"shape": (64, 64, 64)},
        TINY, {"ANTs SyN": 100.0}, seconds=0.0, least=3,
    ),
)  # fmt: skip
