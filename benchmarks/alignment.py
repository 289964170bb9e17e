"""The alignment table of docs/results/alignment.md: pre-alignment on phantoms, and against ANTs.

    python benchmarks/alignment.py phantom --pairs 200
    python benchmarks/alignment.py brain --data BRAIN --pairs 30

Phantom: the moving scan's header is changed so that the least-squares affine fit to the true map,
over the fixed scan's anatomy (all that is brighter than air), lies a random rotation, shift and
scale away from where the scans start. Half of the starts are as far away as the largest. What
counts is the mean distance of landmarks to their true place, in mm of the moving scan, above that
of the fit.

Brain: ordered pairs as the headers put them; mean Dice of the coarse structures after our affine
and after that of ANTs, the two taken in turns in this process, with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepatlas.classical import Affine, optimise
from deepatlas.data.phantom import Phantom
from deepatlas.io.atomic import write_json, write_text
from deepatlas.io.images import read_image, read_labels
from deepatlas.io.transforms import read_transform
from deepatlas.spatial import transform
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.matrix import to_matrix
from deepatlas.spatial.transform import Transform, resample

SUBJECTS, SEED = 40, 2027  # of subjects and pairs that nothing was chosen on
ANGLE, SHIFT_MM, SCALE = 30.0, 30.0, 0.15
AIR = 0.3  # intensity of the phantom below which there is noise alone
ALLOWED_MM = 0.5
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def affine_fit(points: Tensor, targets: Tensor) -> Tensor:
    """The matrix of the least-squares affine map that takes points (n, d) to targets."""
    ones = torch.cat([points, torch.ones(len(points), 1, dtype=points.dtype)], dim=1)
    matrix = torch.eye(points.shape[1] + 1, dtype=torch.float64)
    matrix[:-1] = torch.linalg.lstsq(ones, targets).solution.T
    return matrix


def draw_start(random: np.random.Generator, centre_mm: Tensor, farthest: bool) -> Tensor:
    """A matrix of a rotation, a shift and a scale within the limits, or at all of them."""
    axis, direction = random.standard_normal((2, 3))
    angle, length = random.uniform(0, 1, 2)
    log = math.log1p(SCALE) * random.uniform(-1, 1)
    if farthest:
        angle, length, log = 1.0, 1.0, random.choice([math.log(1 - SCALE), math.log(1 + SCALE)])
    turn = axis / np.linalg.norm(axis) * angle * math.radians(ANGLE)
    shift = direction / np.linalg.norm(direction) * length * SHIFT_MM
    parameters = torch.tensor([*turn, *shift, log], dtype=torch.float64)
    return to_matrix(parameters, centre_mm, "similarity")


def phantom_pairs(pairs: int) -> list[dict[str, Any]]:
    """One row a pair."""
    phantom = Phantom(seed=SEED)
    subjects = [phantom.subject(k) for k in range(SUBJECTS)]
    random = np.random.default_rng(SEED)
    rows = []
    for number in range(pairs):
        m, f = (int(k) for k in random.choice(SUBJECTS, 2, replace=False))
        moving, fixed = subjects[m].image, subjects[f].image
        truth = phantom.true_map(moving=m, fixed=f)
        anatomy = fixed.geometry.points_mm()[fixed.data > AIR]
        fit = affine_fit(anatomy, truth(anatomy))
        start = draw_start(random, fixed.geometry.centre_mm, farthest=number % 2 == 0)
        change = start @ torch.linalg.inv(fit)
        moved = Volume(
            moving.data, Geometry(moving.geometry.shape, change @ moving.geometry.affine)
        )
        begun = time.perf_counter()
        found = optimise(moving=moved, fixed=fixed, model=Affine())
        seconds = time.perf_counter() - begun
        marks, places = phantom.landmarks_mm(f), phantom.landmarks_mm(m)
        back = transform.Affine(change).inverse()
        rows.append(
            {
                "moving": m,
                "fixed": f,
                "start_mm": _mean_distance(back(marks), places),
                "fit_mm": _mean_distance(transform.Affine(fit)(marks), places),
                "found_mm": _mean_distance(back(found.transform(marks)), places),
                "fault": found.fault,
                "seconds": seconds,
            }
        )
        print(f"{number + 1:3d} {rows[-1]}", flush=True)
    return rows


def brain_pairs(data: Path, pairs: int, skip: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row a pair, with both ways' Dice and seconds."""
    groups = json.loads((data / "label_groups.json").read_text(encoding="utf-8"))["coarse"]
    names = sorted(p.name.removesuffix(".nii.gz") for p in (data / "imagesTr").glob("*.nii.gz"))
    names = [name for name in names if name not in skip]
    ordered = [(a, b) for a in names for b in names if a != b]
    chosen = np.random.default_rng(SEED).choice(len(ordered), pairs, replace=False)
    rows = []
    for number, (moving, fixed) in enumerate(ordered[k] for k in chosen):
        labels = [
            _grouped(data / "labelsTr" / f"{name}.nii.gz", groups) for name in (moving, fixed)
        ]
        paths = [data / "imagesTr" / f"{name}.nii.gz" for name in (moving, fixed)]
        row: dict[str, Any] = {"moving": moving, "fixed": fixed}
        identity = transform.Affine.identity(3)
        row["start_dice"] = _dice(identity, labels[0], labels[1], len(groups))
        ways = {"deepatlas": _ours, "ants": _ants}
        for name in sorted(ways, reverse=bool(number % 2)):
            found, row[f"{name}_seconds"] = ways[name](*paths)
            row[f"{name}_dice"] = _dice(found, labels[0], labels[1], len(groups))
        rows.append(row)
        print(f"{number + 1:3d} {row}", flush=True)
    return rows


