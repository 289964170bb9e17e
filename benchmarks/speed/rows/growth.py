"""Time and memory per voxel as scans grow, against ourselves at 64 cubed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.speed import inputs
from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from benchmarks.speed.rows.pair import our_network
from deepatlas.spatial.warp import warp


def register(sizes: Sequence[int]) -> Case:
    """Image to moved image by our default network."""
    network = our_network()

    def candidate(size: int) -> Candidate:
        moving, fixed = (inputs.image(1, [size] * 3, seed=k) for k in range(2))

        @torch.inference_mode()
        def run() -> Outputs:
            with torch.autocast(moving.device.type, torch.bfloat16):
                field = network(moving, fixed).displacement
            return (warp(moving, field),)

        return Candidate(f"{size} cubed", run, "bfloat16 channels-last", size=size**3)

    return Case([candidate(size) for size in sizes], comparable=False)


ROWS = (
    Row(
        "growth", "image to moved image, our default network", register,
        {"sizes": [64, 96, 128, 160, 192]}, {"sizes": [64, 96]}, {"sizes": [32, 32, 32, 32, 32]},
        seconds=120.0, least=3,
    ),
)  # fmt: skip
