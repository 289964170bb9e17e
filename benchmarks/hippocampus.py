"""The hippocampus tables of docs/results.md: every recipe, with 1, 5, 10 and all scans labelled.

Every run is made by the very command that a user would type; a run that is there already is not
repeated, one that was interrupted resumes. Then the tables and the figure are written, from what
is finished (`--report` writes them at once). A block, so many labels and a seed, whose runs are not
in `--out` keeps the rows that it has in `--results`, so that blocks may be made one at a time.

    python benchmarks/hippocampus.py --data HIPPOCAMPUS --out runs/hippocampus

Equal budget: `baseline` gives each network more optimiser steps than `da` spends on it over all its
stages, those of the baseline it started from (`start`) included, so many that its minutes are about
those of `da`, too. `one-shot`, which starts from nothing, and `da-paper` take the steps of `da`,
`voxelmorph` those of `baseline`. The two stages of `baseline` are the recipes `segmentation` and
`weak`. The table says the steps and the minutes of every run.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START = {"segmentation": 500, "registration": 900}
JOINT = {"segmentation": 500, "registration": 1500}
BASELINE = {"segmentation": 1700, "registration": 3400}
STAGES = {  # of the recipes that start from nothing, their steps
    "start": START,
    "baseline": BASELINE,
    "voxelmorph": {"registration": BASELINE["registration"]},
    "one-shot": {"registration": 900, "semi-da": 500, "joint": 2000},
    "da-paper": {"segmentation": 925, "registration": 900, "joint": 1575},
}
FROM_START = ("da", "semi-da-segmentation", "semi-da-registration")
GRID = "data.shape=[40,56,40]"  # the median field of view, rounded up to a multiple of 8
UNLABELLED = "voxelmorph"  # sees no label, whatever there is
LABELLED = ("1", "5", "10", "all")
ORDER = ("baseline", "voxelmorph", "one-shot", "da", *FROM_START[1:], "da-paper", "start")


@dataclass(frozen=True)
class Setting:
    """One block of the table: so many labelled scans, a seed."""

    labelled: str
    seed: int

    def run(self, recipe: str) -> str:
        """Name of the run of a recipe."""
        return f"{recipe}-{self.labelled}-{self.seed}"

    @property
    def first(self) -> str:
        """The recipe that the others of the block are compared with."""
        return "one-shot" if self.labelled == "1" else "da"

    @property
    def recipes(self) -> list[str]:
        """Those that run here, the ones that others start from first."""
        unlabelled = [UNLABELLED] if self.labelled == "5" else []
        joint = [name for name in FROM_START if name != "da" or self.first == "da"]
        shot = ["one-shot"] if self.first == "one-shot" else []
        return ["start", "baseline", *joint, *shot, "da-paper", *unlabelled]


def write_split(data: Path, path: Path) -> None:
    """First 150 scans by number train, the next 10 validate, the last 40 test."""
    ids = sorted(file.name.removesuffix(".nii.gz") for file in (data / "imagesTr").glob("h*.gz"))
    parts = {"train": ids[:150], "validation": ids[150:160], "test": ids[160:]}
    path.write_text(json.dumps(parts, indent=1))


Job = tuple[str, list[str], tuple[str, ...]]  # its name, the command, the names it waits for


def jobs(data: Path, out: Path, block: Setting) -> list[Job]:
    """The commands of a block, the runs first."""

    def train(recipe: str) -> Job:
        start, wait_for = [], ()
        if recipe in FROM_START:
            wait_for = (block.run("start"),)
            start = ["--init", str(out / wait_for[0])]
            total = sum(JOINT.values()) if recipe == "da" else JOINT[recipe.split("-")[-1]]
            settings = [f"training.steps={total}"]
        else:
            steps = STAGES[recipe]
            settings = [f"training.steps={sum(steps.values())}"]
            settings += [f"stages.{name}.share={count}" for name, count in steps.items()]
        command = [
            "train", str(data), "--out", str(out / block.run(recipe)),
            "--recipe", "baseline" if recipe == "start" else recipe,
            "--split", str(out / "split.json"), "--seed", str(block.seed), *start,
            *([] if recipe == UNLABELLED else ["--labelled", block.labelled]),
            "--set", GRID, *settings,
        ]  # fmt: skip
        return block.run(recipe), command, wait_for

    found = [train(recipe) for recipe in block.recipes]
    others = [str(out / block.run(name)) for name in block.recipes if name != block.first]
    evaluate = [
        "evaluate", str(out / block.run(block.first)), str(data), "--n-pairs", "40",
        "--out", str(out / block.run("evaluation")), "--against", *others,
    ]  # fmt: skip
    return [*found, (block.run("evaluation"), evaluate, tuple(name for name, *_ in found))]


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


def call(arguments: list[str], threads: int, log: Path) -> None:
    """Run one command, showing it first."""
    command = [sys.executable, "-m", "deepatlas", *arguments, "--threads", str(threads)]
    print("$ deepatlas", shlex.join(arguments), flush=True)
    with log.open("a") as file:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, stdout=file, stderr=file, env=environment)


def summary_of(out: Path, block: Setting, recipe: str) -> dict[str, Any]:
    """The summary of a run on the test part."""
    folder = out / block.run("evaluation")
    if recipe != block.first:
        folder = folder / "against" / block.run(recipe)
    return json.loads((folder / "summary.json").read_text())


def events_of(out: Path, block: Setting, recipe: str) -> list[dict[str, Any]]:
    """What the log of a run says."""
    return [json.loads(line) for line in (out / block.run(recipe) / "log.jsonl").open()]


def budget(out: Path, block: Setting, recipe: str) -> dict[str, tuple[int, float]]:
    """Steps and minutes by network, over all stages, those of the start included.

    Minutes are, stage by stage, the steps times their mean time in the log, without the slowest
    tenth: what else the machine did meanwhile counts little.
    """
    spent = {"segmentation": (0, 0.0), "registration": (0, 0.0)}
    for run in ["start", recipe] if recipe in FROM_START else [recipe]:
        state = json.loads((out / block.run(run) / "state.json").read_text())
        seconds = seconds_by_network(events_of(out, block, run), state)
        for network, (count, minutes) in spent.items():
            more = state["group_steps"].get(network, 0)
            spent[network] = (count + more, minutes + seconds.get(network, 0.0) / 60)
    return spent


def seconds_by_network(events: list[dict[str, Any]], state: Mapping[str, Any]) -> dict[str, float]:
    """About what a run spent on each network; some of its steps stand in its log.

    What stages of one network leave of a network's steps belongs to the stage that trains both.
    """
    logged = [event for event in events if "step_seconds" in event]
    left = dict(state["group_steps"])
    found: dict[str, float] = defaultdict(float)
    stages = list(dict.fromkeys(event["stage"] for event in logged))
    both = [s for s in stages if len({e["group"] for e in logged if e["stage"] == s}) > 1]
    for stage in sorted(stages, key=both.__contains__):
        for network in {event["group"] for event in logged if event["stage"] == stage}:
            here = [e for e in logged if (e["stage"], e["group"]) == (stage, network)]
            times = sorted(event["step_seconds"] for event in here)
            length = state["lengths"][stages.index(stage)]
            steps = left[network] if stage in both else length
            left[network] -= steps
            found[network] += steps * statistics.mean(times[: max(1, len(times) * 9 // 10)])
    return found


def row(out: Path, block: Setting, recipe: str) -> dict[str, Any]:
    """One line of the table."""
    summary, spent = summary_of(out, block, recipe), budget(out, block, recipe)
    found: dict[str, Any] = {"labelled": block.labelled, "recipe": recipe, "seed": block.seed}
    for part in ("segmentation", "registration"):
        scores = summary.get(part, {}).get("dice")
        found[f"{part}_dice"] = scores and scores["mean"]
        found[f"{part}_interval"] = scores and scores["interval"]
    registration = summary["registration"]
    for key in ("dice_before", "folds_percent", "sdlogj", "hd95_mm"):
        found[key] = registration[key]["mean"]
    found["labels_seen"] = summary["labels_seen"]
    found["steps"] = {network: steps for network, (steps, _) in spent.items()}
    found["minutes"] = {network: round(minutes, 1) for network, (_, minutes) in spent.items()}
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| labelled | recipe | seed | segmentation Dice [95 %] | registration Dice [95 %] "
        "| folds % | SDlogJ | steps seg / reg | minutes seg / reg |",
        "| --- " * 9 + "|",
    ]
    for r in rows:
        named = "baseline that others start from" if r["recipe"] == "start" else f"`{r['recipe']}`"
        cells = [r["labelled"], named, str(r["seed"])]
        for part in ("segmentation", "registration"):
            dice, interval = r[f"{part}_dice"], r[f"{part}_interval"]
            cells.append(f"{dice:.4f} [{interval[0]:.3f}, {interval[1]:.3f}]" if dice else "")
        cells += [f"{r['folds_percent']:.4f}", f"{r['sdlogj']:.3f}"]
        for key in ("steps", "minutes"):
            cells.append(f"{r[key]['segmentation']} / {r[key]['registration']}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each recipe against `baseline`, mean over seeds of Dice and of the gain in points."""
    by = {(r["labelled"], r["recipe"], r["seed"]): r for r in rows}
    found = []
    for labelled, recipe in dict.fromkeys((r["labelled"], r["recipe"]) for r in rows):
        entry: dict[str, Any] = {"labelled": labelled, "recipe": recipe}
        for part in ("segmentation", "registration"):
            key = f"{part}_dice"
            dice = {r["seed"]: r[key] for r in rows
                    if (r["labelled"], r["recipe"]) == (labelled, recipe) and r[key]}  # fmt: skip
            if dice:
                entry[part] = statistics.mean(dice.values())
                entry[f"{part}_gains"] = [
                    100 * (value - by[labelled, "baseline", seed][key])
                    for seed, value in dice.items()
                    if (labelled, "baseline", seed) in by
                ]
        found.append(entry)
    return found