def _ours(moving: Path, fixed: Path) -> tuple[Transform, float]:
    images = [read_image(path) for path in (moving, fixed)]
    begun = time.perf_counter()
    found = optimise(moving=images[0], fixed=images[1], model=Affine())
    return found.transform, time.perf_counter() - begun


def _ants(moving: Path, fixed: Path) -> tuple[Transform, float]:
    import ants

    images = [ants.image_read(str(path)) for path in (moving, fixed)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        found = ants.registration(
            moving=images[0], fixed=images[1], type_of_transform="Affine",
            outprefix=str(Path(folder) / "ants"),
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        return read_transform(Path(found["fwdtransforms"][0])), seconds


def _grouped(path: Path, groups: Sequence[dict[str, Any]]) -> Volume:
    volume, _ = read_labels(path)
    table = torch.zeros(int(volume.data.max()) + 1, dtype=torch.int64)
    for number, group in enumerate(groups, 1):
        values = [value for value in group["values"] if value < len(table)]
        table[values] = number
    return Volume(table[volume.data.long()], volume.geometry)


def _dice(found: Transform, moving: Volume, fixed: Volume, groups: int) -> float:
    moved = resample(moving, fixed.geometry, found, labels=True).data
    both = [
        torch.bincount(x.flatten(), minlength=groups + 1)[1:].double()
        for x in (moved[moved == fixed.data], moved, fixed.data)
    ]
    return float((2 * both[0] / (both[1] + both[2]).clamp_min(1)).mean())


def _mean_distance(points: Tensor, targets: Tensor) -> float:
    return float((points - targets).norm(dim=-1).mean())


def summary(phantom: Sequence[dict[str, Any]], brain: Sequence[dict[str, Any]]) -> str:
    """The page."""
    lines = ["# Pre-alignment", "", "Made by `python benchmarks/alignment.py` (see its top).", ""]
    if phantom:
        above = sorted(row["found_mm"] - row["fit_mm"] for row in phantom)
        good = sum(value <= ALLOWED_MM for value in above)
        lines += [
            f"Phantom, {len(phantom)} pairs, starts of up to {ANGLE:g} degrees, {SHIFT_MM:g} mm "
            f"and {100 * SCALE:g} % away from the least-squares affine fit to the true map:",
            "",
            "| | landmark error, mm (median) |",
            "| --- | --- |",
            f"| start | {statistics.median(r['start_mm'] for r in phantom):.2f} |",
            f"| least-squares fit | {statistics.median(r['fit_mm'] for r in phantom):.2f} |",
            f"| found | {statistics.median(r['found_mm'] for r in phantom):.2f} |",
            "",
            f"At most {ALLOWED_MM:g} mm above the fit in {good} of {len(phantom)} pairs "
            f"({100 * good / len(phantom):.1f} %); median {statistics.median(above):.2f} mm above, "
            f"largest {above[-1]:.2f} mm; {sum(bool(r['fault']) for r in phantom)} faults; "
            f"{statistics.median(r['seconds'] for r in phantom):.1f} s a pair.",
            "",
        ]
    if brain:
        lines += [
            f"Brain, {len(brain)} ordered pairs from their headers, coarse structures (medians):",
            "",
            "| | Dice | seconds |",
            "| --- | --- | --- |",
            f"| headers | {statistics.median(r['start_dice'] for r in brain):.3f} | |",
        ]
        for name, said in (
            ("deepatlas", "`classical.optimise`, `Affine()`"),
            ("ants", "ANTs, `Affine`"),
        ):
            dice = statistics.median(r[f"{name}_dice"] for r in brain)
            seconds = statistics.median(r[f"{name}_seconds"] for r in brain)
            lines.append(f"| {said} | {dice:.3f} | {seconds:.1f} |")
        better = sum(r["deepatlas_dice"] >= r["ants_dice"] for r in brain)
        lines += ["", f"Ours is at least as good in {better} of {len(brain)} pairs.", ""]
    lines.append(f"On {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run a part, keep its rows, and write the page of all that has been run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("phantom", "brain"))
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--data", type=Path, help="the folder of brains")
    parser.add_argument("--skip", nargs="*", default=(), help="scans that are left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(given.threads)
    path = given.out / "alignment.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if given.part == "phantom":
        rows["phantom"] = phantom_pairs(given.pairs)
    elif given.data is None:
        parser.error("brain needs --data")
    else:
        rows["brain"] = brain_pairs(given.data, given.pairs, given.skip)
    write_json(path, rows)
    text = summary(rows.get("phantom", ()), rows.get("brain", ()))
    write_text(given.out / "alignment.md", text)
    print(text)


if __name__ == "__main__":
    main()
