"""FSL's matrices by hand, Learn2Reg's fields by its own evaluation, and `convert` between files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from deepatlas.errors import BadInput
from deepatlas.inference.chain import convert
from deepatlas.io.images import write_image
from deepatlas.io.transforms import FOREIGN, read_transform, write_transform
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform, resample


def grid(flip: int, shape: tuple[int, ...] = (10, 12, 8)) -> Geometry:
    """Spacing 2, 3, 4; `flip` -1 for radiological storage, a negative determinant."""
    affine = torch.diag(torch.tensor([2.0 * flip, 3.0, 4.0, 1.0]).double())
    affine[:3, 3] = torch.tensor([-5.0, 7.0, 11.0])
    return Geometry(shape, affine)


@pytest.mark.parametrize(
    ("moving", "fixed", "expected"),
    [
        # radiological: FSL's mm are voxel * spacing, so RAS +1 along x is -1 in FSL's first axis
        (-1, -1, [[1, 0, 0, 1], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1]]),
        # neurological: FSL counts from the other end, so again RAS +1 is -1
        (1, 1, [[1, 0, 0, 1], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1]]),
        # moving neurological: RAS x of -5 is FSL 18; fixed radiological: RAS x of -5 is FSL 0;
        # moving RAS x = fixed RAS x + 1, so FSL fixed = FSL moving - 18 + 1
        (1, -1, [[1, 0, 0, -17], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1]]),
        (-1, 1, [[1, 0, 0, 19], [0, 1, 0, -2], [0, 0, 1, -3], [0, 0, 0, 1]]),
    ],
)
def test_fsl_matrices_by_hand(
    moving: int, fixed: int, expected: list[list[float]], tmp_path: Path
) -> None:
    """A shift by (1, 2, 3) mm from fixed to moving, in both storage orders of either scan."""
    grids = {"moving": grid(moving), "fixed": grid(fixed)}
    path = tmp_path / "flirt.mat"
    FOREIGN["fsl"].write(path, Affine.translation([1.0, 2.0, 3.0]), **grids)
    np.testing.assert_allclose(np.loadtxt(path), expected, atol=1e-9)
    back = FOREIGN["fsl"].read(path, **grids)
    points = torch.rand(20, 3).double() * 50
    torch.testing.assert_close(back(points), points + torch.tensor([1.0, 2.0, 3.0]).double())


def test_a_turn_for_fsl_by_hand(tmp_path: Path) -> None:
    """A quarter turn about z, R to A, in radiological storage: FSL's x and y, x counted left."""
    turn = torch.tensor([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).double()
    cube = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]).double())
    grids = {"moving": Geometry((9, 9, 9), cube), "fixed": Geometry((9, 9, 9), cube)}
    FOREIGN["fsl"].write(tmp_path / "t.mat", Affine(turn), **grids)
    # fixed R -> moving A, so moving A (FSL +y) -> fixed R (FSL -x); moving R (FSL -x) -> fixed -A
    expected = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(np.loadtxt(tmp_path / "t.mat"), expected, atol=1e-12)


def wave(geometry: Geometry) -> DisplacementField:
    lines = torch.stack([torch.sin(torch.linspace(0, 3, geometry.shape[0]) + n) for n in range(3)])
    return DisplacementField(lines[:, :, None, None].expand(3, *geometry.shape) * 1.4, geometry)


@pytest.mark.parametrize("flip", [1, -1])
def test_learn2reg_warps_as_we_do(flip: int, tmp_path: Path) -> None:
    """Its evaluation: map_coordinates(moving, identity + disp), on arrays, without headers."""
    moving, fixed, path = grid(1), grid(flip), tmp_path / "disp_0001_0002.nii.gz"
    centred = Affine.translation((moving.centre_mm - fixed.centre_mm).tolist())
    whole = Composite([wave(fixed), centred])
    FOREIGN["learn2reg"].write(path, whole, moving=moving, fixed=fixed)
    disp = nib.load(path).get_fdata()
    assert disp.shape == (*fixed.shape, 3)
    random = torch.Generator().manual_seed(0)
    image = Volume(torch.rand(moving.shape, generator=random), moving)
    identity = np.stack(np.meshgrid(*[np.arange(n) for n in fixed.shape], indexing="ij"))
    theirs = map_coordinates(image.data.numpy(), identity + np.moveaxis(disp, -1, 0), order=1)
    ours = resample(image, fixed, whole).data.numpy()
    inner = (slice(3, -3), slice(3, -3), slice(3, -3))
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-4)
    back = FOREIGN["learn2reg"].read(path, moving=moving, fixed=fixed)
    points = fixed.points_mm()
    torch.testing.assert_close(back(points), whole(points), atol=1e-3, rtol=0)


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, Path]:
    for name, flip in (("moving", 1), ("fixed", -1)):
        geometry = grid(flip)
        write_image(tmp_path / f"{name}.nii.gz", Volume(torch.zeros(geometry.shape), geometry))
    return {name: tmp_path / f"{name}.nii.gz" for name in ("moving", "fixed")}


