"""The hippocampus table of docs/results.md: joint training against its baselines.

Every run is made by the very command that a user would type; a run that is there already is not
repeated, one that was interrupted resumes. Then the tables and the figure are written.

    python benchmarks/hippocampus.py --data HIPPOCAMPUS --out runs/hippocampus

Equal budget: `baseline` gives each network at least the optimiser steps and the minutes that `da`
spends on it over all its stages, those of the baseline it started from (`start`) included.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

START = {"segmentation": 500, "registration": 900}
JOINT = {"segmentation": 500, "registration": 1500}
BASELINE = {"segmentation": 1700, "registration": 3400}
GRID = "data.shape=[40,56,40]"  # the median field of view, rounded up to a multiple of 8
NAMES = {
    "baseline": "baseline",
    "da": "`da`",
    "semi-da-segmentation": "`semi-da-segmentation`",
    "semi-da-registration": "`semi-da-registration`",
    "start": "baseline that `da` starts from",
}


def write_split(data: Path, path: Path) -> None:
    """First 150 scans by number train, the next 10 validate, the last 40 test."""
    ids = sorted(file.name.removesuffix(".nii.gz") for file in (data / "imagesTr").glob("h*.gz"))
    parts = {"train": ids[:150], "validation": ids[150:160], "test": ids[160:]}
    path.write_text(json.dumps(parts, indent=1))


def shares(steps: dict[str, int]) -> list[str]:
    """Settings that give the two stages of the baseline these steps."""
    return [
        f"training.steps={sum(steps.values())}",
        *[f"stages.{name}.share={count}" for name, count in steps.items()],
    ]


Job = tuple[str, list[str], tuple[str, ...]]  # its name, the command, the names it waits for


def jobs(data: Path, out: Path, seed: int, labelled: str) -> list[Job]:
    """The commands of a seed, the runs first."""

    def train(name: str, recipe: str, settings: list[str], init: str | None = None) -> Job:
        start = ["--init", str(out / f"{init}-{seed}")] if init else []
        command = [
            "train", str(data), "--out", str(out / f"{name}-{seed}"), "--recipe", recipe,
            "--labelled", labelled, "--split", str(out / "split.json"), "--seed", str(seed),
            *start, "--set", GRID, *settings,
        ]  # fmt: skip
        return f"{name}-{seed}", command, (f"{init}-{seed}",) if init else ()

    joint = [f"training.steps={sum(JOINT.values())}"]
    found = [
        train("start", "baseline", shares(START)),
        train("da", "da", joint, "start"),
        train("baseline", "baseline", shares(BASELINE)),
    ]
    for name in runs_of(seed)[3:]:
        steps = JOINT[name.removeprefix("semi-da-")]
        found.append(train(name, name, [f"training.steps={steps}"], "start"))
    others = [str(out / f"{name}-{seed}") for name in runs_of(seed) if name != "da"]
    evaluate = [
        "evaluate", str(out / f"da-{seed}"), str(data), "--n-pairs", "40",
        "--out", str(out / f"evaluation-{seed}"), "--against", *others,
    ]  # fmt: skip
    return [*found, (f"evaluate-{seed}", evaluate, tuple(name for name, *_ in found))]


def run_all(work: list[Job], at_once: int, threads: int, log: Path) -> None:
    """Run the jobs, `at_once` side by side, each after those it waits for."""
    waiting, running, done = list(work), {}, set()
    with ThreadPoolExecutor(at_once) as pool:
        while waiting or running:
            ready = [job for job in waiting if set(job[2]) <= done]
            for job in ready[: at_once - len(running)]:
                waiting.remove(job)
                running[pool.submit(call, job[1], threads, log)] = job[0]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                done.add(running.pop(future))


def runs_of(seed: int) -> list[str]:
    """Names of the runs of a seed."""
    semi = ["semi-da-segmentation", "semi-da-registration"] if seed == 0 else []
    return ["start", "baseline", "da", *semi]


def call(arguments: list[str], threads: int, log: Path) -> None:
    """Run one command, showing it first."""
    command = [sys.executable, "-m", "deepatlas", *arguments, "--threads", str(threads)]
    print("$ deepatlas", shlex.join(arguments), flush=True)
    with log.open("a") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, stdout=file, stderr=file, env=environment)


def summary_of(out: Path, name: str, seed: int) -> dict[str, Any]:
    """The summary of a run on the test part."""
    folder = out / f"evaluation-{seed}"
    if name != "da":
        folder = folder / "against" / f"{name}-{seed}"
    return json.loads((folder / "summary.json").read_text())


def budget(out: Path, name: str, seed: int) -> dict[str, tuple[int, float]]:
    """Steps and minutes by network, over all stages, those of the start included.

    Minutes are the steps times the median step: other work on the machine does not count.
    """
    lineage = [name] if name in ("start", "baseline") else ["start", name]
    spent = {"segmentation": (0, 0.0), "registration": (0, 0.0)}
    for run in lineage:
        folder = out / f"{run}-{seed}"
        steps = json.loads((folder / "state.json").read_text())["group_steps"]
        events = [json.loads(line) for line in (folder / "log.jsonl").open()]
        for network, (count, minutes) in spent.items():
            times = [e["step_seconds"] for e in events if e.get("group") == network]
            if times:
                more = steps[network] * statistics.median(times) / 60
                spent[network] = (count + steps[network], minutes + more)
    return spent


def row(out: Path, name: str, seed: int) -> dict[str, Any]:
    """One line of the table."""
    summary, spent = summary_of(out, name, seed), budget(out, name, seed)
    registration = summary["registration"]
    return {
        "recipe": name,
        "seed": seed,
        "segmentation_dice": summary["segmentation"]["dice"]["mean"],
        "segmentation_interval": summary["segmentation"]["dice"]["interval"],
        "registration_dice": registration["dice"]["mean"],
        "registration_interval": registration["dice"]["interval"],
        "dice_before": registration["dice_before"]["mean"],
        "folds_percent": registration["folds_percent"]["mean"],
        "sdlogj": registration["sdlogj"]["mean"],
        "hd95_mm": registration["hd95_mm"]["mean"],
        "labels_seen": summary["labels_seen"],
        "steps": {network: steps for network, (steps, _) in spent.items()},
        "minutes": {network: round(minutes, 1) for network, (_, minutes) in spent.items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| recipe | seed | segmentation Dice [95 %] | registration Dice [95 %] | folds % "
        "| SDlogJ | steps seg / reg | minutes seg / reg |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        cells = [
            NAMES[r["recipe"]],
            str(r["seed"]),
            *[
                f"{r[f'{part}_dice']:.4f} [{r[f'{part}_interval'][0]:.3f}, "
                f"{r[f'{part}_interval'][1]:.3f}]"
                for part in ("segmentation", "registration")
            ],
            f"{r['folds_percent']:.4f}",
            f"{r['sdlogj']:.3f}",
            f"{r['steps']['segmentation']} / {r['steps']['registration']}",
            f"{r['minutes']['segmentation']} / {r['minutes']['registration']}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds of `da` and `baseline`, and of their difference, in Dice points."""
    result: dict[str, Any] = {}
    for part in ("segmentation", "registration"):
        by = {(r["recipe"], r["seed"]): r[f"{part}_dice"] for r in rows}
        seeds = sorted({seed for name, seed in by if name == "da"})
        differences = [100 * (by["da", s] - by["baseline", s]) for s in seeds]
        result[part] = {
            "da": sum(by["da", s] for s in seeds) / len(seeds),
            "baseline": sum(by["baseline", s] for s in seeds) / len(seeds),
            "gain_points": sum(differences) / len(seeds),
            "gain_by_seed": differences,
        }
    return result


