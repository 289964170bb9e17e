"""Peak memory of commands under `--max-memory`, beside the limit and what they did to keep it.

    python -m benchmarks.memory_limit       writes docs/results/memory.md

Runs with the default networks, whose weights are drawn, and smooth noise as scans: the size of
everything is that of real work, and nothing has to be trained. The peak is the largest resident
memory of the command's process, libraries included.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.speed import memory
from deepatlas import __version__
from deepatlas.compute import in_words, parse_memory
from deepatlas.data.plan import Plan
from deepatlas.io.images import write_image
from deepatlas.networks.registration import build_registration
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.training.recipe import load_recipe

WAY = re.compile(r"slabs of \d+ rows|\d+ tiles of [\dx ]+ voxels")


@dataclass(frozen=True)
class Trial:
    """One command: classes and grid of the run, size of the scan, the limit."""

    command: str
    classes: int
    grid: tuple[int, int, int]
    scan: tuple[int, int, int]
    limit: str


BRAIN, HEAD, FINE = (160, 192, 160), (128, 152, 128), (320, 376, 340)
NATIVE = (176, 200, 165)
TRIALS = (
    Trial("segment", 3, BRAIN, NATIVE, "16GB"),
    Trial("segment", 3, BRAIN, NATIVE, "1500MB"),
    Trial("segment", 3, BRAIN, NATIVE, "1200MB"),
    Trial("segment", 3, BRAIN, NATIVE, "900MB"),
    Trial("segment", 3, BRAIN, FINE, "1500MB"),
    Trial("segment", 32, HEAD, NATIVE, "4GB"),
    Trial("segment", 32, HEAD, NATIVE, "1100MB"),
    Trial("register --write all", 3, HEAD, NATIVE, "4GB"),
    Trial("register --write all", 3, HEAD, NATIVE, "1600MB"),
)


def make_run(folder: Path, trial: Trial) -> Path:
    """A run of the recipe `baseline` whose weights are drawn."""
    recipe = load_recipe("baseline")
    plan = Plan(
        shape=trial.grid, spacing_mm=(1.0,) * 3, centre_mm=(0.0,) * 3,
        label_values=tuple(range(1, trial.classes)), label_dtype="uint8",
    )  # fmt: skip
    torch.manual_seed(0)
    segmentation = build_segmentation(
        recipe.networks["segmentation"], ndim=3, classes=trial.classes
    )
    registration = build_registration(recipe.networks["registration"], ndim=3)
    nn.init.normal_(registration.get_parameter("flow.weight"), std=0.02)  # it moves something
    run = RunFolder(folder)
    run.write_config(recipe)
    run.write("plan.json", plan.to_json())
    run.write("split.json", {"train": [], "labelled": [], "cohort": str(folder)})
    run.write_network("segmentation", segmentation.state_dict(), recipe)
    run.write_network("registration", registration.state_dict(), recipe)
    return folder


def make_scan(path: Path, trial: Trial, seed: int = 0) -> Path:
    """Smooth noise that fills the grid, whatever its number of voxels."""
    coarse = torch.rand((1, 1, 12, 12, 12), generator=torch.Generator().manual_seed(seed))
    values = 1000 * F.interpolate(coarse, trial.scan, mode="trilinear")[0, 0]
    spacing = tuple(n / m for n, m in zip(trial.grid, trial.scan, strict=True))
    write_image(path, Volume(values, Geometry.axis_aligned(trial.scan, spacing)))
    return path


def measured(trial: Trial, folder: Path, threads: int) -> tuple[int, str]:
    """Bytes at most, and what the command said that it did to stay below the limit."""
    run = make_run(folder / "run", trial)
    scan = make_scan(folder / "scan.nii.gz", trial)
    command, *options = trial.command.split()
    if command == "register":
        other = make_scan(folder / "other.nii.gz", trial, seed=1)
        scans = ["--moving", str(scan), "--fixed", str(other)]
    else:
        scans = [str(scan)]
    done, peak = memory.call(
        ["-m", "deepatlas", command, str(run), *scans, "--out", str(folder / "out"),
         *options, "--max-memory", trial.limit, "--threads", str(threads)]
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{trial}: {done.stderr}")
    found = WAY.search(done.stderr)
    return int(peak * 2**20), found.group() if found else "one pass"


def main() -> None:
    """All trials, a line each."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    used = f"{args.threads} threads, torch {torch.__version__}, deepatlas {__version__}"
    lines = [
        f"By `python -m benchmarks.memory_limit`: {used}.",
        "",
        "| command | classes | grid | voxels of the scan | limit | peak | how |",
        "| --- " * 7 + "|",
    ]
    for trial in TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            peak, way = measured(trial, Path(folder), args.threads)
        voxels = torch.Size(trial.scan).numel() / 1e6
        cells = [trial.command, str(trial.classes), "x".join(map(str, trial.grid)),
                 f"{voxels:.1f} million", trial.limit, in_words(peak), way]  # fmt: skip
        if peak > parse_memory(trial.limit):
            cells[-2] += ": **above the limit**"
        lines.append("| " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    (args.results / "memory.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