def test_convert_keeps_the_map(scans: dict[str, Path], tmp_path: Path) -> None:
    """Through every format and back, forwards and inverse."""
    affine: Transform = Affine.translation([1.0, -2.0, 3.0])
    whole = Composite([wave(grid(-1)), affine])
    write_transform(tmp_path / "chain.h5", whole)
    write_transform(tmp_path / "affine.tfm", affine)
    points = grid(-1).points_mm()
    for name, source, expected, more in (
        ("a.mat", "affine.tfm", affine, {}),
        ("a.h5", "affine.tfm", affine, {}),
        ("b.h5", "chain.h5", whole, {}),
        ("b.nii.gz", "chain.h5", whole, {"fixed": scans["fixed"]}),
        ("flirt.mat", "affine.tfm", affine, {**scans, "write_as": "fsl"}),
        ("disp.nii.gz", "chain.h5", whole, {**scans, "write_as": "learn2reg"}),
    ):
        convert([tmp_path / source], out=tmp_path / name, **more)
        form = more.get("write_as")
        if form is None:
            found = read_transform(tmp_path / name)
        else:
            back = {**scans, "read_as": form}
            convert([tmp_path / name], out=tmp_path / "again.h5", **back)
            found = read_transform(tmp_path / "again.h5")
        torch.testing.assert_close(found(points), expected(points), atol=2e-3, rtol=0)
    convert([tmp_path / "affine.tfm"], out=tmp_path / "i.tfm", inverse=True)
    moved = read_transform(tmp_path / "i.tfm")(affine(points))
    torch.testing.assert_close(moved, points)
    start = {"moving": scans["moving"]}
    convert([tmp_path / "chain.h5"], out=tmp_path / "i.nii.gz", inverse=True, **start)
    assert read_transform(tmp_path / "i.nii.gz").parts()[0].geometry.same_as(grid(1))  # type: ignore[union-attr]


def test_what_cannot_be_converted_is_said(scans: dict[str, Path], tmp_path: Path) -> None:
    write_transform(tmp_path / "chain.h5", wave(grid(-1)))
    chain = [tmp_path / "chain.h5"]
    with pytest.raises(BadInput, match=r"t\.mat: an FSL matrix holds an affine map"):
        convert(chain, out=tmp_path / "t.mat", write_as="fsl", **scans)
    with pytest.raises(BadInput, match="files of fsl need the grids of both scans"):
        convert(chain, out=tmp_path / "t.mat", write_as="fsl", fixed=scans["fixed"])
    with pytest.raises(BadInput, match=r"t\.nii\.gz: a field lies on a grid"):
        convert(chain, out=tmp_path / "t.nii.gz")
    with pytest.raises(BadInput, match=r"2 files of fsl between the same two scans; give one"):
        convert([*chain, *chain], out=tmp_path / "t.h5", read_as="fsl", **scans)
    with pytest.raises(BadInput, match=r"fixed\.nii\.gz: would be overwritten"):
        convert(chain, out=scans["fixed"], **scans)
    with pytest.raises(BadInput, match=r"chain\.h5: would be overwritten"):
        convert(chain, out=chain[0])
    with pytest.raises(BadInput, match="no form 'spm'"):
        convert(chain, out=tmp_path / "t.h5", write_as="spm")
    other = grid(1, (9, 12, 8))
    write_image(tmp_path / "other.nii.gz", Volume(torch.zeros(other.shape), other))
    with pytest.raises(BadInput, match="grids of one shape"):
        convert(
            chain, out=tmp_path / "t.nii.gz", write_as="learn2reg",
            moving=tmp_path / "other.nii.gz", fixed=scans["fixed"],
        )  # fmt: skip
    for text in ("", "1 2 3", "a b c d\n" * 4, "0 0 0 0\n" * 4, "nan 0 0 0\n" * 4):
        (tmp_path / "bad.mat").write_text(text)
        with pytest.raises(BadInput, match=r"bad\.mat: not a FLIRT matrix"):
            convert([tmp_path / "bad.mat"], out=tmp_path / "t.h5", read_as="fsl", **scans)
    with pytest.raises(BadInput, match=r"fixed\.nii\.gz: has .* expected .*one step in voxels"):
        convert([scans["fixed"]], out=tmp_path / "t.h5", read_as="learn2reg", **scans)
    assert not (tmp_path / "t.h5").exists()


