"""Chains in ITK's files: SimpleITK and ANTs map points as we do, and we read what they write."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.io.transforms import read_transform, write_transform
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import (
    Affine,
    Composite,
    DisplacementField,
    Transform,
    VelocityField,
)

sitk = pytest.importorskip("SimpleITK")

dims = pytest.mark.parametrize("d", [2, 3])


def oblique(d: int) -> Geometry:
    """Anisotropic, not cubic, off-centre, the first axis flipped."""
    c, s = math.cos(0.4), math.sin(0.4)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turn = about_z @ about_x if d == 3 else about_z
    affine = np.eye(d + 1)
    affine[:d, :d] = turn[:d, :d] @ np.diag([-1.1, 0.8, 2.0][:d])
    affine[:d, d] = [20.0, -35.0, 8.0][:d]
    return Geometry((11, 14, 7)[:d], torch.from_numpy(affine))


def some_affine(d: int, size: float = 0.1) -> Affine:
    matrix = torch.eye(d + 1, dtype=torch.float64)
    matrix[:d, :d] += size * torch.tensor([[1, -2, 0.5], [2, 0, 1], [0, -1, -1]])[:d, :d]
    matrix[:d, d] = torch.tensor([5.5, -7.0, 3.0])[:d]
    return Affine(matrix)


def smooth(geometry: Geometry, size: float = 2.0) -> Tensor:
    axes = [torch.linspace(0, 3, n) for n in geometry.shape]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)
    return size * torch.stack([torch.sin(mesh * (n + 1) / 2 + n) for n in range(geometry.ndim)])


def chain(d: int) -> Composite:
    grid = oblique(d)
    velocity = VelocityField(smooth(grid), grid)
    field = DisplacementField(smooth(grid, 1.0), grid)
    first = Affine.translation([1.0, -2.0, 3.0][:d])
    return Composite([first, some_affine(d), velocity, Composite([some_affine(d, -0.05), field])])


def points_around(d: int, count: int = 200) -> Tensor:
    """Within and beyond the grids of the chain."""
    random = torch.Generator().manual_seed(0)
    grid = oblique(d)
    index = (torch.rand(count, d, generator=random).double() * 5 - 2) * torch.tensor(grid.shape)
    return grid.to_mm(index)


def by_itk(itk: Any, points: Tensor) -> np.ndarray:
    lps = np.array([-1.0, -1.0, 1.0])[: points.shape[1]]
    return np.array([itk.TransformPoint(tuple(p)) for p in points.numpy() * lps]) * lps


@dims
@pytest.mark.parametrize("ending", ["h5", "hdf5"])
def test_itk_maps_points_through_a_chain_as_we_do(d: int, ending: str, tmp_path: Path) -> None:
    path, whole, points = tmp_path / f"t.{ending}", chain(d), points_around(d)
    write_transform(path, whole)
    itk = sitk.ReadTransform(str(path))
    expected = whole(points).numpy()
    assert np.abs(expected - points.numpy()).max() > 5
    np.testing.assert_allclose(by_itk(itk, points), expected, atol=1e-4)
    again = read_transform(path)
    kinds = [type(part) for part in again.parts()]
    assert kinds == [Affine, DisplacementField, Affine, DisplacementField]
    np.testing.assert_allclose(again(points).numpy(), expected, atol=1e-4)


@dims
@pytest.mark.parametrize("ending", ["h5", "mat", "tfm", "txt"])
def test_itk_reads_a_single_affine_map(d: int, ending: str, tmp_path: Path) -> None:
    path, points = tmp_path / f"t.{ending}", points_around(d)
    write_transform(path, some_affine(d))
    itk = sitk.ReadTransform(str(path))
    assert "Affine" in itk.GetName()
    expected = some_affine(d)(points).numpy()
    np.testing.assert_allclose(by_itk(itk, points), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(read_transform(path)(points).numpy(), expected, atol=1e-9)


def test_a_chain_of_affine_maps_is_one(tmp_path: Path) -> None:
    whole, points = Composite([some_affine(3), some_affine(3, 0.3)]), points_around(3)
    write_transform(tmp_path / "t.mat", whole)
    itk = sitk.ReadTransform(str(tmp_path / "t.mat"))
    np.testing.assert_allclose(by_itk(itk, points), whole(points).numpy(), atol=1e-9)


@pytest.mark.parametrize("ending", ["h5", "mat"])
def test_ants_maps_points_as_we_do(ending: str, tmp_path: Path) -> None:
    ants = pytest.importorskip("ants")
    whole: Transform = chain(3) if ending == "h5" else some_affine(3)
    write_transform(tmp_path / f"t.{ending}", whole)
    theirs = ants.read_transform(str(tmp_path / f"t.{ending}"))
    points = points_around(3, 60)
    lps = np.array([-1.0, -1.0, 1.0])
    got = np.array([theirs.apply_to_point(tuple(p)) for p in points.numpy() * lps]) * lps
    np.testing.assert_allclose(got, whole(points).numpy(), atol=1e-3)


def euler(d: int) -> Any:
    if d == 2:
        return sitk.Euler2DTransform((3.0, -4.0), 0.3, (1.0, 2.0))
    return sitk.Euler3DTransform((3.0, -4.0, 9.0), 0.3, -0.2, 0.5, (1.0, 2.0, 3.0))


def euler_zyx(d: int) -> Any:
    itk = euler(d)
    if d == 3:
        itk.SetComputeZYX(True)
    return itk


def similarity(d: int) -> Any:
    if d == 2:
        return sitk.Similarity2DTransform(1.3, 0.4, (1.0, 2.0), (3.0, -4.0))
    axis, angle = (0.2, 0.5, -0.4), 0.7
    return sitk.Similarity3DTransform(1.3, axis, angle, (1.0, 2.0, 3.0), (3.0, -4.0, 9.0))


def affine(d: int) -> Any:
    itk = sitk.AffineTransform(d)
    itk.SetMatrix(tuple((np.eye(d) + 0.1 * np.arange(d * d).reshape(d, d) % 0.3).ravel()))
    itk.SetTranslation((4.0, 5.0, -6.0)[:d])
    itk.SetCenter((3.0, -4.0, 9.0)[:d])
    return itk


def versor(d: int) -> Any:
    if d == 2:
        return sitk.Euler2DTransform((3.0, -4.0), -1.3, (1.0, 2.0))
    return sitk.VersorRigid3DTransform((0.2, 0.5, -0.4), 0.7, (1.0, 2.0, 3.0), (3.0, -4.0, 9.0))


def scale(d: int) -> Any:
    itk = sitk.ScaleTransform(d, (1.2, 0.8, 1.1)[:d])
    itk.SetCenter((3.0, -4.0, 9.0)[:d])
    return itk


KINDS: dict[str, Callable[[int], Any]] = {
    "affine": affine,
    "euler": euler,
    "euler, z first": euler_zyx,
    "versor": versor,
    "similarity": similarity,
    "scale": scale,
    "translation": lambda d: sitk.TranslationTransform(d, (1.0, -2.0, 3.0)[:d]),
    "identity": lambda d: sitk.Transform(d, sitk.sitkIdentity),
}


@dims
@pytest.mark.parametrize("ending", ["h5", "tfm", "mat"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_itk_writes_is_read(kind: str, ending: str, d: int, tmp_path: Path) -> None:
    itk, path, points = KINDS[kind](d), tmp_path / f"t.{ending}", points_around(d, 20)
    if kind == "identity" and ending == "mat":
        pytest.skip("ITK writes no parameters of an identity, and then none of its file")
    sitk.WriteTransform(itk, str(path))
    np.testing.assert_allclose(read_transform(path)(points), by_itk(itk, points), atol=1e-6)


@dims
def test_a_composite_of_itk_is_read(d: int, tmp_path: Path) -> None:
    path, points = tmp_path / "t.h5", points_around(d)
    size = (9, 12, 7)[:d]
    vectors = np.random.default_rng(1).normal(size=(*reversed(size), d))
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing((2.0, 3.0, 4.0)[:d])
    image.SetOrigin((-25.0, 30.0, -10.0)[:d])
    itk = sitk.CompositeTransform([euler(d), sitk.DisplacementFieldTransform(image), affine(d)])
    sitk.WriteTransform(itk, str(path))
    found = read_transform(path)
    np.testing.assert_allclose(found(points).numpy(), by_itk(itk, points), atol=1e-5)


def test_the_names_of_older_itk_are_read(tmp_path: Path) -> None:
    """ITK before 4.12 forgot an s in two names; it still reads them itself."""
    path, whole, points = tmp_path / "t.h5", chain(3), points_around(3)
    write_transform(path, whole)
    with h5py.File(path, "r+") as file:
        for group in file["TransformGroup"].values():
            for name in ("TransformParameters", "TransformFixedParameters"):
                if name in group:
                    group.move(name, name.replace("sform", "form"))
    itk = sitk.ReadTransform(str(path))
    np.testing.assert_allclose(read_transform(path)(points), by_itk(itk, points), atol=1e-4)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    spline = sitk.BSplineTransform(3)
    spline.SetTransformDomainMeshSize((4, 4, 4))
    sitk.WriteTransform(spline, str(tmp_path / "spline.h5"))
    with pytest.raises(BadInput, match=r"spline\.h5: .*BSplineTransform"):
        read_transform(tmp_path / "spline.h5")
    with pytest.raises(BadInput, match=r"^[^:]*a\.xfm: not a transform file.*\.h5"):
        read_transform(tmp_path / "a.xfm")
    with pytest.raises(BadInput, match=r"a\.h5: there is no such file"):
        read_transform(tmp_path / "a.h5")
    for ending in ("mat", "tfm"):
        with pytest.raises(BadInput, match=rf"t\.{ending}: .*\.h5"):
            write_transform(tmp_path / f"t.{ending}", chain(3))
    with pytest.raises(BadInput, match="give the scan that it starts from"):
        write_transform(tmp_path / "t.nii.gz", chain(3))
    assert [file.name for file in tmp_path.iterdir()] == ["spline.h5"]


@pytest.mark.parametrize("ending", [".h5", ".x5"])
def test_damaged_texts_in_hdf5_neither_hang_nor_crash(ending: str, tmp_path: Path) -> None:
    """HDF5 itself never returns from some of these, and ends the process at the last."""
    grid, path = oblique(3), tmp_path / f"a{ending}"
    field = DisplacementField(smooth(grid), grid)
    write_transform(path, Composite([some_affine(3), field]), grid)
    content = path.read_bytes()
    words = [b"AffineTransform", b"DisplacementFieldTransform"]
    places = [content.index(word) - 8 for word in (words if ending == ".h5" else [b"nonlinear"])]
    damaged = []
    for at in places:  # where the length of the text stands
        damaged += [content[:at] + bytes([value]) + content[at + 1 :] for value in (0, 1, 255)]
    if ending == ".h5":
        damaged.append(content.replace(b"\x19\x01\x00\x00\x10", b"\x19\x7f\x00\x00\x10"))
    read = 0
    for file in damaged:
        path.write_bytes(file)
        with suppress(BadInput):
            read_transform(path)
            read += 1
    assert read < len(damaged)
