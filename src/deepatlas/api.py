"""One function a verb: what `import deepatlas` offers, and what the commands call.

Nothing heavy is imported before a verb is called. A `run` is a run folder's path or a `RunFolder`.
A `progress` is called with what is being done, how much is done, how much there is to do and, in
training, the line of the log. `device` is "auto", "cpu", "cuda" or "cuda:N"; `threads` are CPU
threads, where None leaves torch's choice. `max_memory` ("8GB", or a number of bytes) is what the
process, and what it takes on a GPU, each aim to stay below; what does not fit is then segmented in
tiles, which is less exact. None takes most of what is free, and no tiles. What the user can mend
raises `BadInput`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch

    from deepatlas.inference.chain import Warped
    from deepatlas.inference.register import Registered
    from deepatlas.inference.volume_change import VolumeChange
    from deepatlas.run.check import CohortCheck
    from deepatlas.run.folder import RunFolder

PathLike: TypeAlias = "str | os.PathLike[str]"
Progress: TypeAlias = Callable[..., None]


def check(
    cohort: PathLike,
    *,
    split: PathLike | None = None,
    annotated: PathLike | None = None,
    ignore_value: int | None = None,
    json: PathLike | None = None,
    progress: Progress | None = None,
) -> CohortCheck:
    """Look at every file of a cohort: what keeps it from being trained on, and what looks odd.

    Parameters
    ----------
    cohort : a folder as `train` takes it.
    split : JSON with the lists "train", "validation" and "test"; then subjects that are in two of
        them are found.
    annotated : JSON of what was annotated in which scan; by default the cohort's annotations.json.
    ignore_value : label value of voxels of which nothing is known, data.ignore_value in training.
    json : a file that gets the findings, for other programs.

    Returns
    -------
    The findings, each with its severity (error, warning, note), kind, files and a sentence on what
    was expected and what to do; their `counts`, and what was `looked_at`.
    """
    from deepatlas.io.atomic import write_json
    from deepatlas.run.check import check as check_folder

    found = check_folder(
        Path(cohort),
        split=_path(split),
        annotated=_path(annotated),
        ignore_value=ignore_value,
        progress=None if progress is None else partial(progress, "checking"),
    )
    if json is not None:
        write_json(Path(json), found.to_json())
    return found


def train(
    cohort: PathLike,
    out: PathLike,
    *,
    recipe: str = "da",
    config: PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    labelled: str | int | PathLike = "all",
    label_groups: PathLike | None = None,
    annotated: PathLike | None = None,
    split: PathLike | None = None,
    init: PathLike | RunFolder | None = None,
    seed: int | None = None,
    cache: PathLike | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> RunFolder:
    """Train the networks of a recipe, or resume the run that lies in `out`.

    Parameters
    ----------
    cohort : a folder (plain, Decathlon, nnU-Net, Learn2Reg, BIDS) or a CSV that lists the scans.
    out : the run folder; where it exists already, the run goes on from its last checkpoint.
    recipe : one of `deepatlas.recipes`, by name.
    config : YAML with what differs from the recipe.
    overrides : dotted keys and their values, such as {"training.steps": 2000}; they come last.
    labelled : how many labels of the training part are used ("all", a number drawn by the seed,
        or a file with one scan id a line); the others are hidden.
    label_groups : JSON of named groups of label values, which are learnt in place of the values;
        `groups.json:NAME` takes one of several sets.
    annotated : JSON of scan ids and the values or names of the structures that were annotated in
        them, others have all; by default `annotations.json` in the cohort's folder.
    split : JSON with the lists "train", "validation" and "test" of scan ids; it comes before a
        split that the cohort brings along (a column of the CSV, the pairs of Learn2Reg).
    init : a finished run whose networks this one starts from.
    seed : of all that is drawn; None takes the recipe's.
    cache : folder of prepared scans; None takes the user's cache folder.

    Raises
    ------
    BadInput : all faults of the cohort, the recipe or the existing run together.
    DeepAtlasError : SIGTERM or Ctrl-C came; a checkpoint has been saved.

    Source: Xu and Niethammer, DeepAtlas, MICCAI 2019.
    """
    from deepatlas.run.train import train as train_run

    return train_run(
        Path(cohort),
        Path(out),
        recipe=recipe,
        config=_path(config),
        overrides=overrides,
        labelled=labelled if isinstance(labelled, int) or labelled == "all" else Path(labelled),
        label_groups=_path(label_groups),
        annotated=_path(annotated),
        split=_path(split),
        init=None if init is None else _run(init).path,
        seed=seed,
        cache=_path(cache),
        device=device,
        threads=threads,
        progress=progress,
    )


def segment(
    run: PathLike | RunFolder,
    images: PathLike | Sequence[PathLike],
    *,
    out: PathLike,
    bids: bool = False,
    device: str = "auto",
    threads: int | None = None,
    max_memory: int | str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Segment scans; each `out`/<id>.nii.gz lies on its scan's own grid with the original values.

    With `bids` the images have BIDS names (`sub-01_T1w.nii.gz`) and `out` becomes a derivative:
    `sub-01/anat/sub-01_dseg.nii.gz`, `dseg.tsv` and `dataset_description.json`.

    Raises `BadInput` where two images have one name, and where the run has no such network.
    """
    from deepatlas.inference.segment import segment as segment_images

    if isinstance(images, (str, os.PathLike)):
        images = [images]
    return segment_images(
        _run(run),
        [Path(image) for image in images],
        out=Path(out),
        bids=bids,
        device=_compute(device, threads),
        max_memory=max_memory,
        progress=None if progress is None else partial(progress, "segmenting"),
    )