@pytest.mark.parametrize("form", FOREIGN)
def test_maps_and_scans_of_other_dimensions(
    form: str, scans: dict[str, Path], tmp_path: Path
) -> None:
    slices = {name: tmp_path / f"{name}_slice.nii.gz" for name in scans}
    for path in slices.values():
        write_image(path, Volume(torch.zeros(5, 6), Geometry.axis_aligned((5, 6), (1.0, 1.0))))
    write_transform(tmp_path / "flat.tfm", Affine.identity(2))
    write_transform(tmp_path / "space.tfm", Affine.identity(3))
    out = tmp_path / "out" / "t.nii.gz"
    for name, pair in (
        ("flat", scans), ("space", slices), ("space", {**scans, "moving": slices["moving"]}),
    ):  # fmt: skip
        with pytest.raises(BadInput, match="dimensions"):
            convert([tmp_path / f"{name}.tfm"], out=out, write_as=form, **pair)
    assert not out.parent.exists()


def test_files_of_a_prefix_are_not_overwritten(scans: dict[str, Path], tmp_path: Path) -> None:
    write_transform(tmp_path / "affine.tfm", Affine.identity(3))
    convert([tmp_path / "affine.tfm"], out=tmp_path / "p_", write_as="ants", **scans)
    with pytest.raises(BadInput, match=r"p_1Warp\.nii\.gz: would be overwritten"):
        convert([tmp_path / "p_"], out=tmp_path / "p_1Warp.nii.gz", read_as="ants")


def test_files_of_ants_are_read_without_the_scans(scans: dict[str, Path], tmp_path: Path) -> None:
    write_transform(tmp_path / "affine.tfm", Affine.translation([1.0, 2.0, 3.0]))
    convert([tmp_path / "affine.tfm"], out=tmp_path / "p_", write_as="ants", **scans)
    convert([tmp_path / "p_"], out=tmp_path / "back.h5", read_as="ants")
    points = grid(-1).points_mm()[3:-3, 3:-3, 3:-3]
    expected = points + torch.tensor([1.0, 2.0, 3.0]).double()
    torch.testing.assert_close(read_transform(tmp_path / "back.h5")(points), expected)


@pytest.mark.parametrize(
    ("given", "unused", "more"),
    [
        (("moving", "fixed"), "moving", {"out": "b.h5"}),
        (("fixed",), "fixed", {"out": "b.h5"}),
        (("moving", "fixed"), "moving", {"out": "b.nii.gz"}),
        (("moving", "fixed"), "fixed", {"out": "b.nii.gz", "inverse": True}),
        (("moving", "fixed"), "moving", {"out": "b.h5", "read_as": "ants"}),
    ],
)
def test_scans_that_nothing_needs(
    given: tuple[str, ...],
    unused: str,
    more: dict[str, Any],
    scans: dict[str, Path],
    tmp_path: Path,
) -> None:
    write_transform(tmp_path / "a.tfm", Affine.identity(3))
    out = tmp_path / more.pop("out")
    with pytest.raises(BadInput, match=rf"{unused}\.nii\.gz: nothing needs the grid"):
        convert([tmp_path / "a.tfm"], out=out, **{name: scans[name] for name in given}, **more)
    assert not out.exists()


def test_a_map_without_an_inverse_is_none_for_ants(scans: dict[str, Path], tmp_path: Path) -> None:
    steps = torch.zeros(3, *grid(-1).shape)
    steps[:, 4, 4, 4] = 3e3
    write_transform(tmp_path / "far.h5", DisplacementField(steps, grid(-1)))
    with pytest.raises(BadInput, match=r"p_: some steps of its field lead far away.*write \.h5"):
        convert([tmp_path / "far.h5"], out=tmp_path / "p_", write_as="ants", **scans)
    assert not list(tmp_path.glob("p_*"))


def test_files_of_other_families_are_told_how_to_read(
    scans: dict[str, Path], tmp_path: Path
) -> None:
    write_transform(tmp_path / "affine.tfm", Affine.identity(3))
    for form, name in (("fsl", "flirt.mat"), ("learn2reg", "disp_0001_0002.nii.gz")):
        convert([tmp_path / "affine.tfm"], out=tmp_path / name, write_as=form, **scans)
        with pytest.raises(BadInput, match=f"--from {form}"):
            read_transform(tmp_path / name)


