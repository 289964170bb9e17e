"""The runs that a run started from, as it recorded them: they may be moved or removed since."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepatlas.run.folder import RunFolder


@dataclass(frozen=True)
class Ancestor:
    """A run that another one started from, at once or through others.

    Parameters
    ----------
    path : where it lay.
    split : its split.json; None where it is gone, and no run recorded what it had seen.
    """

    path: Path
    split: Mapping[str, Any] | None


def ancestors(run: RunFolder) -> list[Ancestor]:
    """The runs that a run started from, the nearest first; empty without --init."""
    found: list[Ancestor] = []
    at = run
    while start := at.config.get("init"):
        if recorded := at.started_from:
            return [*found, *(Ancestor(Path(one["path"]), one["split"]) for one in recorded)]
        at = RunFolder(start)  # `at` is of an earlier version, which recorded nothing
        if at.path in [run.path.resolve(), *(one.path for one in found)]:
            break
        found.append(Ancestor(at.path, at.split if at.exists() else None))
        if not at.exists():
            break
    return found


def splits(run: RunFolder) -> list[Mapping[str, Any]]:
    """split.json of the run and of those it started from, as far as they are known."""
    return [run.split, *(one.split for one in ancestors(run) if one.split is not None)]


def labels_seen(known: Iterable[Mapping[str, Any]]) -> str:
    """ "N + V": labels that trained networks, and others that chose them, by these splits.

    A label file counts once, in whichever of the runs; it is told by its scan's id and its content.
    """
    trained, chose = set[tuple[str, str]](), set[tuple[str, str]]()
    for split in known:
        content, cohort = split.get("label_content") or {}, str(split.get("cohort"))
        for part, into in (("labelled", trained), ("validation", chose)):
            into |= {(name, content.get(name) or cohort) for name in split.get(part) or ()}
    return f"{len(trained)} + {len(chose - trained)}"


def record_of(start: RunFolder, networks: Collection[str]) -> list[dict[str, Any]]:
    """What a run that takes these networks of `start` writes as started_from.json."""
    first = {
        "path": str(start.path.resolve()),
        "split": start.split,
        "weights": _weights(start, networks),
    }
    earlier = ({"path": str(one.path), "split": one.split} for one in ancestors(start))
    return [first, *earlier]


def is_start(run: RunFolder, start: RunFolder) -> bool:
    """Whether a folder is the one that the run started from, by its networks."""
    recorded = run.started_from
    if not recorded:
        return False
    weights = recorded[0]["weights"]
    return weights.keys() <= set(start.network_names()) and weights == _weights(start, weights)


def _weights(run: RunFolder, networks: Collection[str]) -> dict[str, str]:
    """SHA-256 of the files of these networks."""
    files = {name: run.path / f"{name}.safetensors" for name in sorted(networks)}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
