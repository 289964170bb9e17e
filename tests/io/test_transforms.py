"""Written transforms mean to ITK what they mean here; SimpleITK is the referee."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from deepatlas.errors import BadInput
from deepatlas.io.header import read_placement
from deepatlas.io.images import write_image
from deepatlas.io.transforms import read_displacement, write_displacement
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform, resample

sitk = pytest.importorskip("SimpleITK")

FLIPS = {2: [(1, 1), (-1, 1), (-1, -1)], 3: [(1, 1, 1), (-1, 1, 1), (1, -1, -1)]}
CASES = [(d, flip) for d in (2, 3) for flip in FLIPS[d]]


def grid(d: int, flip: tuple[int, ...], turn: float = 0.4) -> Geometry:
    """Oblique, anisotropic, not cubic, off-centre, with flipped axes."""
    c, s = np.cos(turn), np.sin(turn)
    first = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, c, s], [0, -s, c]])
    affine = np.eye(d + 1)
    affine[:d, :d] = (first @ second)[:d, :d] if d == 3 else first[:2, :2]
    affine[:d, :d] = affine[:d, :d] @ np.diag(np.array([1.1, 0.8, 2.0][:d]) * flip)
    shape = (11, 14, 7)[:d]
    middle = affine[:d, :d] @ (np.array(shape) - 1) / 2
    affine[:d, d] = np.array([-20.0, 35.0, 8.0][:d]) - middle
    return Geometry(shape, torch.from_numpy(affine))


def smooth_field(geometry: Geometry, size: float = 1.0) -> DisplacementField:
    """A field of about `size` voxels, another one for each component."""
    axes = [torch.linspace(0, 3, n) for n in geometry.shape]
    mesh = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    waves = [torch.sin(mesh.sum(0) * (n + 1) / 2 + n) + 0.3 * n for n in range(geometry.ndim)]
    return DisplacementField(size * torch.stack(waves), geometry)


def some_affine(d: int) -> Affine:
    matrix = torch.eye(d + 1, dtype=torch.float64)
    matrix[:d, :d] += 0.02 * torch.tensor([[1, -2, 0.5], [2, 0, 1], [0, -1, -1]])[:d, :d]
    matrix[:d, d] = torch.tensor([1.5, -2.0, 0.7])[:d]
    return Affine(matrix)


def as_itk_reads(path: Path) -> object:
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def apply(itk: object, points_mm: Tensor) -> np.ndarray:
    """RAS points through an ITK transform, which speaks LPS."""
    signs = np.array([-1, -1, 1][: points_mm.shape[-1]])
    flat = points_mm.reshape(-1, points_mm.shape[-1]).numpy() * signs
    return np.array([itk.TransformPoint(p.tolist()) for p in flat]) * signs


@pytest.mark.parametrize(("d", "flip"), CASES)
def test_itk_moves_points_as_we_do(tmp_path: Path, d: int, flip: tuple[int, ...]) -> None:
    fixed = grid(d, flip)
    field = smooth_field(fixed)
    write_displacement(tmp_path / "t.nii.gz", field, fixed)
    itk = as_itk_reads(tmp_path / "t.nii.gz")
    random = torch.Generator().manual_seed(0)
    inside = torch.rand((50, d), generator=random, dtype=torch.float64)
    points = fixed.to_mm(inside * (torch.tensor(fixed.shape) - 1.001))
    ours = field(points)
    assert (ours - points).norm(dim=-1).max() > 0.5
    np.testing.assert_allclose(apply(itk, points), ours, atol=1e-4)


@pytest.mark.parametrize(("d", "flip"), CASES)
def test_itk_resamples_an_image_as_we_do(tmp_path: Path, d: int, flip: tuple[int, ...]) -> None:
    fixed, other = grid(d, flip), grid(d, (1, -1, 1)[:d], turn=-0.2)
    moving = Geometry((13, 10, 9)[:d], other.affine)
    random = torch.Generator().manual_seed(1)
    image = Volume(torch.rand(moving.shape, generator=random), moving)
    transform = Composite([some_affine(d), smooth_field(moving, 0.6)])
    write_image(tmp_path / "moving.nii", image)
    write_image(tmp_path / "fixed.nii", Volume(torch.zeros(fixed.shape), fixed))
    write_displacement(tmp_path / "t.nii.gz", transform, fixed, like=tmp_path / "fixed.nii")
    read = {n: sitk.ReadImage(str(tmp_path / f"{n}.nii")) for n in ("moving", "fixed")}
    itk = as_itk_reads(tmp_path / "t.nii.gz")
    moved = sitk.Resample(read["moving"], read["fixed"], itk, sitk.sitkLinear, 0.0)
    ours = resample(image, fixed, transform).data
    index = moving.to_index(transform(fixed.points_mm()))
    inside = ((index >= 0) & (index <= torch.tensor(moving.shape) - 1)).all(-1)
    assert inside.float().mean() > 0.2
    theirs = torch.from_numpy(sitk.GetArrayFromImage(moved).transpose().copy())
    np.testing.assert_allclose(theirs[inside], ours[inside], atol=2e-4)


@pytest.mark.parametrize(("d", "flip"), CASES)
def test_round_trip(tmp_path: Path, d: int, flip: tuple[int, ...]) -> None:
    fixed = grid(d, flip)
    transform = Composite([some_affine(d), smooth_field(fixed)])
    write_displacement(tmp_path / "t.nii.gz", transform, fixed)
    back = read_displacement(tmp_path / "t.nii.gz")
    assert back.geometry.same_as(fixed)
    points = fixed.points_mm()
    np.testing.assert_allclose(back(points), transform(points), atol=1e-4)


@pytest.mark.parametrize("d", [2, 3])
def test_the_file_is_as_itk_writes_it(tmp_path: Path, d: int) -> None:
    fixed = grid(d, FLIPS[d][1])
    image = nib.Nifti1Image(np.zeros(fixed.shape, "f4"), None)
    affine = np.eye(4)
    affine[np.ix_([*range(d), 3], [*range(d), 3])] = fixed.affine
    image.header.set_qform(affine, 1)
    image.header.set_sform(affine, 2)
    image.to_filename(tmp_path / "fixed.nii.gz")
    write_displacement(tmp_path / "t.nii.gz", some_affine(d), fixed, tmp_path / "fixed.nii.gz")
    written = nib.load(tmp_path / "t.nii.gz")
    assert written.shape == (*fixed.shape, *[1] * (4 - d), d)
    assert written.get_data_dtype() == np.float32
    header = written.header
    assert int(header["intent_code"]) == 1007
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 2)
    for name in ("quatern_b", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        np.testing.assert_array_equal(header[name], image.header[name])
    assert header.get_xyzt_units()[0] == "mm"


def test_large_grids_are_written_in_slabs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = grid(3, (1, 1, 1))
    write_displacement(tmp_path / "whole.nii.gz", smooth_field(fixed), fixed)
    slabs = Geometry.slabs
    monkeypatch.setattr(Geometry, "slabs", lambda self: slabs(self, 300))
    write_displacement(tmp_path / "slabs.nii.gz", smooth_field(fixed), fixed)
    first, second = (nib.load(tmp_path / f"{n}.nii.gz").get_fdata() for n in ("whole", "slabs"))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_other_units_and_no_codes_fit_itk_too(tmp_path: Path) -> None:
    for name, unit, code in (("micron", "micron", 1), ("none", "mm", 0)):
        image = nib.Nifti1Image(np.zeros((6, 5, 4), "f4"), None)
        image.header.set_qform(np.diag([1.5, 2, 3, 1]) * 1000 ** (name == "micron"), code)
        image.header.set_xyzt_units(unit)
        image.to_filename(tmp_path / f"{name}.nii")
        seen = sitk.ReadImage(str(tmp_path / f"{name}.nii"))
        write_displacement(
            tmp_path / "t.nii.gz",
            Affine.translation([1.0, 2.0, 3.0]),
            read_placement(nib.load(tmp_path / f"{name}.nii").header, name),
            like=tmp_path / f"{name}.nii",
        )
        lps = seen.TransformContinuousIndexToPhysicalPoint((2.5, 2.0, 1.5))
        moved = np.array(as_itk_reads(tmp_path / "t.nii.gz").TransformPoint(lps)) - lps
        np.testing.assert_allclose(moved, (-1, -2, 3), atol=1e-5)


def test_a_slice_of_another_plane_gets_a_field_that_itk_reads(tmp_path: Path) -> None:
    coronal = np.array([[1.0, 0, 0, 5], [0, 0, 3, 9], [0, 2, 0, 7], [0, 0, 0, 1]])
    nib.Nifti1Image(np.zeros((6, 5, 1), "f4"), coronal).to_filename(tmp_path / "c.nii")
    fixed = read_placement(nib.load(tmp_path / "c.nii").header, "c")
    write_displacement(
        tmp_path / "t.nii.gz", Affine.translation([1.0, 2.0]), fixed, like=tmp_path / "c.nii"
    )
    point = fixed.to_mm(torch.tensor([[2.0, 3.0]]))
    np.testing.assert_allclose(
        apply(as_itk_reads(tmp_path / "t.nii.gz"), point), point + torch.tensor([1.0, 2.0])
    )
    assert read_displacement(tmp_path / "t.nii.gz").geometry.same_as(fixed)


@pytest.mark.parametrize(
    ("shape", "intent", "why"),
    [
        ((4, 5, 6), 1007, "4x5x6 values; expected"),
        ((4, 5, 6, 1, 2), 1007, "expected a displacement field"),
        ((4, 5, 1, 1, 3), 1007, "expected a displacement field"),
        ((4, 5, 6, 3), 1007, "expected a displacement field"),
        ((4, 5, 6, 1, 3), 1005, "its intent is 1005"),
        ((4, 5, 1, 1, 2), 1006, "a 2-D field of intent 1006"),
    ],
)
def test_files_that_are_no_field_are_refused(
    tmp_path: Path, shape: tuple[int, ...], intent: int, why: str
) -> None:
    image = nib.Nifti1Image(np.zeros(shape, "f4"), np.eye(4))
    image.header["intent_code"] = intent
    image.to_filename(tmp_path / "t.nii.gz")
    with pytest.raises(BadInput, match=why):
        read_displacement(tmp_path / "t.nii.gz")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_steps_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    steps = np.zeros((4, 5, 6, 1, 3), "f4")
    steps[1, 2, 3] = value
    image = nib.Nifti1Image(steps, np.eye(4))
    image.header["intent_code"] = 1007
    image.to_filename(tmp_path / "t.nii.gz")
    with pytest.raises(BadInput, match=r"t\.nii\.gz: has steps that are NaN or infinite"):
        read_displacement(tmp_path / "t.nii.gz")


def test_transforms_are_not_changed_by_writing(tmp_path: Path) -> None:
    fixed = grid(3, (1, 1, 1))
    field: Transform = smooth_field(fixed)
    before = field(fixed.points_mm())
    for _ in range(2):
        write_displacement(tmp_path / "t.nii.gz", field, fixed)
    assert torch.equal(field(fixed.points_mm()), before)
    np.testing.assert_allclose(
        read_displacement(tmp_path / "t.nii.gz")(fixed.points_mm()), before, atol=1e-4
    )


@pytest.mark.parametrize("intent", [1006, 1007])
@pytest.mark.parametrize(("d", "flip"), [case for case in CASES if case[0] == 3])
def test_intents_are_read_as_itk_reads_them(
    d: int, flip: tuple[int, ...], intent: int, tmp_path: Path
) -> None:
    """The same numbers are LPS under one intent and RAS under the other."""
    fixed, path = grid(d, flip), tmp_path / "t.nii.gz"
    write_displacement(path, smooth_field(fixed), fixed)
    image = nib.load(path)
    image.header["intent_code"] = intent
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(path)
    assert int(nib.load(path).header["intent_code"]) == intent
    points = fixed.points_mm().reshape(-1, d)[::11]
    np.testing.assert_allclose(
        read_displacement(path)(points).numpy(), apply(as_itk_reads(path), points), atol=1e-3
    )
