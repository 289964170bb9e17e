"""Where the time of a training step goes: convolutions, and all the rest by kind of operation.

Steps of our recipe run in a process of their own, set up as `deepatlas train` sets up its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.machine import convolution_flops
from benchmarks.speed.measure import finish
from benchmarks.speed.rows.recipe import stepping as recipe_stepping
from benchmarks.speed.rows.tutorial import Monai, Ours, made_up, stepping
from deepatlas.process import ENVIRONMENT, keep_freed_memory

MARK = "profile:"
Found = tuple[str, dict[str, Any]]
# In this order: the first that occurs in an operation's name says its kind.
KINDS = (
    ("convolution", ("convolution", "conv")),
    ("sampling", ("grid_sampler", "_Sample", "_Integrate", "_Double")),
    ("pooling", ("pool",)),
    ("normalisation", ("norm", "_Norm", "addcmul")),
    ("activation", ("leaky_relu", "prelu", "dropout", "softmax", "native_dropout", "bernoulli")),
    ("losses of ours", ("_WithGradient",)),
    ("copies", ("copy_", "cat", "clone", "stack", "fill_", "zero_", "one_hot", "scatter", "index")),
    ("optimiser", ("_fused_adam", "_foreach", "lerp")),
    ("upsampling", ("upsample", "_AddAtCorners", "bmm")),
    ("reductions", ("_SummedBias", "sum", "mean", "einsum")),
    ("element by element", ("mul", "add", "sub", "div", "sqrt", "abs", "where", "clamp", "pow")),
)


def profiles(size: int, ceiling: float, threads: int, device: str) -> Iterator[Found]:
    """Names and profiles: steps of our recipe, and of the tutorial with our parts and MONAI's."""
    task = [str(size), str(ceiling), str(threads), device]
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.speed.profile", *task],
        env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if child.returncode:
        raise SystemExit(f"the profile of our recipe's steps failed: exit code {child.returncode}")
    for line in child.stdout.splitlines():
        if line.startswith(MARK):
            yield tuple(json.loads(line.removeprefix(MARK)))
    pair = made_up(size)
    steps = {
        "tutorial-registration": stepping(Ours(size), "registration", pair),
        "tutorial-segmentation": stepping(Ours(size), "segmentation", pair),
        "tutorial-registration-monai": stepping(Monai(size), "registration", pair),
    }
    for name, step in steps.items():
        yield name, {"size": size, **profiled(step, ceiling)}


def main() -> None:
    """The child: a line of JSON a step."""
    size, ceiling, threads, device = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if device != "cpu":
        torch.set_default_device(device)
    keep_freed_memory()
    for which in ("registration", "segmentation"):
        found = profiled(recipe_stepping(int(size), which), float(ceiling))
        print(MARK, json.dumps([f"recipe-{which}", {"size": int(size), **found}]), flush=True)


def profiled(step: Callable[[], Any], ceiling: float, *, goes: int = 7) -> dict[str, Any]:
    """The fastest of some steps, the one least disturbed by whatever else the machine does.

    Returns
    -------
    seconds of all operations together, share of each kind of operation, the dearest
    operations, FLOPs of convolutions and the time they would take at the ceiling.
    """
    step()
    flops = convolution_flops(step)
    own = min((_own_times(step) for _ in range(goes)), key=lambda times: sum(times.values()))
    kinds: dict[str, float] = defaultdict(float)
    for name, seconds in own.items():
        kinds[kind_of(name)] += seconds
    total = sum(own.values())
    convolutions = kinds["convolution"]
    return {
        "seconds": total,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "dearest": sorted(own.items(), key=lambda item: -item[1])[:15],
        "convolution_flops": flops,
        "convolutions_at_ceiling": flops / ceiling,
        "convolutions": convolutions,
        "rest": total - convolutions,
    }


def _own_times(step: Callable[[], Any]) -> dict[str, float]:
    """Seconds of each operation by itself, without those it calls."""
    gpu = torch.get_default_device().type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as record:
        step()
        finish()
    own: dict[str, float] = defaultdict(float)
    for event in record.key_averages():
        spent = event.self_device_time_total if gpu else event.self_cpu_time_total
        own[event.key] += spent / 1e6
    return own


def kind_of(operation: str) -> str:
    """The kind of an operation of the profiler, "other" for none of `KINDS`."""
    for kind, words in KINDS:
        if any(word in operation for word in words):
            return kind
    return "other"


if __name__ == "__main__":
    main()