def register(
    run: PathLike | RunFolder,
    *,
    moving: PathLike,
    fixed: PathLike,
    out: PathLike,
    moving_labels: PathLike | None = None,
    write: Literal["main", "all"] = "main",
    keep_dtype: bool = False,
    device: str = "auto",
    threads: int | None = None,
    max_memory: int | str | None = None,
) -> Registered:
    """Register a moving scan to a fixed one; writes images and the transform into `out`.

    Returns the paths `moved` (on the fixed grid; float32, or with `keep_dtype` the moving scan's
    integer type), `moved_labels` (of the integer type of `moving_labels`, or None),
    `transform_file` (as ITK reads it) and others, and the `transform` itself. `write="all"` adds
    the inverse and single fields.
    """
    from deepatlas.inference.register import register as register_images

    return register_images(
        _run(run),
        moving=Path(moving),
        fixed=Path(fixed),
        out=Path(out),
        moving_labels=_path(moving_labels),
        write=write,
        keep_dtype=keep_dtype,
        device=_compute(device, threads),
        max_memory=max_memory,
    )


def warp(
    transforms: Sequence[PathLike],
    *,
    out: PathLike,
    image: PathLike | None = None,
    labels: PathLike | None = None,
    points: PathLike | None = None,
    onto: PathLike | None = None,
    inverse: bool = False,
    axes: Literal["RAS", "LPS"] = "RAS",
    max_memory: int | str | None = None,
) -> Warped:
    """Apply transform files, one after another, to a scan, a label map or landmarks.

    Parameters
    ----------
    transforms : in the order in which a point of the fixed scan passes them.
    image, labels : of the moving scan; the results get the grid of `onto`, the fixed scan.
    points : CSV with columns x, y, z in mm (`axes`: RAS or LPS), in the fixed scan.
    inverse : apply the inverse of the whole chain, from the moving scan to the fixed one.
    """
    from deepatlas.inference.chain import warp as warp_files

    return warp_files(
        [Path(path) for path in transforms],
        out=Path(out),
        image=_path(image),
        labels=_path(labels),
        points=_path(points),
        onto=_path(onto),
        inverse=inverse,
        axes=axes,
        max_memory=max_memory,
    )


