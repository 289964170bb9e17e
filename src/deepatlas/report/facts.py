"""What the page says about a run, read from its folder once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepatlas.data.plan import Plan
from deepatlas.data.reference import Alignment
from deepatlas.run.folder import RunFolder
from deepatlas.run.lineage import labels_seen, splits


@dataclass(frozen=True)
class Facts:
    """A run as its folder tells it, finished or not.

    Parameters
    ----------
    labels_seen : "N + V", see `run.lineage`; by it and the runs that it started from.
    """

    path: Path
    config: Mapping[str, Any]
    plan: Plan
    split: Mapping[str, Any]
    labels_seen: str
    environment: Mapping[str, Any]
    state: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    alignment: Mapping[str, Alignment] = field(default_factory=dict)

    @property
    def recipe(self) -> str:
        """Name of the recipe."""
        return str(self.config.get("name") or "")

    @property
    def steps(self) -> int:
        """Optimiser steps done, of all networks together."""
        logged = [int(line["step"]) for line in self.log if "step" in line]
        return int(self.state.get("step") or max(logged, default=0))

    @property
    def minutes(self) -> float | None:
        """Minutes of training so far, as the state or else the log says; None if unknown."""
        logged = [float(line["seconds"]) for line in self.log if line.get("seconds") is not None]
        seconds = self.state.get("seconds") or max(logged, default=None)
        return None if seconds is None else float(seconds) / 60

    @property
    def progress(self) -> str:
        """Whether training has come to its end."""
        if self.state.get("finished"):
            return "finished"
        whole = (self.config.get("training") or {}).get("steps")
        return f"not finished (of {whole:,})" if whole else "not finished"

    @property
    def device(self) -> str:
        """Where it was trained."""
        parts = [str(self.environment.get(key) or "") for key in ("device", "device_name")]
        return f"{parts[0]} ({parts[1]})" if all(parts) else "".join(parts)

    @property
    def evaluate_command(self) -> str:
        """What to type for an evaluation on the training cohort."""
        cohort = str(self.split.get("cohort") or "COHORT")
        out = str(self.path / "evaluation")
        return shlex.join(["deepatlas", "evaluate", str(self.path), cohort, "--out", out])

    @property
    def report_command(self) -> str:
        """What to type for this page."""
        return shlex.join(["deepatlas", "report", str(self.path)])


def read_facts(run: RunFolder) -> Facts:
    """The run's files; state and environment may be missing as long as training has just begun.

    Raises
    ------
    BadInput : the folder is no run, or one of its files cannot be read.
    """
    run = RunFolder.open(run.path)
    return Facts(
        path=run.path,
        config=run.config,
        plan=run.plan,
        split=run.split,
        labels_seen=labels_seen(splits(run)),
        environment=run.environment if (run.path / "environment.json").is_file() else {},
        state=run.state if (run.path / "state.json").is_file() else {},
        log=run.log(),
        alignment=run.alignment,
    )
