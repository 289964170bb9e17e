"""What is measured and how: candidates taken in turns in one process, medians and their ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Outputs = Sequence[Tensor]  # the first is the value, the others its gradients


@dataclass(frozen=True)
class Candidate:
    """One way to do the work of a row.

    Parameters
    ----------
    name : "deepatlas", or whose it is.
    run : does the work once; what it returns is compared with `exact`.
    how : dtype, memory format, what differs from the others.
    exact : the same formula in float64; None where there is no such thing.
    size : voxels of the work, where candidates differ in it.
    """

    name: str
    run: Callable[[], Outputs]
    how: str = "float32"
    exact: Callable[[], Outputs] | None = None
    size: int | None = None


@dataclass(frozen=True)
class Case:
    """A row set up: its candidates, ours first, and the least that the work takes.

    Parameters
    ----------
    least_bytes : every input read and every output written once, forward and backward.
    comparable : whether all candidates compute the same, so that values can be compared.
    """

    candidates: Sequence[Candidate]
    least_bytes: float | None = None
    comparable: bool = True
    note: str = ""


@dataclass(frozen=True)
class Row:
    """What a row of the table is.

    Parameters
    ----------
    build : called with the parameters; sets everything up, times nothing.
    full, small, tiny : parameters of `make bench`, of `make bench-small`, and of the first call in
        a child that measures memory, which wakes up libraries; `small` None leaves the row out.
    goals : by candidate, how many times faster ours should be.
    seconds : to spend on the row in the full form; a tenth of it in the small form.
    least : rounds at least, whatever they take, in the full form; 3 in the small form.
    needs : names of options without which the row cannot run.
    """

    name: str
    title: str
    build: Callable[..., Case]
    full: Mapping[str, Any]
    small: Mapping[str, Any] | None
    tiny: Mapping[str, Any] = field(default_factory=dict)
    goals: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 40.0
    least: int = 5
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of n values."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more."""
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    )
    return Spread(middle, low, high, len(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """How many times longer theirs takes: the ratio of medians, with the quartiles of the rounds'.

    A round's two values were taken one after the other, so that what slows the machine slows both.
    """
    each = spread([b / a for a, b in zip(ours, theirs, strict=True)])
    return Spread(statistics.median(theirs) / statistics.median(ours), each.low, each.high, each.n)


def take_turns(
    runs: Sequence[Callable[[], Any]], *, least: int, seconds: float, most: int = 200
) -> list[list[float]]:
    """Seconds by the clock, a list per run; A B A B, after one round unseen.

    Another round begins while there are fewer than `least`, or fewer than `most` and time left.
    """
    for run in runs:
        run()
    gc.collect()
    gc.freeze()  # what lives now is not looked through again before every run
    clock: list[list[float]] = [[] for _ in runs]
    begun = time.perf_counter()
    while len(clock[0]) < least or (len(clock[0]) < most and time.perf_counter() - begun < seconds):
        for k, run in enumerate(runs):
            gc.collect()
            started = time.perf_counter()
            kept = run()
            finish()
            clock[k].append(time.perf_counter() - started)
            del kept
    gc.unfreeze()
    return clock


def finish() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Error:
    """Difference to the reference, over value and gradients.

    Attributes
    ----------
    relative : the largest, in its share of the reference's largest value.
    mean : of the value's own absolute differences.
    """

    relative: float
    mean: float


def error(outputs: Outputs, reference: Outputs) -> Error:
    """Of all outputs; both sequences must have the same shapes."""
    relative = 0.0
    for out, exact in zip(outputs, reference, strict=True):
        exact = exact.detach().double().to(out.device)
        apart = float((out.detach().double() - exact).abs().max())
        relative = max(relative, apart / max(float(exact.abs().max()), 1e-300))
    value, exact = (x[0].detach().double().cpu() for x in (outputs, reference))
    mean = float((value - exact).abs().mean())
    return Error(relative, mean)


def with_gradients(
    value: Tensor, inputs: Sequence[Tensor], upstream: Tensor | None = None
) -> Outputs:
    """The value and its gradients by the inputs: forward and backward."""
    gradients = torch.autograd.grad(value, inputs, upstream)
    return (value.detach(), *gradients)
