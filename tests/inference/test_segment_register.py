"""The files that `segment` and `register` write, read back with nibabel and SimpleITK."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import struct
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from test_session import (
    PLANS,
    VALUES,
    anatomy,
    flipped,
    importable,
    make_run,
    ndim,
    oblique,
    write_scan,
)

from deepatlas.errors import BadInput
from deepatlas.inference.chain import convert, warp
from deepatlas.inference.register import register, write_registration
from deepatlas.inference.segment import segment
from deepatlas.inference.volume_change import jacobian
from deepatlas.io.images import read_image, read_labels, write_image, write_labels
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, DisplacementField, Transform

__all__ = ["importable", "ndim"]  # fixtures


def header(path: Path) -> dict[str, Any]:
    head = nib.load(path).header
    names = ("sform_code", "qform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "pixdim")
    return {name: np.asarray(head[name]).tolist() for name in names}


def odd_header(path: Path) -> None:
    """Another code and unit than this package would choose."""
    image = nib.load(path)
    affine = image.affine
    image.set_sform(affine, 4)
    image.set_qform(affine, 2)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)


def textured(grid: Geometry, seed: int) -> Volume:
    """The anatomy with smooth texture, so that every voxel says where it is."""
    image, _ = anatomy(grid)
    points = grid.points_mm() - grid.centre_mm
    waves = torch.sin(points / (3.0 + seed)).sum(-1).float()
    return Volume(image.data + 200 * waves, grid)


# --- segment ------------------------------------------------------------------------------------


def test_segmentations_lie_on_their_scans(ndim: int, tmp_path: Path) -> None:
    """Each with its scan's header, the cohort's values, and their integer type."""
    grids = {"a": flipped(ndim), "b_0000": oblique(ndim)}
    for name, grid in grids.items():
        write_scan(tmp_path / f"{name}.nii.gz", grid)
        odd_header(tmp_path / f"{name}.nii.gz")
    told: list[tuple[int, int]] = []
    paths = [tmp_path / f"{name}.nii.gz" for name in grids]
    run = make_run(tmp_path / "run", PLANS[ndim])
    out = tmp_path / "new" / "out"
    written = segment(run, paths, out=out, progress=lambda done, total: told.append((done, total)))
    assert written == [out / "a.nii.gz", out / "b.nii.gz"]
    assert sorted(out.iterdir()) == written
    assert told == [(1, 2), (2, 2)]
    for path, result, grid in zip(paths, written, grids.values(), strict=True):
        labels, dtype = read_labels(result)
        assert dtype == np.dtype("int16")
        assert set(labels.data.unique().tolist()) == {0, *VALUES}
        assert labels.geometry.same_as(grid)
        assert header(result) == header(path)
    assert torch.equal(read_labels(written[0])[0].data, anatomy(grids["a"])[1].data)


def test_two_inputs_of_one_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    paths = [tmp_path / "x" / "a.nii.gz", tmp_path / "y" / "a_0000.nii", tmp_path / "b.nii"]
    write_scan(tmp_path / "x" / "a.nii.gz", oblique(2))
    with pytest.raises(BadInput, match=r"x/a\.nii\.gz.*y/a_0000\.nii: would all be written to a\."):
        segment(run, paths, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scan_is_never_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(tmp_path / "in" / name, oblique(2))
    (tmp_path / "link").symlink_to(tmp_path / "in")
    content = (tmp_path / "in" / "b.nii.gz").read_bytes()
    paths = [tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "b.nii.gz"]
    with pytest.raises(BadInput, match=r"b\.nii\.gz: would be overwritten by") as caught:
        segment(run, paths, out=tmp_path / "link")
    assert len(caught.value.faults) == 2
    assert (tmp_path / "in" / "b.nii.gz").read_bytes() == content


def test_manual_labels_of_the_cohort_are_never_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    cohort = tmp_path / "cohort"
    _, labels = write_scan(cohort / "images" / "a.nii.gz", flipped(2))
    write_scan(cohort / "images" / "b.nii.gz", flipped(2))
    write_labels(cohort / "labels" / "a.nii.gz", labels, "int16")
    run.write("split.json", {"cohort": str(cohort)})
    with pytest.raises(BadInput, match=r"labels/a\.nii\.gz: a manual label map would be"):
        segment(run, [cohort / "images" / "a.nii.gz"], out=cohort / "labels")
    for _ in range(2):  # a prediction may be replaced
        segment(run, [cohort / "images" / "b.nii.gz"], out=cohort / "predictions")


def test_a_missing_scan_is_said_before_anything_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    write_scan(tmp_path / "a.nii.gz", oblique(2))
    paths = [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "c.nii.gz"]
    with pytest.raises(BadInput) as caught:
        segment(run, paths, out=tmp_path / "out")
    assert [fault.split(": ")[1] for fault in caught.value.faults] == [
        "there is no such file; check the path"
    ] * 2
    assert not (tmp_path / "out").exists()


def test_a_run_without_the_network(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    write_scan(tmp_path / "a.nii.gz", oblique(2))
    (run.path / "segmentation.safetensors").unlink()
    with pytest.raises(BadInput, match="has no segmentation network"):
        segment(run, [tmp_path / "a.nii.gz"], out=tmp_path / "out")
    (run.path / "registration.safetensors").unlink()
    with pytest.raises(BadInput, match="no trained network yet"):
        register(run, moving=tmp_path / "a.nii.gz", fixed=tmp_path / "a.nii.gz", out=tmp_path)


# --- register -----------------------------------------------------------------------------------


def test_a_scan_onto_itself_is_itself(ndim: int, tmp_path: Path) -> None:
    """Untrained, an oblique anisotropic scan passes through the working grid and comes back."""
    run = make_run(tmp_path / "run", PLANS[ndim])
    path = tmp_path / "a.nii.gz"
    grid = oblique(ndim)
    write_image(path, textured(grid, 0))
    write_labels(tmp_path / "labels.nii.gz", anatomy(grid)[1], "uint16")
    odd_header(path)
    result = register(
        run, moving=path, fixed=path, out=tmp_path / "out", moving_labels=tmp_path / "labels.nii.gz"
    )
    moved = read_image(result.moved)
    assert torch.equal(moved.data, read_image(path).data)
    assert nib.load(result.moved).get_data_dtype() == np.float32
    assert header(result.moved) == header(path)
    assert result.moved_labels is not None
    labels, dtype = read_labels(result.moved_labels)
    assert dtype == np.uint16
    assert torch.equal(labels.data, anatomy(grid)[1].data)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "affine.mat", "moved.nii.gz", "moved_labels.nii.gz", "transform.h5", "transform.json",
    ]  # fmt: skip
    assert sorted(result.files) == sorted((tmp_path / "out").iterdir())


def test_a_moved_scan_is_found_again(ndim: int, tmp_path: Path) -> None:
    """The same anatomy on two other grids: centre on centre, so labels nearly coincide."""
    run = make_run(tmp_path / "run", PLANS[ndim])
    fixed, moving = oblique(ndim, 0), flipped(ndim)
    write_image(tmp_path / "fixed.nii.gz", textured(fixed, 0))
    write_image(tmp_path / "moving.nii.gz", textured(moving, 0))
    write_labels(tmp_path / "labels.nii.gz", anatomy(moving)[1], "int16")
    result = register(
        run, moving=tmp_path / "moving.nii.gz", fixed=tmp_path / "fixed.nii.gz",
        out=tmp_path / "out", moving_labels=tmp_path / "labels.nii.gz",
    )  # fmt: skip
    assert result.moved_labels is not None
    labels, expected = read_labels(result.moved_labels)[0], anatomy(fixed)[1]
    assert labels.geometry.same_as(fixed)
    for value in VALUES:
        a, b = labels.data == value, expected.data == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8


@pytest.mark.parametrize("form", ["chain", "field"])
@pytest.mark.parametrize("velocity", [True, False])
def test_simpleitk_applies_the_transform(
    velocity: bool, form: str, ndim: int, tmp_path: Path
) -> None:
    """On oblique scans, and away from the border, within a thousandth of the range."""
    network = {"kind": "voxelmorph", "encoder": [4], "decoder": [4], "final": [4],
               "velocity": velocity}  # fmt: skip
    run = make_run(tmp_path / "run", PLANS[ndim], network, std=0.3)
    fixed, moving = oblique(ndim, 0), oblique(ndim, 1)
    if ndim == 2:  # ITK's slices lie in the plane of the first two axes, as these do
        fixed, moving = Geometry((26, 22), fixed.affine), Geometry((28, 20), moving.affine)
    write_image(tmp_path / "fixed.nii.gz", textured(fixed, 0))
    write_image(tmp_path / "moving.nii.gz", textured(moving, 1))
    paths = {name: tmp_path / f"{name}.nii.gz" for name in ("moving", "fixed")}
    result = register(run, **paths, out=tmp_path / "out", write="all")
    itk_fixed = sitk.ReadImage(str(paths["fixed"]))
    itk_moving = sitk.ReadImage(str(paths["moving"]), sitk.sitkFloat64)
    if form == "field":
        field = sitk.ReadImage(str(tmp_path / "out/transform.nii.gz"), sitk.sitkVectorFloat64)
        transform = sitk.DisplacementFieldTransform(field)
    else:
        transform = sitk.ReadTransform(str(result.transform_file))
    warped = sitk.Resample(itk_moving, itk_fixed, transform, sitk.sitkLinear, 0.0)
    theirs = sitk.GetArrayFromImage(warped).T
    ours = read_image(result.moved).data.numpy()
    image = read_image(paths["moving"]).data
    index = moving.to_index(result.transform(fixed.points_mm()))
    last = torch.tensor(moving.shape) - 1
    inside = ((index > 0.5) & (index < last - 0.5)).all(dim=-1).numpy()
    assert inside.mean() > 0.3
    spread = float(image.max() - image.min())
    assert np.abs(theirs - ours)[inside].mean() <= 1e-3 * spread
    assert np.abs(theirs - ours)[inside].max() <= 1e-2 * spread
    still = sitk.GetArrayFromImage(sitk.Resample(itk_moving, itk_fixed)).T
    assert np.abs(still - ours)[inside].mean() > 1e-2 * spread  # there was something to do


def test_labels_of_another_grid_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    write_scan(tmp_path / "a.nii.gz", oblique(3))
    write_labels(tmp_path / "labels.nii.gz", anatomy(oblique(3, 1))[1], "int16")
    with pytest.raises(BadInput, match=r"labels\.nii\.gz: does not lie on the grid of .*a\.nii"):
        register(
            run, moving=tmp_path / "a.nii.gz", fixed=tmp_path / "a.nii.gz",
            out=tmp_path / "out", moving_labels=tmp_path / "labels.nii.gz",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["moved.nii.gz", "moved_labels.nii.gz", "transform.nii.gz"])
def test_no_input_is_overwritten(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    write_scan(tmp_path / name, oblique(2))
    write_scan(tmp_path / "other.nii.gz", oblique(2))
    with pytest.raises(BadInput, match=rf"{name}: would be overwritten"):
        register(run, moving=tmp_path / name, fixed=tmp_path / "other.nii.gz", out=tmp_path)
    with pytest.raises(BadInput, match=rf"{name}: would be overwritten"):
        register(run, moving=tmp_path / "other.nii.gz", fixed=tmp_path / name, out=tmp_path)


def test_a_missing_scan(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[2])
    write_scan(tmp_path / "a.nii.gz", oblique(2))
    with pytest.raises(BadInput, match=r"b\.nii\.gz: there is no such file"):
        register(
            run, moving=tmp_path / "b.nii.gz", fixed=tmp_path / "a.nii.gz", out=tmp_path / "out"
        )


def pair_in(folder: Path) -> dict[str, Path]:
    """Two scans on other grids, on disk."""
    for name, which in (("moving", 1), ("fixed", 0)):
        write_image(folder / f"{name}.nii.gz", textured(oblique(3, which), which))
    return {name: folder / f"{name}.nii.gz" for name in ("moving", "fixed")}


NETWORK = {"kind": "voxelmorph", "encoder": [4], "decoder": [4], "final": [4]}


def test_the_written_inverse_leads_back(tmp_path: Path) -> None:
    """By SimpleITK alone, as a chain and as a field, and where the files say it leads."""
    run, paths = make_run(tmp_path / "run", PLANS[3], NETWORK, std=0.2), pair_in(tmp_path)
    result = register(run, **paths, out=tmp_path / "out", write="all")
    assert result.inverse_file == tmp_path / "out/inverse_transform.h5"
    there = sitk.ReadTransform(str(result.transform_file))
    field = sitk.ReadImage(str(tmp_path / "out/inverse_transform.nii.gz"), sitk.sitkVectorFloat64)
    backs = [sitk.ReadTransform(str(result.inverse_file)), sitk.DisplacementFieldTransform(field)]
    points = oblique(3).points_mm().reshape(-1, 3)[::37]
    moved, apart = [], {0: [], 1: []}
    last = torch.tensor(oblique(3, 1).shape) - 1
    for point in (points * torch.tensor([-1.0, -1.0, 1.0])).tolist():
        target = there.TransformPoint(point)
        moved.append(math.dist(target, point))
        ras = torch.tensor(target) * torch.tensor([-1.0, -1.0, 1.0])
        index = oblique(3, 1).to_index(ras)
        for n, back in enumerate(backs):
            if n == 0 or ((index > 0) & (index < last)).all():
                apart[n].append(math.dist(back.TransformPoint(target), point))
    assert max(moved) > 3
    assert np.mean(apart[0]) < 0.02
    assert len(apart[1]) > 20
    assert np.mean(apart[1]) < 0.1  # interpolated once more
    said = json.loads(result.record.read_text())["parts"]
    assert set(said) == {file.name for file in result.files} - {"moved.nii.gz", "transform.json"}


def test_the_affine_part_and_the_record(tmp_path: Path) -> None:
    run, paths = make_run(tmp_path / "run", PLANS[3], NETWORK, std=0.2), pair_in(tmp_path)
    result = register(run, **paths, out=tmp_path / "out")
    affine = sitk.ReadTransform(str(result.affine_file))
    fixed, moving = oblique(3, 0).centre_mm, oblique(3, 1).centre_mm
    lps = torch.tensor([-1.0, -1.0, 1.0])
    got = torch.tensor(affine.TransformPoint((fixed * lps).tolist())) * lps
    torch.testing.assert_close(got.double(), moving, atol=1e-4, rtol=0)  # centre on centre
    record = json.loads(result.record.read_text())
    assert record["from"]["scan"] == "fixed"
    assert record["to"]["file"] == str(paths["moving"])
    for name, digest in record["files"].items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    assert set(record["files"]) == {"moved.nii.gz", "transform.h5", "affine.mat"}
    assert record["units"] == "mm"


def test_the_moved_scan_keeps_its_type_where_asked(tmp_path: Path) -> None:
    run, paths = make_run(tmp_path / "run", PLANS[3], NETWORK, std=0.2), pair_in(tmp_path)
    write_image(paths["moving"], read_image(paths["moving"]), dtype="int16")
    floating = read_image(register(run, **paths, out=tmp_path / "out").moved).data
    assert (floating != floating.round()).any()
    kept = nib.load(register(run, **paths, out=tmp_path / "out", keep_dtype=True).moved)
    assert kept.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(kept.dataobj), floating.round().numpy())
    content = bytearray(gzip.decompress(paths["moving"].read_bytes()))
    content[112:120] = struct.pack("<2f", 0.5, 3.0)  # slope and intercept
    paths["moving"].write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(BadInput, match=r"moving\.nii\.gz: stores its values scaled"):
        register(run, **paths, out=tmp_path / "out", keep_dtype=True)


def test_values_that_float32_does_not_hold(tmp_path: Path) -> None:
    run, paths = make_run(tmp_path / "run", PLANS[3], NETWORK, std=0.2), pair_in(tmp_path)
    volume = read_image(paths["moving"])
    write_labels(paths["moving"], Volume(volume.data.long() + 2**25, volume.geometry), "int32")
    with pytest.raises(BadInput, match=r"moving\.nii\.gz: has values above 2\^24"):
        register(run, **paths, out=tmp_path / "out", keep_dtype=True)
    assert not (tmp_path / "out").exists()


def test_files_of_another_pair_do_not_stay(tmp_path: Path) -> None:
    run, paths = make_run(tmp_path / "run", PLANS[3], NETWORK, std=0.2), pair_in(tmp_path)
    register(run, **paths, out=tmp_path / "out", write="all")
    (tmp_path / "out/notes.txt").write_text("mine")
    result = register(run, **paths, out=tmp_path / "out")
    left = {file.name for file in (tmp_path / "out").iterdir()}
    assert left == {"notes.txt", *[file.name for file in result.files]}
    with pytest.raises(BadInput, match="nothing called 'everything' to write"):
        register(run, **paths, out=tmp_path / "out", write="everything")  # type: ignore[arg-type]


def test_a_map_without_an_inverse_is_written_all_the_same(tmp_path: Path) -> None:
    """One wild step, whose inverse would fill the memory, loses nothing but the inverse."""
    paths, grid = pair_in(tmp_path), Geometry.axis_aligned((9, 9, 9), (1.0, 1.0, 1.0))
    steps = torch.zeros(3, 9, 9, 9)
    steps[:, 4, 4, 4] = 300.0

    def find() -> tuple[Transform, Transform]:
        return DisplacementField(steps, grid), Affine.identity(3)

    out = tmp_path / "out"
    with pytest.raises(BadInput, match=r"transform\.h5: some steps .* leave out --write all"):
        write_registration(find, **paths, out=out, write="all")
    expected = {"moved.nii.gz", "transform.h5", "transform.nii.gz", "affine.mat"}
    assert {file.name for file in out.iterdir()} == {*expected, "transform.json"}
    assert set(json.loads((out / "transform.json").read_text())["files"]) == expected


def test_forms_that_disagree_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once a file, by all that apply a run or a map; `check` and `train` have a finding of it."""
    run, paths = make_run(tmp_path / "run", PLANS[3]), pair_in(tmp_path / "images")
    image = nib.load(paths["fixed"])
    data, header = np.asarray(image.dataobj), image.header.copy()
    header.set_qform(image.affine @ np.diag([1.0, 2, 1, 1]), 1)
    header.set_sform(image.affine, 2)
    nib.Nifti1Image(data, None, header).to_filename(paths["fixed"])
    result = register(run, **paths, out=tmp_path / "out")
    segment(run, list(paths.values()), out=tmp_path / "segmented")
    warp([result.transform_file], image=paths["moving"], onto=paths["fixed"], out=tmp_path / "w")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    for words in said:
        assert words.startswith(f"{paths['fixed']}: sform and qform differ by up to")
    caplog.clear()
    maps = [result.transform_file]
    jacobian(maps, onto=paths["fixed"], out=tmp_path / "w2")
    convert(maps, fixed=paths["fixed"], out=tmp_path / "t.nii.gz")
    assert caplog.text.count("sform and qform differ by up to") == 2
