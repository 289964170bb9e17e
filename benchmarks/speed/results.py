"""A row measured: times, ratios and errors, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.speed.machine import convolution_ceiling, convolution_flops
from benchmarks.speed.measure import Case, Row, error, ratio, spread, take_turns


def measured(
    row: Row,
    parameters: Mapping[str, Any],
    *,
    small: bool,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Everything that the report says about a row.

    Parameters
    ----------
    seconds : factor on the row's own.
    """
    case = row.build(**parameters)
    budget = row.seconds * seconds * (0.1 if small else 1.0)
    runs = [candidate.run for candidate in case.candidates]
    clock = take_turns(runs, least=min(row.least, 3) if small else row.least, seconds=budget)
    found: list[dict[str, Any]] = []
    for k, candidate in enumerate(case.candidates):
        entry: dict[str, Any] = {
            "name": candidate.name,
            "how": candidate.how,
            "seconds": asdict(spread(clock[k])),
            "size": candidate.size,
        }
        if k:
            entry["ratio"] = asdict(ratio(clock[0], clock[k]))
        if candidate.exact is not None:
            entry["error"] = asdict(error(candidate.run(), candidate.exact()))
        found.append(entry)
    if case.comparable:
        _add_differences(case, found)
    return {
        "name": row.name,
        "title": row.title,
        "parameters": dict(parameters),
        "note": case.note,
        "goals": dict(row.goals),
        "candidates": found,
        "least_bytes": case.least_bytes,
        "convolution_flops": convolution_flops(runs[0]),
    }


def _add_differences(case: Case, found: Sequence[dict[str, Any]]) -> None:
    """How far each peer's value is from ours, in its share of the largest of ours."""
    ours = case.candidates[0].run()[:1]
    for candidate, entry in zip(case.candidates[1:], found[1:], strict=True):
        entry["differs"] = error(candidate.run()[:1], ours).relative


def rounds(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A DeepAtlas round from its two steps: 40 of registration, 5 of segmentation."""
    from benchmarks.speed.rows.tutorial import ROUND

    steps = {which: _named(results, f"tutorial-{which}") for which in ROUND}
    if not all(steps.values()):
        return None
    names = [entry["name"] for entry in steps["registration"]["candidates"]]
    found = []
    for k, name in enumerate(names):
        both = {which: step["candidates"][k] for which, step in steps.items()}
        peaks = [entry.get("peak_mib") for entry in both.values()]
        found.append(
            {
                "name": name,
                "seconds": sum(
                    count * both[which]["seconds"]["median"] for which, count in ROUND.items()
                ),
                "peak_mib": max(peaks) if all(peaks) else None,
            }
        )
    return {
        "candidates": found,
        "ratio": found[1]["seconds"] / found[0]["seconds"],
        "counted": {w: step["candidates"][0]["seconds"]["n"] for w, step in steps.items()},
        "parameters": dict(steps["registration"]["parameters"]),
    }


def share(row: Mapping[str, Any], ceilings: Mapping[str, float]) -> tuple[float, str] | None:
    """How near our median comes to what the machine can do, and at what."""
    ours = row["candidates"][0]["seconds"]["median"]
    if row["convolution_flops"]:
        return row["convolution_flops"] / ours / convolution_ceiling(ceilings), "convolutions"
    if row["least_bytes"]:
        return row["least_bytes"] / ours / ceilings["copy_bytes"], "a copy"
    return None


def _named(results: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((row for row in results if row["name"] == name), None)


def per_voxel(row: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Of a row whose candidates differ in size: time and memory per voxel against the first."""
    first = row["candidates"][0]
    found = []
    for entry in row["candidates"]:
        voxels = entry["size"] / first["size"]
        time = entry["seconds"]["median"] / first["seconds"]["median"] / voxels
        peaks = entry.get("peak_mib"), first.get("peak_mib")
        memory_ = peaks[0] / peaks[1] / voxels if all(peaks) else None
        found.append((entry["name"], time, memory_))
    return found
