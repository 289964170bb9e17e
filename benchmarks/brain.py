"""Brains: our default network and VoxelMorph's layout after equal minutes, and both beside ANTs.

    python benchmarks/brain.py train --data BRAIN            trains both, on the 2 mm grid
    python benchmarks/brain.py compare --data BRAIN          20 pairs of the last five brains

The first ten scans train, all with labels (the coarse groups), the last five test; nothing is
chosen on either. All networks see the same stream of batches, with the same losses; ours works in
bfloat16, the layout of the 2024 VxmDense in float32, once at our rate and once at VoxelMorph's own.
Where bfloat16 pays, the comparison also runs the layout's weights in it, by our parts, and ours in
float32.
Equal budget: so many steps of each as take `--minutes` at the seconds per step that the command
measures first, in turns on all threads (with `--steps`, so many); the faster network takes more
of them. Training itself may then share the machine.

The comparison starts from affinely aligned images on one grid of 160 x 192 x 160 voxels of 1 mm,
made from the files by the alignment of the run. Image to moved image is timed: for a network,
coarser images, network, and the image through its displacement; for ANTs the call of
`ants.registration` with `SyNOnly`. Each method goes once before it is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
LAYOUT = {"kind": "benchmarks.speed.peers.vxm_dense:Layout", "ndim": "{ndim}"}
DENSE = {"networks": {"registration": LAYOUT}, "training": {"precision": "float32"}}
DENSE_RUN = "vxm-dense"
RUNS: dict[str, tuple[dict[str, Any], list[str]]] = {  # what differs from the recipe
    "deepatlas": ({}, []),
    DENSE_RUN: (DENSE, []),
    "vxm-dense-slow": (DENSE, ["stages.registration.optimisers.registration.rate=1e-4"]),
}
SETTINGS = ["data.align=affine", "data.spacing_mm=[2,2,2]", "data.shape=[80,96,80]"]
GRID = (160, 192, 160)
STRUCTURES = "label_groups.json:coarse"


def scan_ids(data: Path) -> list[str]:
    """Of all scans, in order of their names."""
    files = (data / "imagesTr").glob("*.nii.gz")
    return sorted(file.name.removesuffix(".nii.gz") for file in files)


def train(data: Path, out: Path, name: str, steps: int, threads: int, seed: int) -> None:
    """A run by the command; one that was interrupted goes on."""
    ids = scan_ids(data)
    split, config = out / "split.json", out / f"{name}.yaml"
    split.write_text(json.dumps({"train": ids[:10], "validation": [], "test": ids[-5:]}))
    differs, settings = RUNS[name]
    config.write_text(json.dumps(differs))
    command = [
        sys.executable, "-m", "deepatlas", "train", str(data), "--out", str(out / name),
        "--recipe", "weak", "--split", str(split), "--config", str(config), "--seed", str(seed),
        "--label-groups", str(data / STRUCTURES), "--threads", str(threads),
        "--set", *SETTINGS, *settings, f"training.steps={steps}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": _path()}
    subprocess.run(command, check=True, env=environment)


def _path() -> str:
    """Where the processes that train find this package."""
    return os.pathsep.join(sys.path)


def seconds_per_step(data: Path, out: Path, threads: int) -> dict[str, float]:
    """Of each network, the median of short trials on all threads, taken in turns."""
    found: dict[str, list[float]] = {"deepatlas": [], DENSE_RUN: []}
    for attempt in range(2):
        for name in found:
            with tempfile.TemporaryDirectory() as folder:
                train(data, Path(folder), name, 40, threads, seed=attempt)
                found[name] += step_seconds(Path(folder) / name)
    return {name: statistics.median(times) for name, times in found.items()}


def step_seconds(run: Path) -> list[float]:
    """What the log of a run says about its steps."""
    events = [json.loads(line) for line in (run / "log.jsonl").open()]
    return [event["step_seconds"] for event in events if "step_seconds" in event]


Method = Callable[[str, str], tuple[Tensor, float]]  # ids to the displacement and seconds


class Pairs:
    """The test scans on one fine grid, from the same affine alignment for everybody.

    Attributes
    ----------
    images, labels : by scan id, (1, 1, *GRID) in [0, 1] and (*GRID) class indices.
    """

    def __init__(self, data: Path, run: Path, ids: list[str]) -> None:
        from deepatlas.data.prepare import prepare
        from deepatlas.io.subject import Subject
        from deepatlas.run.folder import RunFolder

        plan = replace(RunFolder(run).plan, shape=GRID, spacing_mm=(1.0, 1.0, 1.0))
        self.images: dict[str, Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        for scan in ids:
            paths = [data / part / f"{scan}.nii.gz" for part in ("imagesTr", "labelsTr")]
            prepared = prepare(Subject(scan, *paths), plan)
            assert prepared.labels is not None
            self.images[scan] = prepared.image[None]
            self.labels[scan] = prepared.labels

    def network(self, run: Path, *, half: bool = True) -> Method:
        """As a run's own session does it, in the type that it was trained in where that pays.

        Without `half` in float32.
        """
        from deepatlas.inference.session import Session
        from deepatlas.run.folder import RunFolder

        session = Session(RunFolder(run))
        session.half &= half
        return self.on_half_the_grid(session.displacement)

    def dense_in_bfloat16(self, run: Path) -> Method:
        """The weights of VxmDense's layout in bfloat16, by our parts."""
        from benchmarks.speed.peers.vxm_dense import Fast, VxmDense
        from deepatlas.run.folder import RunFolder

        trained = RunFolder(run).network("registration").get_submodule("module")
        network = VxmDense().eval()
        network.load_state_dict(trained.state_dict())
        return self.on_half_the_grid(Fast(network))

    def on_half_the_grid(self, deform: Callable[[Tensor, Tensor], Tensor]) -> Method:
        """Moving and fixed to the displacement in voxels of the fine grid, and the seconds.

        The fine grid has twice the voxels of the network's, edge on edge. The image is moved as
        `deepatlas register` does it, without the displacement of every fine voxel; that is the same
        map, and for Dice only.
        """
        from deepatlas.spatial.geometry import Geometry, Volume
        from deepatlas.spatial.transform import DisplacementField, resample

        fine = Geometry(GRID, torch.eye(4, dtype=torch.float64))
        affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
        affine[:3, 3] = 0.5
        coarse = Geometry(tuple(n // 2 for n in GRID), affine)

        @torch.inference_mode()
        def register(moving: str, fixed: str) -> tuple[Tensor, float]:
            started = time.perf_counter()
            small = [F.avg_pool3d(self.images[scan], 2) for scan in (moving, fixed)]
            inner = deform(*small)
            image = Volume(self.images[moving][0, 0], fine)
            resample(image, fine, DisplacementField(inner[0], coarse))
            seconds = time.perf_counter() - started
            return 2 * F.interpolate(inner, scale_factor=2, mode="trilinear"), seconds

        return register

    def syn(self, moving: str, fixed: str) -> tuple[Tensor, float]:
        """The same by ANTs."""
        import ants

        given = {
            name: ants.from_numpy(self.images[scan][0, 0].numpy())
            for name, scan in (("moving", moving), ("fixed", fixed))
        }
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            found = ants.registration(
                **given, type_of_transform="SyNOnly", initial_transform="Identity",
                outprefix=os.path.join(folder, "syn"),
            )  # fmt: skip
            seconds = time.perf_counter() - started
            (warped,) = (path for path in found["fwdtransforms"] if path.endswith(".nii.gz"))
            # Voxels of 1 mm, origin 0 and no rotation: mm of the file are voxels of the grid.
            field = torch.from_numpy(ants.image_read(warped).numpy()).movedim(-1, 0)[None]
            return field, seconds

    def dice(self, moving: str, fixed: str, field: Tensor | None) -> float:
        """Mean over the structures that either scan has; before registration without a field."""
        from deepatlas.spatial.warp import warp

        carried, wanted = self.labels[moving], self.labels[fixed]
        if field is not None:
            carried = warp(carried[None, None].float(), field, mode="nearest", outside="border")
            carried = carried[0, 0].round().to(wanted.dtype)
        values = []
        for label in range(1, int(max(carried.max(), wanted.max())) + 1):
            one, two = carried == label, wanted == label
            if total := int(one.sum() + two.sum()):
                values.append(2 * int((one & two).sum()) / total)
        return statistics.mean(values)


def compare(data: Path, out: Path, with_ants: bool) -> dict[str, Any]:
    """Dice and seconds of all ordered pairs of the test scans."""
    from benchmarks.speed import machine
    from deepatlas.compute import half_pays
    from deepatlas.spatial.jacobian import folds_percent

    ids = scan_ids(data)[-5:]
    pairs = Pairs(data, out / "deepatlas", ids)
    trained = [name for name in RUNS if (out / name / "registration.safetensors").is_file()]
    methods: dict[str, Method] = {}
    fast = half_pays(torch.device("cpu"))
    for name in trained:
        methods[name] = pairs.network(out / name)
        if fast and name.startswith(DENSE_RUN):
            methods[f"{name} in bfloat16"] = pairs.dense_in_bfloat16(out / name)
        elif fast:
            methods[f"{name} in float32"] = pairs.network(out / name, half=False)
    if with_ants:
        methods["ANTs SyN"] = pairs.syn
    first = next(permutations(ids, 2))
    for method in methods.values():
        method(*first)
    rows = []
    for moving, fixed in permutations(ids, 2):
        row: dict[str, Any] = {"moving": moving, "fixed": fixed}
        row["before"] = pairs.dice(moving, fixed, None)
        for name, method in methods.items():
            field, row[f"{name} seconds"] = method(moving, fixed)
            row[f"{name} dice"] = pairs.dice(moving, fixed, field)
            row[f"{name} folds %"] = folds_percent(field)
        rows.append(row)
        print(json.dumps(row), flush=True)
    found = {"pairs": rows, "methods": summary(rows, list(methods)), "grid": GRID}
    return {**found, "machine": machine.facts(torch.get_num_threads())}


def summary(rows: list[dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """Means of Dice and folds, median of seconds, and how many times ours is faster."""
    found: dict[str, Any] = {"before": {"dice": statistics.mean(row["before"] for row in rows)}}
    for name in names:
        seconds = statistics.median(row[f"{name} seconds"] for row in rows)
        found[name] = {
            "dice": statistics.mean(row[f"{name} dice"] for row in rows),
            "folds %": statistics.mean(row[f"{name} folds %"] for row in rows),
            "seconds": seconds,
            "times ours": seconds / statistics.median(row["deepatlas seconds"] for row in rows),
        }
    return found


def page(found: Mapping[str, Any]) -> str:
    """The summary as Markdown."""
    from benchmarks.speed import report

    lines = [
        report.machine(found["machine"]),
        "",
        "| who | mean Dice | folds % | seconds | times ours |",
        "| --- " * 5 + "|",
    ]
    for name, entry in found["methods"].items():
        cells = [name, f"{entry['dice']:.4f}"]
        for key, digits in (("folds %", 4), ("seconds", 2), ("times ours", 1)):
            cells.append(f"{entry[key]:.{digits}f}" if key in entry else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, or compare."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("DEEPATLAS_DATA", "../shared/data")) / "brain"
    parser.add_argument("what", choices=["train", "compare"])
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=Path("runs/brain"))
    parser.add_argument("--only", choices=list(RUNS), help="train this one")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, help="in place of minutes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-ants", action="store_true", help="results to build/brain, then")
    parser.add_argument("--results", type=Path, help="a folder, else docs/results")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))  # here and for those who train: the layout of VxmDense
    data, out = args.data.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(args.threads)  # read once, by ANTs
    torch.set_num_threads(args.threads)
    if args.what == "compare":
        found = compare(data, out, not args.no_ants)
        results = args.results or ROOT / ("build/brain" if args.no_ants else "docs/results")
        results.mkdir(parents=True, exist_ok=True)
        (results / "brain.json").write_text(json.dumps(found, indent=1) + "\n")
        (results / "brain.md").write_text(page(found) + "\n")
        print(page(found))
        return
    budget = out / "budget.json"  # of the machine at rest; runs that were begun go on with it
    if not budget.is_file() and args.steps is None:
        budget.write_text(json.dumps(seconds_per_step(data, out, args.threads)))
    for name in [args.only] if args.only else RUNS:
        if (steps := args.steps) is None:
            step = json.loads(budget.read_text())[name.removesuffix("-slow")]
            steps = round(60 * args.minutes / step)
        train(data, out, name, steps, args.threads, args.seed)


if __name__ == "__main__":
    main()
