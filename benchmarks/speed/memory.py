"""Peak memory of one call, measured in a process that does nothing else.

The figure is the largest resident memory while the call ran, less what was resident when it began:
libraries are loaded, inputs and weights are there, and a tiny call has woken everything up. It
counts every page that was touched, whoever allocated it (PyTorch, oneDNN, ITK), and no page that
was only reserved. Of a command (`call`) it is the largest resident memory of its process, libraries
too. On a GPU it is what PyTorch's allocator held at most beyond what it began with.
"""

from __future__ import annotations

import gc
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

MARK = "peak-mib:"
# For glibc: what is freed goes back at once, so that blocks kept from before do not hide new ones.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# With the last Python would compile sources that are not installed anew in every process.
NOT_FOR_COMMANDS = {*GIVE_BACK, "PYTHONDONTWRITEBYTECODE"}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Runs a script or, with -m, a module, and writes its peak to a file. On Linux by its own mark:
# ru_maxrss begins with what the process that started it held.
WATCHING = """
import atexit, pathlib, resource, runpy, sys
def peak():
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return int(next(x for x in lines if x.startswith("VmHWM")).split()[1]) / 2**10
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
into = sys.argv[1]
atexit.register(lambda: pathlib.Path(into).write_text(str(peak())))
if sys.argv[2] == "-m":
    sys.argv = sys.argv[3:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
_called: list[float] = []  # peaks of commands


def peak_mib(run: Callable[[], Any]) -> float:
    """Of one call in this process; of a command that it runs, that of its process as a whole."""
    gc.collect()
    if torch.get_default_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    _called.clear()
    before = _start()
    kept = run()
    peak = _highest() - before
    del kept
    return max(_called, default=peak)


def call(arguments: Sequence[str]) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run Python with a script, or -m and a module; what it said, and its peak in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "peak"
        command = [sys.executable, "-c", WATCHING, str(into), *arguments]
        environment = {k: v for k, v in os.environ.items() if k not in NOT_FOR_COMMANDS}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        peak = float(into.read_text()) if into.is_file() else math.nan
    _called.append(peak)
    return done, peak


def _start() -> float:
    """Forget the highest mark so far; what is resident now, in MiB."""
    try:
        CLEAR.write_text("5", encoding="ascii")
        return _status("VmRSS")
    except OSError:  # not Linux: the mark so far is above what is resident, so this says too little
        return _highest()


def _highest() -> float:
    try:
        return _status("VmHWM")
    except OSError:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _status(name: str) -> float:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 2**10
    raise OSError(f"{STATUS} has no {name}")


def in_child(
    rows: Mapping[str, Mapping[str, Any]], threads: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Peaks in MiB of all candidates of some rows, given with their parameters, by row.

    A row that fails, and those after one that ends the process, are left out, with a sentence.
    """
    task = [str(threads), device, json.dumps(rows)]
    # Not -m, which would make this module twice there: as the script, and as rows import it.
    command = [sys.executable, "-c", "from benchmarks.speed import memory; memory.main()", *task]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **GIVE_BACK}
    )
    found: dict[str, list[float]] = {}
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            found |= json.loads(line.removeprefix(MARK))
    if missing := [name for name in rows if name not in found]:
        said = done.stderr.strip().splitlines()[-1:]
        print(f"memory of {', '.join(missing)}: failed {said}", flush=True)
    return found


def main() -> None:
    """The child: one line of JSON a row."""
    threads, device, rows = sys.argv[1:]
    torch.set_num_threads(int(threads))
    if device != "cpu":
        torch.set_default_device(device)
    from benchmarks.speed.rows import ROWS

    for name, parameters in json.loads(rows).items():
        row = ROWS[name]
        try:
            if row.tiny:
                for candidate in row.build(**{**parameters, **row.tiny}).candidates:
                    candidate.run()
            case = row.build(**parameters)
            peaks = [peak_mib(candidate.run) for candidate in case.candidates]
        except (RuntimeError, ImportError, MemoryError) as fault:
            print(f"{name}: {fault}", file=sys.stderr)
            continue
        print(MARK, json.dumps({name: peaks}), flush=True)
