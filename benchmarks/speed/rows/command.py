"""Commands, start-up included: `register` against a script of ANTs, `check`, `--help`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.speed.measure import Candidate, Case, Outputs, Row
from benchmarks.speed.memory import call
from benchmarks.speed.peers import ants_register, read_scans
from deepatlas.data.phantom import Phantom
from deepatlas.io.images import write_image, write_labels
from deepatlas.spatial.geometry import Volume

_SCRIPT = Path(sys.executable).with_name("deepatlas")  # as it is installed
OURS = (str(_SCRIPT),) if _SCRIPT.exists() else ("-m", "deepatlas")
WRITTEN = ("moved.nii.gz", "transform.h5", "affine.mat")


def register(run: str, moving: str, fixed: str) -> Case:
    """Of two scans as they come; `run` is a trained run, whose plan says how it aligns."""
    ours = [*OURS, "register", run, "--moving", moving]
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


def check(scans: int) -> Case:
    """Of a cohort of phantoms as small as the hippocampus scans of the Decathlon."""
    folder = tempfile.TemporaryDirectory()
    _write_cohort(Path(folder.name), scans)

    def of_folder(*command: str) -> Callable[[], Outputs]:
        def run() -> Outputs:  # the folder stays as long as this
            _run([*command, folder.name])
            return ()

        return run

    return Case(
        [
            Candidate("deepatlas", of_folder(*OURS, "check"), "a command"),
            Candidate(
                "a script",
                of_folder(read_scans.__file__),
                "imports PyTorch and nibabel, reads all files",
            ),
        ],
        comparable=False,
        note=f"{scans} scans with label maps, 40 x 56 x 40",
    )


def _write_cohort(folder: Path, scans: int) -> None:
    """Scans that all differ: a few phantoms, each put elsewhere and with other noise many times."""
    noise = torch.Generator("cpu").manual_seed(0)
    phantom = Phantom(seed=0, shape=(40, 56, 40))
    subjects = [phantom.subject(k) for k in range(min(scans, 10))]
    for number in range(scans):
        image, labels = subjects[number % 10].image, subjects[number % 10].labels
        by = [number // 10 % 3 - 1, number // 30 % 3 - 1, number // 90 - 1]
        grains = torch.randn(image.data.shape, generator=noise, device="cpu")
        noisy = image.data.cpu().roll(by, (0, 1, 2)) + 0.02 * grains
        moved = labels.data.cpu().roll(by, (0, 1, 2))
        name = f"s{number:03d}.nii.gz"
        write_image(folder / "imagesTr" / name, Volume(noisy, image.geometry))
        write_labels(folder / "labelsTr" / name, Volume(moved, labels.geometry), "uint8")


def start() -> Case:
    """`--help`, which loads no library."""
    return Case(
        [
            Candidate("deepatlas", _calling([*OURS, "--help"]), "`--help`"),
            Candidate("Python", _calling(["-m", "this"]), "a module that prints a page"),
            Candidate("PyTorch", _calling(["-m", "torch.version"]), "its import"),
        ],
        comparable=False,
    )


def _run(command: Sequence[str]) -> str:
    """Run Python with these arguments; the end of what it said beside its output."""
    done, _ = call(command)
    said = done.stderr.strip()[-500:]
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said}")
    return said


def _calling(command: Sequence[str]) -> Callable[[], Outputs]:
    def run() -> Outputs:
        _run(command)
        return ()

    return run


def _command(command: list[str]) -> Callable[[], Outputs]:
    def run() -> Outputs:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            said = _run([*command, str(out)])
            missing = [name for name in WRITTEN if not (out / name).is_file()]
            if missing:
                raise RuntimeError(f"{' '.join(command)}: no {', '.join(missing)}; {said}")
        return ()

    return run


ROWS = (
    Row(
        "command", "two files to three, as a command", register, {}, None, {},
        {"ANTs": 10.0}, seconds=0.0, least=3, needs=("run", "moving", "fixed"),
    ),
    Row(
        "check", "a cohort looked at, as a command (goal: 200 scans in 5 s)", check,
        {"scans": 200}, None, {"scans": 2}, seconds=0.0, least=3,
    ),
    Row("start", "start-up, as a command", start, {}, None, {}, seconds=0.0, least=5),
)  # fmt: skip
