"""A cohort whose scans lie anywhere, through train, segment and register with `align: affine`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import train_tiny

from deepatlas.data.phantom import Phantom
from deepatlas.errors import BadInput
from deepatlas.inference.register import register
from deepatlas.inference.segment import segment
from deepatlas.io.images import read_image, read_labels, write_image, write_labels
from deepatlas.io.transforms import read_transform
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.matrix import to_matrix
from deepatlas.spatial.transform import Affine, resample

SUBJECTS = 4


def scattered(root: Path) -> Path:
    """Phantom scans turned, shifted and scaled: two by their headers, one by resampling."""
    phantom = Phantom(seed=5, shape=(28, 34, 28), spacing_mm=(1.4, 1.4, 1.4))
    moves = {
        1: [0.3, -0.2, 0.25, 20.0, -12.0, 9.0, 0.1],
        2: [-0.2, 0.35, 0.1, -15.0, 22.0, -6.0, -0.1],
        3: [0.1, 0.1, -0.3, 6.0, 3.0, -8.0, 0.0],
    }
    for index in range(SUBJECTS):
        subject = phantom.subject(index)
        image, labels = subject.image, subject.labels
        if index:
            parameters = torch.tensor(moves[index], dtype=torch.float64)
            move = to_matrix(parameters, image.geometry.centre_mm, "similarity")
            if index < 3:
                grid = Geometry(image.geometry.shape, move @ image.geometry.affine)
                image, labels = Volume(image.data, grid), Volume(labels.data, grid)
            else:
                centre = Affine(move)(image.geometry.centre_mm[None])[0]
                grid = Geometry.axis_aligned((40, 30, 36), (1.3, 1.9, 1.5), centre.tolist())
                back = Affine(move).inverse()
                image = resample(image, grid, back)
                labels = resample(labels, grid, back, labels=True)
        write_image(root / "images" / f"s{index}.nii.gz", image)
        write_labels(root / "labels" / f"s{index}.nii.gz", labels, np.dtype("uint8"))
    return root


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scattered(tmp_path_factory.mktemp("scattered") / "cohort")


@pytest.fixture(scope="module")
def run(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    settings = {"data.align": "affine", "training.steps": 4}
    return train_tiny(cohort, tmp_path_factory.mktemp("aligned") / "run", settings=settings)


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    values = [v for v in other.unique().tolist() if v]
    scores = [
        2 * ((one == v) & (other == v)).sum() / ((one == v).sum() + (other == v).sum())
        for v in values
    ]
    return float(sum(scores) / len(scores))


def test_the_run_records_how_every_scan_was_aligned(run: RunFolder, cohort: Path) -> None:
    found = run.alignment
    assert sorted(found) == [f"s{n}" for n in range(SUBJECTS)]
    assert not any(entry.fault for entry in found.values())
    reference = run.plan.reference
    assert reference is not None
    content = json.loads((run.path / "alignment.json").read_text())
    assert content["reference"] == reference.id
    target = read_labels(cohort / "labels" / f"{reference.id}.nii.gz")[0]
    for name, entry in found.items():
        labels = read_labels(cohort / "labels" / f"{name}.nii.gz")[0]
        moved = resample(labels, target.geometry, entry.transform, labels=True)
        assert dice(moved.data, target.data) > 0.55
        assert name == reference.id or entry.similarity > entry.start


def test_segmentations_come_back_where_the_scan_lies(run: RunFolder, cohort: Path) -> None:
    images = [cohort / "images" / f"s{n}.nii.gz" for n in (1, 3)]
    for path, out in zip(images, segment(run, images, out=run.path / "out"), strict=True):
        assert read_labels(out)[0].geometry.same_as(read_image(path).geometry)


def test_register_aligns_through_the_reference(run: RunFolder, cohort: Path) -> None:
    moving, fixed = (cohort / "images" / f"{name}.nii.gz" for name in ("s3", "s1"))
    done = register(run, moving=moving, fixed=fixed, out=run.path / "pair")
    written = read_transform(done.affine_file)
    found = run.alignment
    points = read_image(fixed).geometry.corners_mm()
    wanted = found["s3"].transform(found["s1"].transform.inverse()(points))
    torch.testing.assert_close(written(points), wanted, atol=1e-4, rtol=0)
    one, other = (read_labels(cohort / "labels" / f"{n}.nii.gz")[0] for n in ("s3", "s1"))
    before = resample(one, other.geometry, labels=True).data
    after = resample(one, other.geometry, written, labels=True).data
    assert dice(after, other.data) > max(0.45, 2 * dice(before, other.data))
    assert math.isclose(torch.det(written.parts()[0].matrix), 1.0, rel_tol=0.6)


def test_a_lost_reference_is_said(run: RunFolder) -> None:
    path = run.path / "reference.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:50])
    with pytest.raises(BadInput, match=r"reference\.safetensors: cannot be read"):
        _ = run.plan
    path.write_bytes(content)
    assert run.plan.reference is not None