def figure(out: Path, seeds: list[int], path: Path) -> None:
    """Validation Dice of both networks against the step of each."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 3.4), layout="constrained")
    axes = fig.subplots(1, 2)
    for name, colour in (("baseline", "C0"), ("start", "C7"), ("da", "C3")):
        for seed in seeds:
            events = [json.loads(line) for line in (out / f"{name}-{seed}" / "log.jsonl").open()]
            for axis, part in zip(axes, ("segmentation", "registration"), strict=True):
                offset = START[part] if name == "da" else 0
                points = [
                    (offset + e["group_steps"][part], e["scores"][f"{part}.dice"])
                    for e in events
                    if e["event"] == "validation" and f"{part}.dice" in e["scores"]
                ]
                label = NAMES[name].strip("`") if seed == seeds[0] else None
                axis.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=label)
                axis.set(title=part, xlabel=f"{part} steps", ylabel="validation Dice")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


def main() -> None:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DEEPATLAS_DATA", "../shared/data")) / "hippocampus"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=Path("runs/hippocampus"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--labelled", default="5")
    parser.add_argument("--jobs", type=int, default=2, help="commands side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each command")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_split(args.data, args.out / "split.json")
    work = [job for s in args.seeds for job in jobs(args.data, args.out, s, args.labelled)]
    work.sort(key=lambda job: job[0].startswith("semi"))  # what matters most comes first
    run_all(work, args.jobs, args.threads, args.out / "commands.log")
    rows = [row(args.out, name, seed) for name in NAMES for seed in args.seeds
            if name in runs_of(seed)]  # fmt: skip
    args.results.mkdir(parents=True, exist_ok=True)
    content = {"rows": rows, "gains": gains(rows)}
    (args.results / "hippocampus.json").write_text(json.dumps(content, indent=1) + "\n")
    (args.results / "hippocampus.md").write_text(table(rows) + "\n")
    figure(args.out, args.seeds, args.results / "hippocampus.png")
    print(table(rows))
    print(json.dumps(content["gains"], indent=1))


if __name__ == "__main__":
    main()
