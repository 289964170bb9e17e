"""`warp`: transform files applied to images, labels and landmarks."""

from __future__ import annotations

import csv
import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from test_session import PLANS, importable, make_run, oblique, write_scan

from deepatlas.data.phantom import Phantom
from deepatlas.errors import BadInput
from deepatlas.inference.chain import warp
from deepatlas.inference.memory import for_chain
from deepatlas.inference.register import register
from deepatlas.io.images import read_image, read_labels, write_image, write_labels
from deepatlas.io.transforms import write_transform
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, resample

__all__ = ["importable"]  # a fixture

PHANTOM = Phantom(seed=5, shape=(44, 30, 20), spacing_mm=(0.9, 1.6, 2.1))
NETWORK = {"kind": "voxelmorph", "encoder": [4], "decoder": [4], "final": [4]}


def write_csv(path: Path, points: Tensor, **columns: list[str]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *["x", "y", "z"][: points.shape[1]]])
        for n, point in enumerate(points.tolist()):
            writer.writerow([*[values[n] for values in columns.values()], *point])
    return path


def read_csv(path: Path) -> tuple[list[dict[str, str]], Tensor]:
    rows = list(csv.DictReader(path.open()))
    names = [name for name in "xyz" if name in rows[0]]
    return rows, torch.tensor([[float(row[n]) for n in names] for row in rows]).double()


def voxels(distance: Tensor) -> Tensor:
    return (distance / torch.tensor(PHANTOM.spacing_mm).double()).norm(dim=-1)


def test_the_true_map_as_a_file_moves_landmarks(tmp_path: Path) -> None:
    write_transform(tmp_path / "true.h5", PHANTOM.true_map(moving=1, fixed=0))
    fixed, moving = (PHANTOM.landmarks_mm(index) for index in (0, 1))
    names = [f"p{n}" for n in range(len(fixed))]
    marks = write_csv(tmp_path / "marks.csv", fixed, name=names)
    result = warp([tmp_path / "true.h5"], points=marks, out=tmp_path / "there")
    rows, found = read_csv(result.files[0])
    assert [row["name"] for row in rows] == names
    assert voxels(found - moving).max() < 0.1
    assert voxels(fixed - moving).max() > 1
    back = warp([tmp_path / "true.h5"], points=result.files[0], out=tmp_path / "back", inverse=True)
    assert voxels(read_csv(back.files[0])[1] - fixed).mean() < 0.02


@pytest.mark.parametrize("between", ";\t,")
def test_landmarks_as_spreadsheets_write_them(between: str, tmp_path: Path) -> None:
    """Names in capitals and columns that have none stay."""
    write_transform(tmp_path / "t.mat", Affine.translation([1.0, 2.0, 3.0]))
    lines = [["", "Name", "Z", "X", "Y"], ["0", "tip", "3.5", "1", "2"]]
    (tmp_path / "marks.csv").write_text("".join(between.join(line) + "\n" for line in lines))
    result = warp([tmp_path / "t.mat"], points=tmp_path / "marks.csv", out=tmp_path / "out")
    assert result.files[0].read_text() == ",Name,Z,X,Y\n0,tip,6.500000,2.000000,4.000000\n"


def test_axes_of_landmarks(tmp_path: Path) -> None:
    write_transform(tmp_path / "t.mat", Affine.translation([1.0, 2.0, 3.0]))
    marks = write_csv(tmp_path / "marks.csv", torch.zeros(1, 3))
    for axes, expected in (("RAS", [1, 2, 3]), ("LPS", [-1, -2, 3])):
        result = warp([tmp_path / "t.mat"], points=marks, out=tmp_path / axes, axes=axes)
        assert read_csv(result.files[0])[1].tolist() == [expected]


