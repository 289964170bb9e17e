"""A run folder with an evaluation, and example images drawn from formulas."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy.ndimage import gaussian_filter, map_coordinates

from deepatlas.data.plan import Plan
from deepatlas.report.examples import PairExample, ScanExample
from deepatlas.report.results import Evaluation
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.jacobian import jacobian_determinant

SHAPE, SPACING = (34, 44, 16), (1.0, 1.0, 2.5)
NAMES = {3: "shell <outer>", 5: "left nucleus", 9: "right nucleus", 17: "ventricle"}
BLOBS = {
    3: ((0, 0, 0), (14, 18, 16)),
    5: ((-5, 2, 0), (4, 6, 6)),
    9: ((5, 2, 0), (4, 6, 6)),
    17: ((0, -9, 2), (6, 3, 5)),
}


def anatomy(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Label values of nested ellipsoids around the middle of the grid."""
    sides = [np.arange(n) * s - (n - 1) * s / 2 for n, s in zip(shape, spacing, strict=True)]
    points = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
    labels = np.zeros(shape, dtype=np.int64)
    for value, (centre, radii) in BLOBS.items():
        d = len(shape)
        labels[(((points - np.array(centre[:d])) / np.array(radii[:d])) ** 2).sum(-1) < 1] = value
    return labels


def smooth_field(shape: tuple[int, ...], most: float, seed: int) -> np.ndarray:
    """A smooth displacement (d, *shape) whose largest component is `most` voxels."""
    rng = np.random.default_rng(seed)
    rough = [gaussian_filter(rng.normal(size=shape), [n / 10 for n in shape]) for _ in shape]
    field_ = np.stack(rough)
    return field_ / np.abs(field_).max() * most


def pulled(volume: np.ndarray, displacement: np.ndarray, order: int) -> np.ndarray:
    """`volume` through a displacement."""
    where = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij")) + displacement
    return map_coordinates(volume, where, order=order)


def scanned(labels: np.ndarray, seed: int) -> np.ndarray:
    """Noisy intensities of a label map."""
    greys = np.select([labels == v for v in (3, 5, 9, 17)], [0.5, 0.8, 0.75, 0.2])
    noise = np.random.default_rng(seed).normal(size=labels.shape) * 0.03
    return (900 * (gaussian_filter(greys, 0.6) + noise)).astype(np.float32)


class Drawn:
    """Examples drawn instead of recomputed."""

    def __init__(
        self,
        shape: tuple[int, ...] = SHAPE,
        spacing: tuple[float, ...] = SPACING,
        ranks: Sequence[str] = ("worst", "median", "best"),
    ):
        self.shape, self.spacing, self.ranks = shape, spacing, ranks

    def scans(self, run: Any, evaluation: Evaluation) -> list[ScanExample]:
        manual = anatomy(self.shape, self.spacing)
        image = scanned(manual, 1)
        return [
            ScanExample(
                rank, f"case_{n}", 0.9 - 0.05 * n, self.spacing, image, manual,
                pulled(manual, smooth_field(self.shape, 1.5 + n, n), 0),
            )
            for n, rank in enumerate(self.ranks)
        ]  # fmt: skip

    def pairs(self, run: Any, evaluation: Evaluation) -> list[PairExample]:
        return [self._pair(rank, n) for n, rank in enumerate(self.ranks)]

    def _pair(self, rank: str, n: int) -> PairExample:
        fixed = anatomy(self.shape, self.spacing)
        moving = pulled(fixed, smooth_field(self.shape, 4.0, 10 + n), 0)
        moved = pulled(fixed, smooth_field(self.shape, 1.0, 20 + n), 0)
        displacement = smooth_field(self.shape, (9.0, 4.0, 2.0)[n], 30 + n)
        return PairExample(
            rank=rank, moving_scan=f"case_{n}", fixed_scan=f"case_{n + 5}", dice_before=0.55,
            dice=0.7 + 0.05 * n, spacing_mm=self.spacing, moving=scanned(moving, 2),
            fixed=scanned(fixed, 3), moved=scanned(moved, 2), moving_labels=moving,
            fixed_labels=fixed, moved_labels=moved, displacement=displacement,
            determinant=jacobian_determinant(torch.from_numpy(displacement)[None])[0].numpy(),
        )  # fmt: skip


def measure(mean: float, n: int = 20, misses: int = 0) -> dict[str, Any]:
    """A mean as a summary gives it."""
    bounds = [mean - 0.02, mean + 0.02]
    return {"mean": mean, "std": 0.05, "interval": bounds, "n": n, "misses": misses}