def chain(fixed: Geometry, moving: Geometry) -> Composite:
    """A field between two affine maps, as `register` finds them."""
    turn = torch.eye(4).double()
    turn[:3, :3] += torch.tensor([[0.02, -0.1, 0.03], [0.1, 0.05, 0.0], [0.0, 0.04, -0.06]])
    inner = DisplacementField.faded(wave(fixed).voxels * 0.4, fixed)
    turn[:3, 3] = moving.centre_mm - turn[:3, :3] @ fixed.centre_mm
    return Composite([Affine.translation([1.0, -2.0, 0.5]), inner, Affine(turn)])


def test_ants_applies_files_of_a_prefix(tmp_path: Path) -> None:
    """antsApplyTransforms, in its own order of files; the inverse is looked at by points."""
    ants = pytest.importorskip("ants")
    moving, fixed = grid(1, (22, 20, 17)), grid(-1, (21, 24, 16))
    whole, prefix = chain(fixed, moving), tmp_path / "pair1_"
    FOREIGN["ants"].write(prefix, whole, moving=moving, fixed=fixed)
    affine, warp, inverse = (str(path) for path in FOREIGN["ants"].files(prefix))
    lines = [torch.linspace(0, 2, n) for n in moving.shape]
    image = Volume(sum(torch.meshgrid(*[x.sin() for x in lines], indexing="ij")).float(), moving)
    write_image(tmp_path / "moving.nii.gz", image)
    write_image(tmp_path / "fixed.nii.gz", Volume(torch.zeros(fixed.shape), fixed))
    scans = [ants.image_read(str(tmp_path / f"{name}.nii.gz")) for name in ("fixed", "moving")]
    theirs = ants.apply_transforms(*scans, transformlist=[warp, affine])
    ours = resample(image, fixed, whole).data
    inside = (ours > 0).numpy() & (theirs.numpy() > 0)
    assert inside.mean() > 0.3
    assert np.abs(theirs.numpy() - ours.numpy())[inside].mean() < 1e-3 * float(image.data.max())
    back = FOREIGN["ants"].read(prefix)
    inner = fixed.points_mm()[4:-4, 4:-4, 4:-4].reshape(-1, 3)
    torch.testing.assert_close(back(inner), whole(inner), atol=1e-4, rtol=0)
    moved = whole(inner)
    returned = read_transform(Path(inverse))(Affine.inverse(read_transform(Path(affine)))(moved))
    assert float((returned - inner).norm(dim=-1).mean()) < 0.05


def test_nitransforms_reads_x5(tmp_path: Path) -> None:
    linear, nonlinear = (pytest.importorskip(f"nitransforms.{n}") for n in ("linear", "nonlinear"))
    fixed = grid(1, (21, 24, 16))
    whole = chain(fixed, fixed)
    matrix = whole.transforms[2]
    write_transform(tmp_path / "whole.x5", whole, fixed)
    write_transform(tmp_path / "affine.x5", matrix, fixed)
    points = fixed.points_mm()[3:-3, 3:-3, 3:-3].reshape(-1, 3)
    read = {
        "whole": (nonlinear.DenseFieldTransform.from_filename(tmp_path / "whole.x5"), whole),
        "affine": (linear.Affine.from_filename(tmp_path / "affine.x5", fmt="X5"), matrix),
    }
    for name, (theirs, ours) in read.items():
        np.testing.assert_allclose(theirs.map(points.numpy()), ours(points), atol=1e-3)
        again = read_transform(tmp_path / f"{name}.x5")
        torch.testing.assert_close(again(points), ours(points), atol=1e-3, rtol=0)


def test_other_files_are_no_x5(tmp_path: Path) -> None:
    fixed = grid(1)
    with pytest.raises(BadInput, match=r"t\.x5: a field lies on a grid"):
        write_transform(tmp_path / "t.x5", wave(fixed))
    write_transform(tmp_path / "t.h5", Composite([wave(fixed), Affine.identity(3)]))
    (tmp_path / "t.h5").rename(tmp_path / "t.x5")
    with pytest.raises(BadInput, match=r"t\.x5: (holds|damaged)"):
        read_transform(tmp_path / "t.x5")


def test_an_x5_matrix_without_inverse(tmp_path: Path) -> None:
    matrix = torch.eye(4).double()
    for number in (0.0, float("nan")):
        matrix[0, 0] = number
        write_transform(tmp_path / "t.x5", Affine(matrix), grid(1))
        with pytest.raises(BadInput, match=r"t\.x5: damaged"):
            read_transform(tmp_path / "t.x5")