def convert(
    transforms: Sequence[PathLike],
    *,
    out: PathLike,
    moving: PathLike | None = None,
    fixed: PathLike | None = None,
    read_as: str | None = None,
    write_as: str | None = None,
    inverse: bool = False,
) -> Path:
    """Write transform files, one after another, as one file of another format; returns its path.

    Parameters
    ----------
    out : .h5, .mat, .tfm, or .nii.gz for one displacement field on the grid of `fixed`.
    moving, fixed : the scans, where a format needs their grids, and only there.
    read_as, write_as : "ants", "fsl" or "learn2reg", for files of these forms.
    inverse : write the map from moving to fixed.
    """
    from deepatlas.inference.chain import convert as convert_files

    convert_files(
        [Path(path) for path in transforms],
        out=Path(out),
        moving=_path(moving),
        fixed=_path(fixed),
        read_as=read_as,
        write_as=write_as,
        inverse=inverse,
    )
    return Path(out)


def jacobian(
    transforms: Sequence[PathLike],
    *,
    onto: PathLike,
    out: PathLike,
    labels: PathLike | None = None,
    inverse: bool = False,
) -> VolumeChange:
    """Write the Jacobian determinant of transform files, its logarithm, and volumes by structure.

    Parameters
    ----------
    transforms : in the order in which a point of the fixed scan passes them.
    onto, labels : the fixed scan, on whose grid the determinant is taken, and its label map.
    inverse : of the map from moving to fixed.
    """
    from deepatlas.inference.volume_change import jacobian as jacobian_of_files

    return jacobian_of_files(
        [Path(path) for path in transforms],
        onto=Path(onto),
        out=Path(out),
        labels=_path(labels),
        inverse=inverse,
    )


def evaluate(
    run: PathLike | RunFolder,
    cohort: PathLike,
    *,
    out: PathLike,
    pairs: PathLike | None = None,
    n_pairs: int = 40,
    against: Sequence[PathLike | RunFolder] = (),
    label_groups: PathLike | None = None,
    annotated: PathLike | None = None,
    device: str = "auto",
    threads: int | None = None,
    max_memory: int | str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score a run, alone or against others on the same scans; returns the summary.

    Parameters
    ----------
    cohort : the training cohort (then its test part is scored) or another (all labelled scans).
    out : folder that gets scans.csv, pairs.csv and summary.json.
    pairs : CSV with columns moving and fixed, scan ids; without it, `n_pairs` pairs are taken.
    against : other runs, compared scan by scan and pair by pair.
    label_groups : as in `train`, for a run that learnt none; its own come by themselves.
    annotated : as in `train`; for the training cohort what was said then.
    """
    from deepatlas.inference.scoring import evaluate as evaluate_run

    return evaluate_run(
        _run(run),
        Path(cohort),
        Path(out),
        pairs=_path(pairs),
        n_pairs=n_pairs,
        against=[_run(other) for other in against],
        label_groups=_path(label_groups),
        annotated=_path(annotated),
        device=_compute(device, threads),
        max_memory=max_memory,
        progress=progress,
    )


def report(run: PathLike | RunFolder, *, out: PathLike | None = None) -> Path:
    """Write one HTML page about a run, readable offline; by default report.html in the run."""
    from deepatlas.report.page import write_report

    return write_report(_run(run), _path(out))


def phantom(*, out: PathLike, subjects: int = 40, labelled: int = 3, seed: int = 0) -> Path:
    """Draw a cohort of anatomy-like scans with known labels and known maps between them."""
    from deepatlas.data.phantom_files import write_phantom

    return write_phantom(Path(out), subjects=subjects, labelled=labelled, seed=seed)


def demo(
    *,
    out: PathLike = "demo",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
) -> Path:
    """Phantom scans, baseline and joint training at equal budget, a table; returns the report.

    Runs the commands that a user would run, each in a process of its own, and says so on standard
    output. What is finished in `out` is not done again.
    """
    from deepatlas.demonstration import demonstrate

    return demonstrate(Path(out), seed=seed, device=device, threads=threads)


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _run(run: PathLike | RunFolder) -> RunFolder:
    from deepatlas.run.folder import RunFolder

    return run if isinstance(run, RunFolder) else RunFolder.open(Path(run))


def _compute(device: str, threads: int | None) -> torch.device:
    from deepatlas.compute import choose_device, use_threads

    use_threads(threads)
    return choose_device(device)