def some_summary() -> dict[str, Any]:
    """A summary.json with all its parts."""
    structures = {
        str(v): {"name": name, "dice": measure(0.8), "hd95_mm": measure(1.9)}
        for v, name in NAMES.items()
    }
    record = {
        "against": "baseline", "measure": "segmentation.dice", "n": 20, "mean": 0.853,
        "mean_against": 0.841, "difference": 0.012, "interval": [0.004, 0.021],
        "mann_whitney_p": 0.21, "mann_whitney_p_adjusted": 0.25, "wilcoxon_p": 0.00001,
        "wilcoxon_p_adjusted": 0.00002,
    }  # fmt: skip
    return {
        "labels_seen": "5 + 10",
        "align": "centre",
        "segmentation": {"dice": measure(0.853, misses=1), "hd95_mm": measure(1.6)},
        "registration": {
            "dice_before": measure(0.561),
            "dice": measure(0.782),
            "folds_percent": measure(0.0),
            "sdlogj": measure(0.11),
        },
        "per_structure": {"segmentation": structures, "registration": structures},
        "groups": {"segmentation": {"nuclei": {"dice": measure(0.79)}}},
        "notes": ["the run's training is not finished"],
        "seen": {"segmentation": 1, "registration": 0},
        "comparisons": [record, {**record, "measure": "registration.dice", "difference": -0.01}],
    }


def some_log() -> list[dict[str, Any]]:
    """Three stages of losses and validation scores."""
    rng = np.random.default_rng(0)
    log: list[dict[str, Any]] = []
    step = 0
    for stage, n in (("segmentation", 60), ("registration", 90), ("joint", 150)):
        log.append({"event": "stage", "stage": stage, "step": step})
        for i in range(n):
            step += 1
            is_seg = stage == "segmentation" or (stage == "joint" and i % 2 == 0)
            fall = float(np.exp(-step / 80))
            terms = {"supervised": fall} if is_seg else {"similarity": fall - 1, "regularity": 0.1}
            if stage == "joint":
                terms["anatomy"] = 0.3 + fall
            terms = {name: v + float(rng.normal()) * 0.02 for name, v in terms.items()}
            log.append(
                {"event": "train", "stage": stage, "step": step, "terms": terms, "rate": 1e-3,
                 "group": "segmentation" if is_seg else "registration",
                 "total": sum(terms.values()), "seconds": step * 1.5}
            )  # fmt: skip
            if step % 30 == 0:
                scores = {"segmentation.dice": 0.85 - 0.3 * fall, "registration.dice": 0.7}
                scores["registration.folds_percent"] = 0.0
                log.append({"event": "validation", "stage": stage, "step": step, "scores": scores})
    log.append({"event": "note", "step": 120, "text": "resumed at step 120"})
    return log


def some_plan(ndim: int = 3) -> Plan:
    """A plan of the structures of `anatomy`."""
    return Plan(
        shape=(40, 48, 40)[:ndim], spacing_mm=(1.0, 1.0, 1.0)[:ndim], centre_mm=(0.0,) * ndim,
        label_values=tuple(NAMES), label_names=NAMES, notes=("scans are cropped",),
    )  # fmt: skip


SHORT_LOG = [
    {"event": "stage", "stage": "joint", "step": 0},
    {"event": "train", "stage": "joint", "step": 10, "group": "segmentation",
     "terms": {"supervised": 0.5}, "total": 1.5, "seconds": 30.0},
    {"event": "note", "step": 120, "text": "resumed at step 120"},
]  # fmt: skip


def write_run(
    folder: Path, ndim: int = 3, log: Sequence[Mapping[str, Any]] = SHORT_LOG
) -> RunFolder:
    """A finished run on disk, without networks and without evaluation."""
    run = RunFolder(folder)
    config = {"name": "da", "init": "/somewhere/baseline", "training": {"steps": 300}}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    split = {
        "train": [f"case_{n}" for n in range(30)], "test": [],
        "labelled": [f"case_{n}" for n in range(5)],
        "validation": [f"case_{n}" for n in range(40, 50)],
        "cohort": str(folder.parent / "cohort <1>"),
    }  # fmt: skip
    state = {
        "stage": 3, "step": 300, "finished": True, "seconds": 1500.0,
        "group_steps": {"segmentation": 135, "registration": 165},
        "group_seconds": {"segmentation": 500.0, "registration": 1000.0},
    }  # fmt: skip
    environment = {"device": "cpu", "packages": {"torch": "2.9"}, "threads": 2}
    facts = {"plan": some_plan(ndim).to_json(), "split": split, "state": state}
    for name, value in {**facts, "environment": environment}.items():
        (folder / f"{name}.json").write_text(json.dumps(value))  # not flushed: tests write many
    for line in log:
        run.training_log().write(**line)
    return run


def write_tables(folder: Path) -> None:
    """scans.csv, pairs.csv and summary.json of an evaluation."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(some_summary()))
    scans = [
        {"scan": f"case_{n}", "seen": "train" if n == 7 else "", "dice": f"{0.7 + 0.01 * n}"}
        for n in range(20)
    ]
    pairs = [
        {"moving": f"case_{n}", "fixed": f"case_{n + 5}", "seen": "", "dice_before": "0.5",
         "dice": f"{0.6 + 0.01 * n}", "left_out": str((0, 0, 0, 3, 40)[n % 5])}
        for n in range(20)
    ]  # fmt: skip
    for name, rows in (("scans.csv", scans), ("pairs.csv", pairs)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def link_evaluation(run: RunFolder) -> Path:
    """An evaluation beside the run, on a cohort that is not there; its folder."""
    out = run.path.parent / "evaluation 1"
    write_tables(out)
    cohort = run.split["cohort"]
    entry = {"out": str(out), "cohort": cohort, "summary": some_summary()}
    (run.path / "evaluations.json").write_text(json.dumps([entry]))
    return out
