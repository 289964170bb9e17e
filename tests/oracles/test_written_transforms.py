"""What `register` writes, applied by SimpleITK and ANTs: the same images, labels and points."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from pairs import KINDS, LABELS, ORIENTATIONS, Pair, known_map, registered

from deepatlas.inference.chain import warp
from deepatlas.io.images import read_image
from deepatlas.io.transforms import read_transform
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import resample

sitk: Any = pytest.importorskip("SimpleITK")

# every second: the orientations between are those of the moving scans, where the inverse starts
CASES = [(kind, n, d) for d in (2, 3) for kind in KINDS for n in range(0, len(ORIENTATIONS[d]), 2)]
FILES = [f"{way}transform.{form}" for way in ("", "inverse_") for form in ("h5", "nii.gz")]
every = pytest.mark.parametrize(("kind", "orientation", "d"), CASES)


def values(path: Path) -> np.ndarray:
    """Of a file, read by nibabel."""
    return np.asarray(nib.load(path).dataobj)


def as_itk_reads(path: Path) -> Any:
    """A transform or, of NIfTI, a displacement field."""
    if path.suffix in (".h5", ".mat"):
        return sitk.ReadTransform(str(path))
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def by_itk(path: Path, onto: Path, transform: Any, how: int) -> np.ndarray:
    images = [sitk.ReadImage(str(file)) for file in (path, onto)]
    moved = sitk.Resample(*images, transform, how, 0.0, images[0].GetPixelID())
    return sitk.GetArrayFromImage(moved).T


def away_from_border(scan: Geometry, points: Tensor) -> np.ndarray:
    index = scan.to_index(points)
    return ((index > 0.5) & (index < torch.tensor(scan.shape) - 1.5)).all(-1).numpy()


def check_images(theirs: np.ndarray, ours: np.ndarray, inside: np.ndarray) -> None:
    assert inside.mean() > 0.2
    spread = ours.max() - ours.min()
    assert np.abs(theirs - ours)[inside].mean() <= 1e-3 * spread


def mapped(itk: Any, points: Tensor) -> Tensor:
    lps = np.array([-1.0, -1.0, 1.0])[: points.shape[1]]
    there = [itk.TransformPoint(point) for point in (points.numpy() * lps).tolist()]
    return torch.from_numpy(np.array(there) * lps)


def around(scan: Geometry, count: int = 60) -> Tensor:
    """Points within a grid and, most of them, up to its size beyond."""
    random = torch.Generator().manual_seed(0)
    index = torch.rand(count, scan.ndim, generator=random, dtype=torch.float64) * 3 - 1
    return scan.to_mm(index * torch.tensor(scan.shape))


@every
def test_simpleitk_applies_what_was_written(
    kind: str, orientation: int, d: int, tmp_path: Path
) -> None:
    pair = registered(tmp_path, kind, orientation, d)
    there = pair.result.transform
    assert (there(pair.fixed.points_mm()) - pair.fixed.points_mm()).norm(dim=-1).min() > 20
    ours, ours_labels = values(pair.path("moved.nii.gz")), values(pair.path("moved_labels.nii.gz"))
    inside = away_from_border(pair.moving, there(pair.fixed.points_mm()))
    for name in ("transform.h5", "transform.nii.gz"):
        itk = as_itk_reads(pair.path(name))
        moved = by_itk(pair.path("moving"), pair.path("fixed"), itk, sitk.sitkLinear)
        check_images(moved, ours, inside)
        labels = by_itk(pair.path("labels"), pair.path("fixed"), itk, sitk.sitkNearestNeighbor)
        assert (labels == ours_labels).mean() >= 0.999
    assert ours_labels.dtype == np.int32
    assert set(np.unique(ours_labels[inside])) == set(LABELS)
    check_inverse(pair)
    check_points(pair)


def check_inverse(pair: Pair) -> None:
    """SimpleITK and `warp` make the same of the inverse's files."""
    result = warp([pair.path("inverse_transform.h5")], image=pair.path("fixed"),
                  onto=pair.path("moving"), out=pair.folder / "back")  # fmt: skip
    inside = away_from_border(pair.fixed, result.transform(pair.moving.points_mm()))
    for name in ("inverse_transform.h5", "inverse_transform.nii.gz"):
        itk = as_itk_reads(pair.path(name))
        moved = by_itk(pair.path("fixed"), pair.path("moving"), itk, sitk.sitkLinear)
        check_images(moved, values(result.files[0]), inside)


