"""The phantom's true map, written as `register` writes: its landmarks and labels arrive."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from deepatlas.cli import main
from deepatlas.data.phantom import Phantom
from deepatlas.inference.chain import warp
from deepatlas.inference.register import write_registration
from deepatlas.io.images import write_image, write_labels
from deepatlas.spatial.geometry import Volume
from deepatlas.spatial.transform import Affine, Transform

PHANTOM = Phantom(seed=5, shape=(44, 30, 20), spacing_mm=(0.9, 1.6, 2.1))
FAR = {"uint8": 200, "int8": 90, "uint16": 60000, "int16": 30000, "int32": 2**24 + 1,
       "uint32": 2**32 - 9, "int64": 2**53 + 1, "uint64": 2**62 + 1}  # fmt: skip


subject = cache(PHANTOM.subject)


@cache
def true_map() -> tuple[Transform, Transform]:
    return PHANTOM.true_map(moving=1, fixed=0), Affine.identity(3)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The map from scan 0 to scan 1 and all that goes with it."""
    folder = tmp_path_factory.mktemp("phantom")
    for name, index in (("fixed", 0), ("moving", 1)):
        write_image(folder / f"{name}.nii.gz", subject(index).image)
    paths = {name: folder / f"{name}.nii.gz" for name in ("moving", "fixed")}
    write_registration(true_map, **paths, out=folder / "out", write="all")
    return folder


def voxels(distance: Tensor) -> Tensor:
    return (distance / torch.tensor(PHANTOM.spacing_mm).double()).norm(dim=-1)


def warped(transform: Path, points: Tensor, folder: Path, *options: str) -> Tensor:
    """Points through the command, and back from its table."""
    folder.mkdir()
    np.savetxt(folder / "p.csv", points, delimiter=",", header="x,y,z", comments="")
    out = folder / "out"
    command = ["warp", str(transform), "--points", str(folder / "p.csv"), "--out", str(out)]
    assert main([*command, *options]) == 0
    rows = list(csv.DictReader((out / "p.csv").open()))
    return torch.tensor([[float(row[n]) for n in "xyz"] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize("form", ["h5", "nii.gz"])
def test_landmarks_arrive(form: str, written: Path, tmp_path: Path) -> None:
    """By the map and by its inverse, as a chain and as one field on the scan's grid."""
    fixed, moving = (PHANTOM.landmarks_mm(index) for index in (0, 1))
    assert voxels(fixed - moving).max() > 1
    there = warped(written / f"out/transform.{form}", fixed, tmp_path / "there")
    assert voxels(there - moving).max() < 0.1
    back = warped(written / f"out/inverse_transform.{form}", moving, tmp_path / "back")
    assert voxels(back - fixed).max() < 0.1
    back = warped(written / f"out/transform.{form}", moving, tmp_path / "inverse", "--inverse")
    assert voxels(back - fixed).max() < 0.1


def test_the_inverse_after_the_map_leads_back(written: Path, tmp_path: Path) -> None:
    points = PHANTOM.geometry(0).points_mm().reshape(-1, 3)[::7]
    there = warped(written / "out/transform.h5", points, tmp_path / "there")
    back = warped(written / "out/inverse_transform.h5", there, tmp_path / "back")
    assert voxels(back - points).mean() < 0.02
    assert voxels(back - points).max() < 0.2
    back = warped(written / "out/transform.h5", there, tmp_path / "inverse", "--inverse")
    assert voxels(back - points).mean() < 0.02


@pytest.mark.parametrize("dtype", FAR)
def test_ids_and_types_of_labels_are_kept(dtype: str, written: Path, tmp_path: Path) -> None:
    """By `register` and by `warp`, whatever float32 or float64 would make of them."""
    labels = subject(1).labels
    ids = torch.arange(int(labels.data.max()) + 1) + (FAR[dtype] - int(labels.data.max()))
    ids[0] = 0
    path = tmp_path / "labels.nii.gz"
    write_labels(path, Volume(ids[labels.data], labels.geometry), dtype)
    paths = {name: written / f"{name}.nii.gz" for name in ("moving", "fixed")}
    result = write_registration(true_map, **paths, moving_labels=path, out=tmp_path / "registered")
    assert result.moved_labels is not None
    by_warp = warp([result.transform_file], labels=path, onto=paths["fixed"], out=tmp_path / "w")
    expected = ids[subject(0).labels.data].numpy().astype(dtype)
    for file in (result.moved_labels, *by_warp.files):
        image = nib.load(file)
        values = np.asarray(image.dataobj)
        assert image.get_data_dtype() == values.dtype == np.dtype(dtype)
        assert set(np.unique(values)) <= set(ids.tolist())
        assert (values == expected).mean() > 0.9  # nearest neighbour at the edges