def test_images_and_labels_as_simpleitk_warps_them(tmp_path: Path) -> None:
    """Through a chain of files; ids above 2**24 and the type on disk are kept."""
    fixed, moving = oblique(3), oblique(3, 1)
    random = torch.Generator().manual_seed(0)
    image = Volume(torch.rand(moving.shape, generator=random) * 100, moving)
    ids = torch.randint(2**24, 2**24 + 9, moving.shape, generator=random)
    write_image(tmp_path / "image.nii.gz", image)
    write_labels(tmp_path / "labels.nii.gz", Volume(ids, moving), "int32")
    write_scan(tmp_path / "fixed.nii.gz", fixed)
    shift = Affine.translation((moving.centre_mm - fixed.centre_mm).tolist())
    wave = torch.stack([torch.linspace(-1, 2, fixed.shape[0])] * 3)[:, :, None, None]
    field = DisplacementField.faded(wave.expand(3, *fixed.shape), fixed)
    write_transform(tmp_path / "field.h5", field)
    write_transform(tmp_path / "shift.tfm", shift)
    result = warp(
        [tmp_path / "field.h5", tmp_path / "shift.tfm"], out=tmp_path / "out",
        image=tmp_path / "image.nii.gz", labels=tmp_path / "labels.nii.gz",
        onto=tmp_path / "fixed.nii.gz",
    )  # fmt: skip
    assert [file.name for file in result.files] == ["image.nii.gz", "labels.nii.gz"]
    itk = sitk.CompositeTransform(
        [sitk.ReadTransform(str(tmp_path / name)) for name in ("shift.tfm", "field.h5")]
    )
    onto = sitk.ReadImage(str(tmp_path / "fixed.nii.gz"))
    for name, how in (("image", sitk.sitkLinear), ("labels", sitk.sitkNearestNeighbor)):
        source = sitk.ReadImage(str(tmp_path / f"{name}.nii.gz"))
        theirs = sitk.GetArrayFromImage(sitk.Resample(source, onto, itk, how)).T
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"out/{name}.nii.gz"))).T
        assert np.isclose(ours, theirs, atol=0.05).mean() > 0.995
    labels, dtype = read_labels(result.files[1])
    assert dtype == np.int32
    assert set(labels.data.unique().tolist()) <= {0, *range(2**24, 2**24 + 9)}
    expected = resample(image, fixed, Composite([field, shift]))
    torch.testing.assert_close(read_image(result.files[0]).data, expected.data, atol=0.01, rtol=0)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a onto b and b onto c, everything written."""
    folder = tmp_path_factory.mktemp("chain")
    run = make_run(folder / "run", PLANS[3], NETWORK, std=0.2)
    for name, which in (("a", 0), ("b", 1), ("c", 0)):
        write_scan(folder / f"{name}.nii.gz", oblique(3, which))
    # other bytes for c than for a
    write_image(
        folder / "c.nii.gz", Volume(torch.rand(oblique(3).shape), oblique(3)), dtype="float32"
    )
    for moving, fixed in (("a", "b"), ("b", "c")):
        paths = {"moving": folder / f"{moving}.nii.gz", "fixed": folder / f"{fixed}.nii.gz"}
        register(run, **paths, out=folder / f"{moving}-onto-{fixed}", write="all")
    return folder


def test_a_chain_is_said_in_words_and_must_close(
    registered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    marks = write_csv(tmp_path / "marks.csv", oblique(3).centre_mm[None])
    first, second = (registered / f"{name}/transform.h5" for name in ("b-onto-c", "a-onto-b"))
    with caplog.at_level(logging.INFO, logger="deepatlas"):
        warp([first, second], points=marks, out=tmp_path / "out")
    assert f"{first}: maps points of c to b" in caplog.text
    assert f"{second}: maps points of b to a" in caplog.text
    with pytest.raises(BadInput, match=r"b-onto-c.*starts at c, and .* ends at a; give the tran"):
        warp([second, first], points=marks, out=tmp_path / "other")
    back = [registered / f"{name}/inverse_transform.h5" for name in ("a-onto-b", "b-onto-c")]
    warp(back, points=tmp_path / "out/marks.csv", out=tmp_path / "back")
    apart = read_csv(tmp_path / "back/marks.csv")[1] - oblique(3).centre_mm
    assert apart.norm() < 0.05
    assert not (tmp_path / "other").exists()


def test_scans_that_were_exchanged_are_noticed(registered: Path, tmp_path: Path) -> None:
    transform = [registered / "a-onto-b/transform.h5"]
    a, b = registered / "a.nii.gz", registered / "b.nii.gz"
    with pytest.raises(
        BadInput, match=r"b\.nii\.gz: is the scan that points start from.*add --inv"
    ):
        warp(transform, image=b, onto=a, out=tmp_path / "out")
    with pytest.raises(BadInput, match=r"a\.nii\.gz: is the scan .*leave out --inverse"):
        warp(transform, image=a, onto=b, out=tmp_path / "out", inverse=True)
    write_labels(tmp_path / "labels.nii.gz", Volume(torch.ones(9, 9, 9).long(),
                 Geometry.axis_aligned((9, 9, 9), (1.0, 1.0, 1.0))), "uint8")  # fmt: skip
    with pytest.raises(BadInput, match=r"a\.nii\.gz: is the scan that points end at.*add --inv"):
        warp(transform, labels=tmp_path / "labels.nii.gz", onto=a, out=tmp_path / "out")
    with pytest.raises(BadInput, match=r"b\.nii\.gz: is the scan that points start from"):
        warp([registered / "a-onto-b/affine.mat"], image=b, onto=b, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    warp(transform, image=a, onto=a, out=tmp_path / "own-grid")
    warp(transform, image=b, onto=a, out=tmp_path / "back", inverse=True)
    warp(transform, image=a, onto=b, out=tmp_path / "there")
    moved = read_image(tmp_path / "there/a.nii.gz").data
    expected = read_image(registered / "a-onto-b/moved.nii.gz").data
    torch.testing.assert_close(moved, expected, atol=1e-3, rtol=0)


def test_the_inverse_of_one_field_on_the_fixed_grid(registered: Path, tmp_path: Path) -> None:
    """It holds the shift between the scans, and so leads out of its grid."""
    field = registered / "a-onto-b/transform.nii.gz"
    grid = oblique(3, 1)
    marks = write_csv(tmp_path / "marks.csv", grid.to_mm(torch.tensor(grid.shape) * 0.4)[None])
    there = warp([field], points=marks, out=tmp_path / "there").files[0]
    assert (read_csv(there)[1] - read_csv(marks)[1]).norm() > 3
    back = warp([field], points=there, out=tmp_path / "back", inverse=True).files[0]
    assert (read_csv(back)[1] - read_csv(marks)[1]).norm() < 0.01


def test_points_that_the_map_does_not_reach_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grid = Geometry.axis_aligned((9, 9, 9), (1.0, 1.0, 1.0))
    steps = torch.zeros(3, 9, 9, 9)
    steps[0] = 3.0
    write_transform(tmp_path / "t.h5", DisplacementField(steps, grid))
    marks = write_csv(tmp_path / "marks.csv", torch.tensor([[-3.0, 0, 0], [2.0, 0, 0]]))
    with caplog.at_level(logging.WARNING, logger="deepatlas"):
        warp([tmp_path / "t.h5"], points=marks, out=tmp_path / "out", inverse=True)
    assert "1 of 2 points lie where the map does not lead" in caplog.text


def test_a_file_that_was_changed_is_not_vouched_for(
    registered: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = registered / "a-onto-b"
    (tmp_path / "transform.json").write_bytes((source / "transform.json").read_bytes())
    write_transform(tmp_path / "transform.h5", Affine.identity(3))
    marks = write_csv(tmp_path / "marks.csv", torch.zeros(1, 3))
    with caplog.at_level(logging.WARNING, logger="deepatlas"):
        warp([tmp_path / "transform.h5"], points=marks, out=tmp_path / "out")
    assert "has changed since" in caplog.text
    for broken in ("{", "[]", json.dumps({"files": {"transform.h5": 3}})):
        (tmp_path / "transform.json").write_text(broken)
        warp([tmp_path / "transform.h5"], points=marks, out=tmp_path / "out")


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    write_transform(tmp_path / "t.h5", Affine.identity(3))
    write_transform(tmp_path / "flat.h5", Affine.identity(2))
    write_scan(tmp_path / "a.nii.gz", oblique(3))
    write_scan(tmp_path / "flat.nii.gz", oblique(2))
    marks = write_csv(tmp_path / "marks.csv", torch.zeros(2, 3))
    flat = write_csv(tmp_path / "flat.csv", torch.zeros(2, 2))
    a, t, out = tmp_path / "a.nii.gz", tmp_path / "t.h5", tmp_path / "out"
    with pytest.raises(BadInput, match="nothing to warp"):
        warp([t], out=out)
    with pytest.raises(BadInput, match="no transform given"):
        warp([], points=marks, out=out)
    with pytest.raises(BadInput, match=r"a\.nii\.gz: on which grid"):
        warp([t], image=a, out=out)
    with pytest.raises(BadInput, match=r"a\.nii\.gz: points need no grid"):
        warp([t], points=marks, onto=a, out=out)
    with pytest.raises(BadInput, match=r"a\.nii\.gz: would be overwritten"):
        warp([t], image=a, onto=a, out=tmp_path)
    (tmp_path / "other").mkdir()
    write_scan(tmp_path / "other/a.nii.gz", oblique(3))
    with pytest.raises(BadInput, match=r"a\.nii\.gz: would be overwritten"):
        warp([t], image=tmp_path / "other/a.nii.gz", onto=a, out=tmp_path)
    with pytest.raises(BadInput, match="axes of landmarks are RAS or LPS, not 'lps'"):
        warp([t], points=marks, out=out, axes="lps")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="only landmarks have axes that can be LPS"):
        warp([t], image=a, onto=a, out=out, axes="LPS")
    with pytest.raises(BadInput, match="'rubbish' is no amount of memory"):
        warp([t], points=marks, out=out, max_memory="rubbish")
    with pytest.raises(BadInput, match=r"a\.nii\.gz: two results of this name"):
        warp([t], image=a, labels=a, onto=a, out=out)
    with pytest.raises(BadInput, match=r"flat\.csv: has 2 dimensions, .*t\.h5 maps 3"):
        warp([t], points=flat, out=out)
    with pytest.raises(BadInput, match=r"flat\.nii\.gz: has 2 dimensions"):
        warp([t], image=a, onto=tmp_path / "flat.nii.gz", out=out)
    with pytest.raises(BadInput, match=r"flat\.h5: is of other dimensions than"):
        warp([t, tmp_path / "flat.h5"], points=marks, out=out)
    for text, said in (
        ("a,b\n1,2\n", "its columns are a, b; expected x, y"),
        ("", "its columns are none"),
        ("x,y,z\n1,2,3\n1,zwei,3\n", "line 3: 'zwei' in column y is no number"),
        ("x,y,z\n1,2\n", "line 2: '' in column z is no number"),
        ("x,y,z\n1,nan,3\n", "line 2: 'nan'"),
        ("x,y,z\n1,2,3,4\n", "line 2: has 4 cells, and the header 3"),
        ("x,X,y\n1,2,3\n", "two columns are called 'x'"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(BadInput, match=rf"bad\.csv[:,] {said}"):
            warp([t], points=tmp_path / "bad.csv", out=out)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfex\x00")
    with pytest.raises(BadInput, match=r"bad\.csv: is no UTF-8 text"):
        warp([t], points=tmp_path / "bad.csv", out=out)
    halves = Volume(torch.full((3, 3, 3), 0.5), Geometry((3, 3, 3), torch.eye(4)))
    write_image(tmp_path / "halves.nii.gz", halves)
    with pytest.raises(BadInput, match="27 of 27 label voxels are fractions"):
        warp([t], image=a, labels=tmp_path / "halves.nii.gz", onto=a, out=out)
    assert not out.exists()


def test_a_field_that_leads_far_away_has_no_inverse(tmp_path: Path) -> None:
    """One damaged step would make the box of the inverse fill the memory."""
    grid = Geometry.axis_aligned((9, 9, 9), (1.0, 1.0, 1.0))
    marks = write_csv(tmp_path / "marks.csv", torch.zeros(1, 3))
    for far in (3e3, 1e30):
        steps = torch.zeros(3, 9, 9, 9)
        steps[:, 4, 4, 4] = far
        write_transform(tmp_path / "t.h5", DisplacementField(steps, grid))
        with pytest.raises(BadInput, match=r"t\.h5: some steps of its field lead far away"):
            warp([tmp_path / "t.h5"], points=marks, out=tmp_path / "out", inverse=True)
    assert not (tmp_path / "out").exists()


def test_slices(tmp_path: Path) -> None:
    grid = Geometry.axis_aligned((9, 12), (1.0, 2.0))
    write_transform(tmp_path / "t.h5", Affine.translation([1.0, 0.0]))
    write_image(tmp_path / "a.nii.gz", Volume(torch.rand(9, 12), grid))
    result = warp([tmp_path / "t.h5"], image=tmp_path / "a.nii.gz",
                  onto=tmp_path / "a.nii.gz", out=tmp_path / "out")  # fmt: skip
    before = read_image(tmp_path / "a.nii.gz").data
    assert torch.allclose(read_image(result.files[0]).data[:-1], before[1:], atol=1e-5)


def test_two_fields_of_a_map_lie_side_by_side() -> None:
    grid = Geometry.axis_aligned((4, 5, 6), (1.0, 1.0, 1.0))
    one = DisplacementField(torch.zeros(3, *grid.shape), grid)
    assert for_chain(Composite([Affine.identity(3), one])) == 0
    assert for_chain(Composite([one, one])) == 2 * 4 * one.voxels.numel()