def check_points(pair: Pair) -> None:
    """Within 0.01 mm, also outside the grids; by SimpleITK alone the inverse leads back."""
    itk = {name: as_itk_reads(pair.path(name)) for name in FILES}
    there, back = pair.result.transform, read_transform(pair.path("inverse_transform.h5"))
    for name, ours, scan in (("", there, pair.fixed), ("inverse_", back, pair.moving)):
        points, voxels = around(scan), scan.points_mm().reshape(-1, scan.ndim)[::41]
        chain, field = itk[f"{name}transform.h5"], itk[f"{name}transform.nii.gz"]
        assert (mapped(chain, points) - ours(points)).norm(dim=-1).max() < 0.01
        assert (mapped(field, voxels) - ours(voxels)).norm(dim=-1).max() < 0.01
    _, linear = known_map(fixed=pair.path("fixed"), moving=pair.path("moving"))
    points = around(pair.fixed)
    by_mat = mapped(as_itk_reads(pair.path("affine.mat")), points)
    assert (by_mat - linear(points)).norm(dim=-1).max() < 0.01
    voxels = pair.fixed.points_mm().reshape(-1, pair.fixed.ndim)[::41]
    again = mapped(itk["inverse_transform.h5"], mapped(itk["transform.h5"], voxels))
    apart = pair.fixed.to_index(again) - pair.fixed.to_index(voxels)
    assert apart.norm(dim=-1).mean() < 0.03  # a strong map; the phantom is held to 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [0, 28])
def test_ants_applies_what_was_written(kind: str, orientation: int, tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    pair = registered(tmp_path, kind, orientation)
    there, back = pair.result.transform, pair.result.transform.inverse()
    scans = {name: ants.image_read(str(pair.path(name))) for name in ("fixed", "moving", "labels")}
    inside = away_from_border(pair.moving, there(pair.fixed.points_mm()))
    for name in ("transform.h5", "transform.nii.gz"):
        files = [str(pair.path(name))]
        moved = ants.apply_transforms(scans["fixed"], scans["moving"], files).numpy()
        check_images(moved, values(pair.path("moved.nii.gz")), inside)
        moved = ants.apply_transforms(scans["fixed"], scans["labels"], files, "nearestNeighbor")
        expected = values(pair.path("moved_labels.nii.gz")).astype("f4")  # antspyx has float32 only
        assert (moved.numpy() == expected).mean() >= 0.999
    onto = resample(read_image(pair.path("fixed")), pair.moving, back).data.numpy()
    inside = away_from_border(pair.fixed, back(pair.moving.points_mm()))
    for name in ("inverse_transform.h5", "inverse_transform.nii.gz"):
        files = [str(pair.path(name))]
        moved = ants.apply_transforms(scans["moving"], scans["fixed"], files).numpy()
        check_images(moved, onto, inside)


def test_the_inverse_of_the_forward_file_is_the_inverse_file(tmp_path: Path) -> None:
    """`warp --inverse` on one is `warp` on the other."""
    pair = registered(tmp_path, "oblique", 18)
    ways = [("transform.h5", True), ("inverse_transform.h5", False)]
    found = [
        warp([pair.path(name)], image=pair.path("fixed"), onto=pair.path("moving"),
             out=tmp_path / f"{inverse}", inverse=inverse).files[0]
        for name, inverse in ways
    ]  # fmt: skip
    assert values(found[0]).std() > 50
    np.testing.assert_allclose(values(found[0]), values(found[1]), atol=0.1)
