"""`deepatlas demo`: the commands that a user would run, one after another, on drawn scans.

    start      both networks, each trained alone
    joint      from there, the two teach each other
    baseline   from there, each goes on alone, for as many optimiser steps of each network

All three see the same scans and the same few labels; the comparison is on other scans.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deepatlas.data.phantom_files import RECORD
from deepatlas.errors import BadInput, DeepAtlasError
from deepatlas.run.folder import RunFolder
from deepatlas.training.recipe import load_recipe

SUBJECTS = 32
LABELLED = 3
START_STEPS = {"segmentation": 220, "registration": 100}
JOINT_STEPS = 140
PAIRS = 20
NETWORKS = ("segmentation", "registration")

Line = tuple[str, str, str, str]  # of the table: name, baseline, joint, difference


def demonstrate(
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Draw scans, train jointly and separately at equal budget, say the result as a table.

    Parameters
    ----------
    out : folder for scans, runs and results; what is finished there is not done again.
    seed : of the scans and of training.
    say : gets each command before it runs, and the table; standard output by default.

    Returns
    -------
    The report of the joint run.

    Raises
    ------
    DeepAtlasError : a command failed (it has said why), or `out` holds another demo.
    """
    out, say = Path(out), say or _say
    _check_seed(out, seed)
    compute = ["--device", device] if device != "auto" else []
    compute += ["--threads", str(threads)] if threads is not None else []
    for command in _commands(out, seed, compute):
        say(f"\n$ {shlex.join(['deepatlas', *command])}")
        _run(command)
    say(f"\n{_table(out)}\n")
    return out / "joint" / "report.html"


def _commands(out: Path, seed: int, compute: Sequence[str]) -> list[list[str]]:
    scans, start, joint, baseline, evaluation = (
        str(out / name) for name in ("scans", "start", "joint", "baseline", "evaluation")
    )
    draw = ["phantom", "--out", scans, "--subjects", str(SUBJECTS)]
    draw += ["--labelled", str(LABELLED), "--seed", str(seed)]
    drawn = (out / "scans" / "dataset.json").is_file()
    common = ["--seed", str(seed), "--cache", str(out / "cache"), *compute]
    train = ["train", scans, *common, "--out"]
    joint_steps = ["--set", f"training.steps={JOINT_STEPS}"]
    return [
        *([] if drawn else [draw]),
        [*train, start, "--recipe", "baseline", *_steps(START_STEPS)],
        [*train, joint, "--recipe", "da", "--init", start, *joint_steps],
        [*train, baseline, "--recipe", "baseline", "--init", start, *_steps(_joint_steps())],
        [
            *["evaluate", joint, f"{scans}/test", "--n-pairs", str(PAIRS)],
            *["--against", baseline, "--out", evaluation, *compute],
        ],
        ["report", joint],
    ]


def _steps(steps: Mapping[str, int]) -> list[str]:
    """Settings that give each network of the baseline its steps."""
    shares = [f"stages.{name}.share={count}" for name, count in steps.items()]
    return ["--set", f"training.steps={sum(steps.values())}", *shares]


def _joint_steps() -> dict[str, int]:
    """Optimiser steps of each network in joint training, by its recipe's alternation."""
    (stage,) = (stage for stage in load_recipe("da").stages if not stage.pretraining)
    ratio = {name: getattr(stage.task, f"{name}_steps") for name in NETWORKS}
    rounds, rest = divmod(JOINT_STEPS, sum(ratio.values()))
    if rest:
        raise ValueError(f"{JOINT_STEPS} steps are no whole number of rounds of {ratio}")
    return {name: count * rounds for name, count in ratio.items()}


def _check_seed(out: Path, seed: int) -> None:
    record = out / "scans" / RECORD
    if not record.is_file():
        return
    found = json.loads(record.read_text(encoding="utf-8"))["phantom"]["seed"]
    if found != seed:
        raise BadInput(f"{out}: holds the demo of seed {found}; choose another folder with --out")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()  # before the command's own lines


def _run(arguments: Sequence[str]) -> None:
    """Run a command; it shows its progress, and its results are read from the files it writes."""
    quiet = [] if logging.getLogger("deepatlas").isEnabledFor(logging.INFO) else ["--quiet"]
    command = [sys.executable, "-m", "deepatlas", *arguments, *quiet]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it saves a checkpoint first
            process.wait()
            raise
    if code:
        raise DeepAtlasError(
            f"the demo stopped because `deepatlas {arguments[0]}` failed; its message stands above"
        )


def _table(out: Path) -> str:
    """Both runs beside each other, with intervals, and what it cost."""
    ours = _read(out / "evaluation")
    theirs = _read(out / "evaluation" / "against" / "baseline")
    lines: list[Line] = [("", "baseline", "joint", "difference")]
    for part in NETWORKS:
        lines += _dice(part, theirs, ours)
    folds = [_measure(run["registration"]["folds_percent"]) for run in (theirs, ours)]
    lines += [("folds, % of voxels", folds[0], folds[1], ""), *_budget(out)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    scans, pairs = (ours[part]["dice"]["n"] for part in NETWORKS)
    before = _measure(ours["registration"]["dice_before"])
    notes = [
        f"{LABELLED} of {SUBJECTS} training scans have labels; scored on {scans} other scans and "
        f"{pairs} pairs of them.",
        f"Dice before registration: {before}. In brackets: 95 % bootstrap intervals over subjects.",
    ]
    return "\n".join([*rows, "", *notes])


def _dice(part: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Line]:
    """Mean Dice of both runs, and that of each group of structures."""
    found = {record["measure"]: record for record in ours["comparisons"]}
    record = found[f"{part}.dice"]
    difference = f"{record['difference']:+.3f} {_bounds(record['interval'], '+')}"
    means = [_measure(run[part]["dice"]) for run in (theirs, ours)]
    lines: list[Line] = [(f"{part} Dice", means[0], means[1], difference)]
    for group in ours["groups"][part]:
        means = [_measure(run["groups"][part][group]["dice"]) for run in (theirs, ours)]
        lines.append((f"  {group} structures", means[0], means[1], ""))
    return lines


def _budget(out: Path) -> list[Line]:
    """Optimiser steps and minutes of both runs, those of their common start included."""
    start, joint, baseline = (
        RunFolder(out / name).state for name in ("start", "joint", "baseline")
    )
    lines: list[Line] = []
    for name in NETWORKS:
        first = start["group_steps"][name]
        steps = [str(first + run["group_steps"][name]) for run in (baseline, joint)]
        lines.append((f"{name} steps", steps[0], steps[1], ""))
    minutes = [f"{(start['seconds'] + run['seconds']) / 60:.1f}" for run in (baseline, joint)]
    return [*lines, ("minutes of training", minutes[0], minutes[1], "")]


def _measure(values: Mapping[str, Any]) -> str:
    if values["mean"] is None:
        return "none"
    text = f"{values['mean']:.3f}"
    return text if values["interval"] is None else f"{text} {_bounds(values['interval'])}"


def _bounds(bounds: Sequence[float], sign: str = "") -> str:
    return "[" + ", ".join(f"{bound:{sign}.3f}" for bound in bounds) + "]"


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))