def figure(out: Path, blocks: list[Setting], path: Path) -> None:
    """Validation Dice of both networks against the step of each, five labelled scans."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9, 3.4), layout="constrained")
    axes = fig.subplots(1, 2)
    for recipe, colour in (("baseline", "C0"), ("start", "C7"), ("da", "C3")):
        for block in blocks:
            events = events_of(out, block, recipe)
            for axis, part in zip(axes, ("segmentation", "registration"), strict=True):
                offset = START[part] if recipe == "da" else 0
                points = [
                    (offset + e["group_steps"].get(part, 0), e["scores"][f"{part}.dice"])
                    for e in events
                    if e["event"] == "validation" and f"{part}.dice" in e["scores"]
                ]
                label = recipe if block == blocks[0] else None
                axis.plot(*zip(*points, strict=True), "o-", ms=3, color=colour, label=label)
                axis.set(title=part, xlabel=f"{part} steps", ylabel="validation Dice")
    axes[0].legend()
    fig.savefig(path, dpi=110)


def write_results(out: Path, blocks: list[Setting], results: Path) -> None:
    """The tables and the figure of the blocks that are evaluated, and the rows of all others."""
    done = [b for b in blocks if (out / b.run("evaluation") / "summary.json").is_file()]
    rows = [row(out, block, name) for block in done for name in block.recipes]
    file = results / "hippocampus.json"
    before = json.loads(file.read_text())["rows"] if file.is_file() else []
    made = {(block.labelled, block.seed) for block in done}
    rows += [r for r in before if (r["labelled"], r["seed"]) not in made]
    rows.sort(key=lambda r: (LABELLED.index(r["labelled"]), ORDER.index(r["recipe"]), r["seed"]))
    results.mkdir(parents=True, exist_ok=True)
    content = {"rows": rows, "gains": gains(rows)}
    file.write_text(json.dumps(content, indent=1) + "\n")
    (results / "hippocampus.md").write_text(table(rows) + "\n")
    five = [block for block in done if block.labelled == "5"]
    if five and {b.seed for b in five} >= {r["seed"] for r in rows if r["labelled"] == "5"}:
        figure(out, five, results / "hippocampus.png")
    print(table(rows))
    print(json.dumps(content["gains"], indent=1))


def main() -> None:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(os.environ.get("DEEPATLAS_DATA", "../shared/data")) / "hippocampus"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, default=Path("runs/hippocampus"))
    parser.add_argument("--labelled", nargs="+", default=["5", "1", "10", "all"],
                        choices=LABELLED)  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                        help="of 5 labelled scans; the others take the first")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="commands side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each command")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--report", action="store_true", help="only write the tables")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_split(args.data, args.out / "split.json")
    blocks = [
        Setting(labelled, seed)
        for labelled in args.labelled
        for seed in (args.seeds if labelled == "5" else args.seeds[:1])
    ]
    if not args.report:
        work = [job for block in blocks for job in jobs(args.data, args.out, block)]
        run_all(work, args.jobs, args.threads, args.out / "commands.log")
    write_results(args.out, blocks, args.results)


if __name__ == "__main__":
    main()
