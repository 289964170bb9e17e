"""Speed and memory, ours and peers taken in turns in one run, on this machine.

    python -m benchmarks.speed                      everything: `make bench`
    python -m benchmarks.speed --small              smaller volumes: `make bench-small`
    python -m benchmarks.speed --only lncc9 warp    some rows
    python -m benchmarks.speed --run RUN --moving M --fixed F     also the command, with a run

    python -m benchmarks.speed --as-command         in a process as our commands set theirs up

Writes speed.json, speed.md and speed.png: to docs/results, with --small, --only or --as-command to
build/speed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from deepatlas.process import keep_freed_memory, prepare_environment

ROOT = Path(__file__).resolve().parents[2]
FULL_AGREEMENT, SMALL_AGREEMENT = {"size": 96, "steps": 100}, {"size": 32, "steps": 45}
PARTS = PROFILE, AGREEMENT = ("profile", "agreement")


def main() -> None:
    """Measure and write."""
    given = arguments()
    warnings.filterwarnings("ignore", module="monai")  # on how it indexes, at every call site
    # Before ITK is loaded, which reads it once.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(given.threads)
    if given.as_command:
        prepare_environment()
        keep_freed_memory()
    import torch

    torch.set_num_threads(given.threads)
    if given.device != "cpu":  # for a default device every call of torch goes through Python
        torch.set_default_device(given.device)
    bench(given)


def arguments() -> argparse.Namespace:
    """The command line's."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="smaller volumes, fewer rounds")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", help="these rows; profile and agreement are two"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", help="of all but ANTs and SimpleITK, as cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="factor on the time per row")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument(
        "--as-command", action="store_true",
        help="threads that wait sleep, tensors on large pages, freed memory is kept, for all sides",
    )  # fmt: skip
    parser.add_argument("--run", help="a trained run, for the row of commands")
    parser.add_argument("--moving", help="a scan, for the same")
    parser.add_argument("--fixed", help="another")
    parser.add_argument("--out", type=Path, help="a folder")
    given = parser.parse_args()
    if given.out is None:
        part = given.small or given.only or given.as_command
        given.out = ROOT / ("build/speed" if part else "docs/results")
    return given


def bench(given: argparse.Namespace) -> None:
    """All rows, one after the other, and the report."""
    from benchmarks.speed import agreement, machine, memory, profile, report
    from benchmarks.speed.rows import ROWS

    begun = time.monotonic()
    unknown = set(given.only or ()) - {*ROWS, *PARTS}
    if unknown:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}; choose of {', '.join(ROWS)}")
    found: dict[str, Any] = {
        "machine": machine.facts(given.threads) | {"as_command": given.as_command},
        "profiles": {},
    }
    found["ceilings"] = ceilings = machine.ceilings(small=given.small)
    print(*(report.machine(found["machine"]), report.ceilings(ceilings)), sep="\n\n", flush=True)
    found["rows"], found["failed"] = _rows(given)
    for name, value in machine.ceilings(small=given.small).items():
        ceilings[name] = max(ceilings[name], value)
    if not given.no_memory:
        rows = {row["name"]: row["parameters"] for row in found["rows"]}
        peaks = memory.in_child(rows, given.threads, given.device)
        for row in found["rows"]:
            for entry, peak in zip(row["candidates"], peaks.get(row["name"], ()), strict=False):
                entry["peak_mib"] = peak
    if _wanted(PROFILE, given):
        ceiling, size = machine.convolution_ceiling(ceilings), 48 if given.small else 96
        for name, one in profile.profiles(size, ceiling, given.threads, given.device):
            found["profiles"][name] = one
            print(report.profile_line(name, one), flush=True)
    if _wanted(AGREEMENT, given):
        sizes = SMALL_AGREEMENT if given.small else FULL_AGREEMENT
        found["agreement"] = agreement.agreement(**sizes)
    minutes = round((time.monotonic() - begun) / 60, 1)
    found["machine"] |= {"minutes": minutes, "command": command()}
    report.write(given.out, found)


def command() -> str:
    """What was typed."""
    return shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])


def _rows(given: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What was measured, and by name what failed."""
    from benchmarks.speed import report, results
    from benchmarks.speed.rows import ROWS

    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for row in ROWS.values():
        parameters = _parameters(row, given)
        if parameters is None or not _wanted(row.name, given):
            continue
        try:
            found = results.measured(row, parameters, small=given.small, seconds=given.seconds)
        except (RuntimeError, ImportError) as fault:  # of a peer; the other rows are still worth it
            failed[row.name] = str(fault)
            print(f"{row.name}: failed: {fault}", flush=True)
        else:
            rows.append(found)
            print(report.line(found), flush=True)
    return rows, failed


def _wanted(name: str, given: argparse.Namespace) -> bool:
    return not given.only or name in given.only


def _parameters(row: Any, given: argparse.Namespace) -> dict[str, Any] | None:
    """Those of a row in this run; None where it is left out."""
    chosen = row.small if given.small else row.full
    needed = {name: getattr(given, name) for name in row.needs}
    if chosen is None or not all(needed.values()):
        return None
    return {**chosen, **needed}


if __name__ == "__main__":
    main()
