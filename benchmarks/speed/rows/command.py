"""`deepatlas register` as a command against a script of ANTs: start-up, files in, files out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from benchmarks.speed.memory import call
from benchmarks.speed.peers import ants_register

WRITTEN = ("moved.nii.gz", "transform.h5", "affine.mat")


def register(run: str, moving: str, fixed: str) -> Case:
    """Of two scans as they come; `run` is a trained run, whose plan says how it aligns."""
    ours = ["-m", "deepatlas", "register", run, "--moving", moving]
    ours += ["--fixed", fixed, "--out"]
    ants = [ants_register.__file__, moving, fixed]
    return Case(
        [
            Candidate("deepatlas", _command(ours), "as the run says"),
            Candidate("ANTs", _command(ants), "affine, then SyN, its defaults"),
        ],
        comparable=False,
        note=f"as commands; each writes {', '.join(WRITTEN)}",
    )


def _command(command: list[str]) -> Callable[[], Outputs]:
    def run() -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            done, _ = call([*command, str(out)])
            missing = [name for name in WRITTEN if not (out / name).is_file()]
            if done.returncode or missing:
                said = done.stderr.strip()[-500:]
                raise RuntimeError(f"{' '.join(command)}: no {', '.join(missing)}; {said}")
        return ()

    return run


ROWS = (
    Row(
        "command", "two files to three, as a command", register, {}, None, {},
        {"ANTs": 10.0}, seconds=0.0, least=3, needs=("run", "moving", "fixed"),
    ),
)  # fmt: skip
