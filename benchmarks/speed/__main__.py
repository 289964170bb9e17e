"""Speed and memory, ours and peers taken in turns in one run, on this machine.

    python -m benchmarks.speed                      everything: `make bench`
    python -m benchmarks.speed --small              smaller volumes: `make bench-small`
    python -m benchmarks.speed --only lncc9 warp    some rows
    python -m benchmarks.speed --run RUN --moving M --fixed F     also the command, with a run

Writes speed.json, speed.md and speed.png.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
FULL_AGREEMENT, SMALL_AGREEMENT = {"size": 96, "steps": 100}, {"size": 32, "steps": 45}
PARTS = PROFILE, AGREEMENT = ("profile", "agreement")


def main() -> None:
    """Measure and write."""
    given = arguments()
    # Before ITK is loaded, which reads it once.
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(given.threads)
    import torch

    torch.set_num_threads(given.threads)
    if given.child:
        child(json.loads(given.child))
        return
    bench(given)


def arguments() -> argparse.Namespace:
    """The command line's."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="smaller volumes, fewer rounds")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", help="these rows, or profile or agreement"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=1.0, help="factor on the time per row")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--run", help="a trained run, for the row of commands")
    parser.add_argument("--moving", help="a scan, for the same")
    parser.add_argument("--fixed", help="another")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def child(task: Mapping[str, Any]) -> None:
    """Measure the memory of one candidate, in this process alone."""
    import torch

    from benchmarks.speed import memory
    from benchmarks.speed.rows import ROWS

    torch.set_num_threads(task["threads"])
    row = ROWS[task["row"]]
    if row.tiny:
        row.build(**{**task["parameters"], **row.tiny}).candidates[task["candidate"]].run()
    candidate = row.build(**task["parameters"]).candidates[task["candidate"]]
    print(memory.MARK, memory.peak_mib(candidate.run))


def bench(given: argparse.Namespace) -> None:
    """All rows, one after the other, and the report."""
    from benchmarks.speed import agreement, machine, profile, report, results
    from benchmarks.speed.rows import ROWS

    begun = time.monotonic()
    unknown = set(given.only or ()) - {*ROWS, *PARTS}
    if unknown:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}; choose of {', '.join(ROWS)}")
    facts = machine.facts(given.threads)
    print(json.dumps(facts), flush=True)
    ceilings = machine.ceilings(small=given.small)
    print(json.dumps({name: f"{value:.3g}" for name, value in ceilings.items()}), flush=True)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    for row in ROWS.values():
        parameters = _parameters(row, given)
        if parameters is None or (given.only and row.name not in given.only):
            continue
        try:
            found = results.measured(
                row,
                parameters,
                ceilings,
                small=given.small,
                threads=given.threads,
                seconds=given.seconds,
                with_memory=not given.no_memory,
            )
        except (RuntimeError, ImportError) as fault:  # of a peer; the other rows are still worth it
            failed[row.name] = str(fault)
            print(f"{row.name}: failed: {fault}", flush=True)
        else:
            rows.append(found)
            print(report.line(found), flush=True)
    profiles = {}
    if not given.only or PROFILE in given.only:
        ceiling = machine.convolution_ceiling(ceilings)
        size = 48 if given.small else 96
        for name, step in profile.steps(size).items():
            profiles[name] = {"size": size, **profile.profiled(step, ceiling)}
            print(report.profile_line(name, profiles[name]), flush=True)
    agreed = None
    if not given.only or AGREEMENT in given.only:
        agreed = agreement.agreement(**(SMALL_AGREEMENT if given.small else FULL_AGREEMENT))
    facts["minutes"] = round((time.monotonic() - begun) / 60, 1)
    facts["small"] = given.small
    report.write(
        given.out,
        {"machine": facts, "ceilings": ceilings, "rows": rows, "profiles": profiles}
        | {"agreement": agreed, "failed": failed},
    )


def _parameters(row: Any, given: argparse.Namespace) -> dict[str, Any] | None:
    """Those of a row in this run; None where it is left out."""
    chosen = row.small if given.small else row.full
    needed = {name: getattr(given, name) for name in row.needs}
    if chosen is None or not all(needed.values()):
        return None
    return {**chosen, **needed}


if __name__ == "__main__":
    main()
