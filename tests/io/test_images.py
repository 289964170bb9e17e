"""Scans of other formats than NIfTI; SimpleITK and nibabel, which write them, are the referees."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from dicom_files import write_frames

from deepatlas.data.check import check_cohort
from deepatlas.errors import BadInput
from deepatlas.io.header import read_placement
from deepatlas.io.images import (
    FORMATS,
    decode_header,
    is_scan,
    nifti_name,
    read_content,
    read_geometry,
    read_header,
    read_image,
    read_labels,
    write_image,
    write_labels,
)
from deepatlas.io.layouts import read_cohort
from deepatlas.spatial.geometry import Geometry, Volume

sitk = pytest.importorskip("SimpleITK")

SHAPE = (7, 5, 4)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
INTEGERS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def oblique(flip: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """(4, 4) RAS: turned about two axes, anisotropic, far from the origin."""
    c, s = math.cos(0.4), math.sin(0.4)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ [[1, 0, 0], [0, c, -s], [0, s, c]]
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array([0.8, 1.3, 2.5]) * flip)
    affine[:3, 3] = -31.5, 12.25, 70.0
    return affine


def numbers(dtype: str = "int16", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape).astype(dtype)


def by_itk(values: np.ndarray, affine: np.ndarray | None = None) -> Any:
    """SimpleITK's image of values (i, j[, k]) at a RAS placement."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    if affine is not None:
        d = values.ndim
        lps = (LPS @ affine)[:3]
        spacing = np.linalg.norm(lps[:d, :d], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:d, :d] / spacing).ravel().tolist())
        image.SetOrigin(lps[:d, 3].tolist())
    return image


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None, **how: Any) -> Path:
    sitk.WriteImage(by_itk(values, affine), str(path), **how)
    return path


def save_mgh(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    nib.MGHImage(values, affine).to_filename(path)
    return path


def corners_by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Some indices of a file, and their places (RAS mm) to ITK."""
    image = sitk.ReadImage(str(path))
    corners = np.array(list(np.ndindex(*[2] * image.GetDimension())))
    index = corners * (np.array(image.GetSize()) - 1)
    points = [image.TransformIndexToPhysicalPoint(i.tolist()) for i in index]
    return index, np.array(points) * [-1, -1, 1][: image.GetDimension()]


flips = pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
itk_formats = pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd"])


@flips
@itk_formats
@pytest.mark.parametrize("packed", [True, False])
def test_one_scan_in_any_format_of_itk_is_one_volume(
    flip: tuple[int, int, int], ending: str, packed: bool, tmp_path: Path
) -> None:
    path = save(tmp_path / f"a{ending}", numbers(), oblique(flip), useCompression=packed)
    nifti = save(tmp_path / "a.nii.gz", numbers(), oblique(flip))
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, oblique(flip), rtol=0, atol=1e-9)
    assert torch.equal(found.data, read_image(nifti).data)
    assert found.geometry.same_as(read_image(nifti).geometry)
    assert read_geometry(path).same_as(found.geometry, 1e-9)
    index, places = corners_by_itk(path)
    np.testing.assert_allclose(found.geometry.to_mm(torch.from_numpy(index)), places, atol=1e-9)


@flips
@pytest.mark.parametrize("ending", [".mgz", ".mgh"])
def test_a_volume_of_freesurfer_is_that_of_nibabel(
    flip: tuple[int, int, int], ending: str, tmp_path: Path
) -> None:
    path = save_mgh(tmp_path / f"a{ending}", numbers(), oblique(flip))
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, nib.load(path).affine, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.geometry.affine, oblique(flip), atol=1e-5)
    assert read_geometry(path).same_as(found.geometry, 1e-9)


@itk_formats
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", "float64"])
def test_values_of_any_type_arrive(dtype: str, ending: str, tmp_path: Path) -> None:
    values = numbers() - (20 if np.dtype(dtype).kind == "i" else 0)
    path = save(tmp_path / f"a{ending}", values.astype(dtype), oblique())
    np.testing.assert_array_equal(read_image(path).data, values)
    labels, kept = read_labels(path)
    assert kept == (dtype if dtype in INTEGERS else "uint8")
    np.testing.assert_array_equal(labels.data, values)
    assert read_header(path).get_data_dtype() == dtype


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
def test_values_of_freesurfer_arrive(dtype: str, tmp_path: Path) -> None:
    path = save_mgh(tmp_path / "a.mgz", numbers(dtype), oblique())
    np.testing.assert_array_equal(read_image(path).data, numbers())
    labels, kept = read_labels(path)
    assert kept == (dtype if dtype in INTEGERS else "uint8")
    assert kept.isnative
    np.testing.assert_array_equal(labels.data, numbers("int64"))


def big_endian_mha(values: np.ndarray) -> bytes:
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\n"
        "CompressedData = False\nElementSpacing = 1 2 3\nDimSize = 7 5 4\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    return header.encode() + values.T.astype(">i2").tobytes()


def big_endian_nrrd(values: np.ndarray) -> bytes:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 7 5 4\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (4,5,6)\nendian: big\n"
        "encoding: raw\n\n"
    )
    return header.encode() + values.T.astype(">i2").tobytes()


@pytest.mark.parametrize(
    ("ending", "make", "affine"),
    [
        (".mha", big_endian_mha, LPS @ np.diag([1.0, 2, 3, 1])),
        (".nrrd", big_endian_nrrd, [[1, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]]),
    ],
)
def test_big_endian_files_and_those_that_say_ras(
    ending: str, make: Callable[[np.ndarray], bytes], affine: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(make(numbers()))
    found = read_image(path)
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, affine)
    index, places = corners_by_itk(path)
    np.testing.assert_allclose(found.geometry.to_mm(torch.from_numpy(index)), places, atol=1e-9)


def test_text_voxels(tmp_path: Path) -> None:
    text = " ".join(str(n) for n in numbers().T.ravel()).encode() + b"\n"
    empty = np.zeros((0, 0, 0))
    nrrd = big_endian_nrrd(empty).replace(b"encoding: raw", b"encoding: ascii")
    nrrd = nrrd.replace(b"short", b"int64")  # more bytes in memory than in the file
    mha = big_endian_mha(empty).replace(b"MSB = True", b"MSB = False")
    mha = mha.replace(b"MET_SHORT", b"MET_LONG_LONG")
    mha = mha.replace(b"BinaryData = True", b"BinaryData = False")
    for name, header in (("a.nrrd", nrrd), ("a.mha", mha)):
        (tmp_path / name).write_bytes(header + text)
        np.testing.assert_array_equal(read_image(tmp_path / name).data, numbers())


@itk_formats
def test_a_slice_and_a_volume_of_four_axes(ending: str, tmp_path: Path) -> None:
    """A slice (X, Y, 1) of a tilted volume is 2-D and lies where it would as NIfTI."""
    values, tilted = numbers()[:, :, :1], oblique((-1, 1, 1))
    thin = save(tmp_path / f"thin{ending}", values, tilted)
    nifti = save(tmp_path / "thin.nii", values, tilted)
    assert read_image(thin).geometry.ndim == 2
    assert read_image(thin).geometry.same_as(read_image(nifti).geometry)
    four = sitk.JoinSeries([by_itk(numbers(), oblique())])
    sitk.WriteImage(four, str(tmp_path / f"four{ending}"))
    found = read_image(tmp_path / f"four{ending}")
    np.testing.assert_array_equal(found.data, numbers())
    np.testing.assert_allclose(found.geometry.affine, oblique(), atol=1e-9)
    sitk.WriteImage(sitk.JoinSeries([by_itk(numbers())] * 2), str(tmp_path / f"two{ending}"))
    with pytest.raises(BadInput, match=rf"two\{ending}: holds several volumes \(7x5x4x2"):
        read_image(tmp_path / f"two{ending}")


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pictures_lie_as_in_itk(ending: str, dtype: str, tmp_path: Path) -> None:
    values = numbers(dtype, (6, 5)) * np.dtype(dtype).type(8 if dtype == "uint8" else 2000)
    path = save(tmp_path / f"a{ending}", values)
    found = read_image(path)
    np.testing.assert_array_equal(found.data, values.astype("f4"))
    assert found.geometry.spacing_mm == (1.0, 1.0)
    index, places = corners_by_itk(path)
    np.testing.assert_allclose(found.geometry.to_mm(torch.from_numpy(index)), places)
    labels, kept = read_labels(path)
    assert kept == dtype
    np.testing.assert_array_equal(labels.data, values)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint32", "float32"])
def test_tiff_of_more_types(dtype: str, tmp_path: Path) -> None:
    values = numbers(dtype, (6, 5))
    if dtype != "uint32":
        values = values - values.dtype.type(9)
    else:
        values += np.uint32(2**31)
    path = save(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(path).data, values.astype("f4"))
    labels, kept = read_labels(path)
    np.testing.assert_array_equal(labels.data, values.astype("i8"))
    assert kept == (dtype if dtype != "float32" else "int16")


def test_pictures_of_big_endian_double_and_black_and_white(tmp_path: Path) -> None:
    values = numbers("uint16", (6, 5)) * np.uint16(900)
    Image.frombytes("I;16B", (6, 5), values.T.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "big.tif").data, values.astype("f4"))
    for ending in ("png", "tif"):
        Image.fromarray(numbers("uint8", (6, 5)).T > 7).save(tmp_path / f"bit.{ending}")
        labels, kept = read_labels(tmp_path / f"bit.{ending}")
        np.testing.assert_array_equal(labels.data, numbers("uint8", (6, 5)) > 7)
        assert kept == "uint8"


def test_a_resolution_is_not_used(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.fromarray(numbers("uint8", (6, 5))).save(tmp_path / name, dpi=(300, 300))
        assert read_geometry(tmp_path / name).spacing_mm == (1.0, 1.0)


def test_what_a_picture_may_not_be(tmp_path: Path) -> None:
    grey = Image.fromarray(numbers("uint8", (6, 5)))
    for mode in ("RGB", "RGBA", "LA", "P"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        with pytest.raises(BadInput, match=rf"{mode}\.png: holds colours.*\({mode}\)"):
            read_image(tmp_path / f"{mode}.png")
    grey.save(tmp_path / "two.tif", save_all=True, append_images=[grey])
    with pytest.raises(BadInput, match=r"two\.tif: holds 2 pages"):
        read_geometry(tmp_path / "two.tif")
    grey.convert("RGB").save(tmp_path / "jpeg.png", format="JPEG")
    with pytest.raises(BadInput, match=r"jpeg\.png: not a PNG or TIFF"):
        read_image(tmp_path / "jpeg.png")


@itk_formats
def test_what_a_file_of_itk_may_not_be(ending: str, tmp_path: Path) -> None:
    vectors = sitk.GetImageFromArray(np.zeros((4, 5, 7, 3), "f4"), isVector=True)
    numbers_of_two = sitk.GetImageFromArray(np.zeros((4, 5, 7), "c8"))
    for image in (vectors, numbers_of_two):
        try:
            sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
        except RuntimeError:
            assert image is numbers_of_two, "ITK writes no complex numbers in this format"
            continue
        with pytest.raises(BadInput, match=rf"a\{ending}: .*one grey value a voxel"):
            read_image(tmp_path / f"a{ending}")
    for value, why in ((np.nan, "NaN"), (0.5, "fractions")):
        save(tmp_path / f"b{ending}", np.full(SHAPE, value, "f4"))
        with pytest.raises(BadInput, match=rf"b\{ending}: .*{why}"):
            read_labels(tmp_path / f"b{ending}")


def test_several_volumes_of_freesurfer(tmp_path: Path) -> None:
    save_mgh(tmp_path / "a.mgz", numbers(shape=(7, 5, 4, 2)), oblique())
    with pytest.raises(BadInput, match=r"a\.mgz: holds several volumes \(7x5x4x2"):
        read_image(tmp_path / "a.mgz")


def test_voxels_in_a_file_beside_belong_to_the_content(tmp_path: Path) -> None:
    path = save(tmp_path / "a.mhd", numbers())
    before = read_content(path)
    assert decode_header(before, path).get_data_shape() == SHAPE
    (raw,) = tmp_path.glob("*.raw")
    raw.write_bytes(raw.read_bytes()[::-1])
    assert read_content(path) != before
    raw.unlink()
    with pytest.raises(BadInput, match=r"a\.mhd: names 'a\.raw'.*there is no such file"):
        read_image(path)
    text = path.read_text()
    for other in ("LIST", "a%02d.raw 1 4 1"):
        path.write_text(text.replace("a.raw", other))
        with pytest.raises(BadInput, match=r"a\.mhd: its voxels lie in several files"):
            read_image(path)
    header = big_endian_nrrd(numbers()).replace(b"\n\n", b"\ndata file: a.raw\n\n")
    (tmp_path / "a.nrrd").write_bytes(header)
    with pytest.raises(BadInput, match=r"a\.nrrd: its voxels lie in another file"):
        read_image(tmp_path / "a.nrrd")


SCANS: dict[str, Callable[[Path], Path]] = {
    ".mha": lambda p: save(p, numbers(), oblique((-1, 1, 1)), useCompression=True),
    ".mhd": lambda p: save(p, numbers(), oblique((-1, 1, 1))),
    ".nrrd": lambda p: save(p, numbers(), oblique((1, -1, 1)), useCompression=True),
    ".mgz": lambda p: save_mgh(p, numbers(), oblique()),
    ".mgh": lambda p: save_mgh(p, numbers(), oblique()),
    ".png": lambda p: save(p, numbers("uint8", (6, 5))),
    ".tif": lambda p: save(p, numbers("float32", (6, 5))),
    ".tiff": lambda p: save(p, numbers("uint16", (6, 5))),
    ".dcm": lambda p: write_frames(p, numbers(), oblique((1, -1, -1))),
}


def test_contract_every_format_has_its_sample() -> None:
    assert set(SCANS) | {".nii", ".nii.gz"} == set(FORMATS)


@pytest.mark.parametrize("ending", list(SCANS))
def test_contract_results_lie_on_the_scan(ending: str, tmp_path: Path) -> None:
    """To ITK too, which reads scan and result by itself."""
    path = SCANS[ending](tmp_path / f"a{ending}")
    volume = read_image(path)
    assert is_scan(path)
    assert nifti_name(path) == "a.nii.gz"
    write_labels(tmp_path / "l.nii.gz", Volume(volume.data.long(), volume.geometry), "int16", path)
    write_image(tmp_path / "i.nii.gz", volume, like=path)
    for name in ("l.nii.gz", "i.nii.gz"):
        assert read_geometry(tmp_path / name).same_as(volume.geometry)
        written = sitk.ReadImage(str(tmp_path / name))
        assert written.GetSize() == volume.geometry.shape
        index, places = corners_by_itk(tmp_path / name)
        to_us = volume.geometry.to_mm(torch.from_numpy(index))
        np.testing.assert_allclose(to_us, places, atol=1e-4)
        header = nib.load(tmp_path / name).header
        assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
        assert header.get_xyzt_units()[0] == "mm"


@itk_formats
def test_a_result_on_a_slice_lies_in_the_plane_of_the_slice(ending: str, tmp_path: Path) -> None:
    upright = np.array([[0, 0, 2.5, 3], [0.8, 0, 0, 4], [0, 1.3, 0, 5], [0, 0, 0, 1]])
    path = save(tmp_path / f"a{ending}", numbers()[:, :, :1], upright)
    write_image(tmp_path / "r.nii.gz", read_image(path), like=path)
    np.testing.assert_allclose(nib.load(tmp_path / "r.nii.gz").affine, upright, atol=1e-6)
    assert nib.load(tmp_path / "r.nii.gz").shape == (7, 5, 1)


def test_a_cohort_of_several_formats(tmp_path: Path) -> None:
    endings = {"a": (".mha", ".nrrd"), "b": (".mhd", ".nii.gz"), "c": (".mgz", ".mha")}
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name, (image, labels) in endings.items():
        write = save_mgh if image == ".mgz" else save
        write(tmp_path / "images" / f"{name}{image}", numbers(), oblique())
        save(tmp_path / "labels" / f"{name}{labels}", numbers("uint16") % 3, oblique())
    cohort = read_cohort(tmp_path)
    assert cohort.faults == ()
    assert [s.id for s in cohort.labelled] == ["a", "b", "c"]
    facts = check_cohort(cohort, needs_labels=True, needs_pairs=True)
    for name in endings:
        found = facts[name].labels
        assert found is not None
        assert (found.values, found.dtype) == ((1, 2), "uint16")
        assert len({facts[name].image.digest, found.digest, ""}) == 3


def test_one_scan_under_two_endings_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "a.mha", numbers(), oblique())
    save(tmp_path / "images" / "a.nii.gz", numbers(), oblique())
    (fault,) = read_cohort(tmp_path).faults
    assert "a.nii.gz: a second image of scan 'a' beside a.mha; keep one" in fault


def test_labels_on_another_grid_than_their_image_are_a_fault(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    save(tmp_path / "images" / "a.mha", numbers(), oblique())
    save(tmp_path / "labels" / "a.nrrd", numbers("uint8") % 3, oblique((-1, 1, 1)))
    with pytest.raises(BadInput, match=r"a\.nrrd: lies up to .* mm away from its image"):
        check_cohort(read_cohort(tmp_path), needs_labels=True, needs_pairs=False)


def test_a_name_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"DICM")
    with pytest.raises(BadInput, match=r"a\.xyz: not a scan that is read here.*\.nii\.gz.*\.mha"):
        read_image(tmp_path / "a.xyz")
    for ending in FORMATS:
        with pytest.raises(BadInput, match=r"no such file"):
            read_image(tmp_path / f"none{ending}")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    return {ending: read_content(make(folder / f"a{ending}")) for ending, make in SCANS.items()}


def try_to_read(path: Path) -> Volume | None:
    """A scan, or None where it was refused in words that name it."""
    found: list[Any] = []
    for read in (read_geometry, read_labels, read_image):
        said = str(path)
        try:
            found.append(read(path))
        except BadInput as error:
            found.append(None)
            said = str(error)
        assert str(path) in said
    volume: Volume | None = found[-1]
    return volume


@pytest.mark.parametrize("ending", list(SCANS))
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_truncated_files_are_refused(
    ending: str, data: st.DataObject, files: dict[str, bytes], tmp_path_factory: Any
) -> None:
    """But for what stands after the voxels, without which they are all there."""
    content, folder = files[ending], tmp_path_factory.mktemp("cut")
    path, whole = folder / f"a{ending}", folder / f"whole{ending}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    whole.write_bytes(content)
    found = try_to_read(path)
    if found is not None:
        assert ending in (".png", ".tif", ".tiff", ".mgh")
        assert torch.equal(found.data, read_image(whole).data)


@pytest.mark.parametrize("ending", list(SCANS))
@settings(max_examples=30, deadline=None)
@given(content=st.binary(max_size=400))
@example(content=b"")
def test_random_bytes_are_refused(ending: str, content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("random") / f"a{ending}"
    path.write_bytes(content)
    assert try_to_read(path) is None


@pytest.mark.parametrize(
    ("directions", "place"),
    [
        ("(-2,0,0) (0,-3,0)", [[2, 0, -10], [0, 3, -20], [0, 0, 1]]),
        ("(2,0,0) (0,0,3)", [[-2, 0, -10], [0, 3, 30], [0, 0, 1]]),
        ("(0,2,0) (0,0,-3)", [[-2, 0, -20], [0, -3, 30], [0, 0, 1]]),
    ],
)
def test_an_nrrd_slice_of_any_plane(
    directions: str, place: list[list[float]], tmp_path: Path
) -> None:
    """Axial, coronal and sagittal, in LPS; a slice keeps the two world axes that it lies along."""
    header = (
        "NRRD0004\ntype: short\ndimension: 2\nspace: left-posterior-superior\nsizes: 7 5\n"
        f"space directions: {directions}\nspace origin: (10,20,30)\nendian: little\n"
        "encoding: raw\n\n"
    )
    values = numbers(shape=(7, 5))
    (tmp_path / "a.nrrd").write_bytes(header.encode() + values.T.astype("<i2").tobytes())
    found = read_image(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(found.data, values)
    np.testing.assert_allclose(found.geometry.affine, place, atol=1e-9)


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_flipped_bits_of_packed_voxels_are_noticed(ending: str, tmp_path: Path) -> None:
    """ITK alone gives other values without a word."""
    content = bytearray(SCANS[ending](tmp_path / f"a{ending}").read_bytes())
    content[-40] ^= 4
    (tmp_path / f"a{ending}").write_bytes(content)
    with pytest.raises(BadInput, match="packed voxels are damaged"):
        read_image(tmp_path / f"a{ending}")


def test_nothing_is_printed_about_a_damaged_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for ending, make in SCANS.items():
        content = read_content(make(tmp_path / f"a{ending}"))
        for end in range(0, len(content), 9):
            (tmp_path / f"a{ending}").write_bytes(content[:end] + b"9 9 \x00" + content[end + 4 :])
            try_to_read(tmp_path / f"a{ending}")
    assert capfd.readouterr() == ("", "")


def test_a_header_that_claims_more_than_there_is(tmp_path: Path) -> None:
    """No memory is taken on its word."""
    huge = big_endian_mha(numbers()).replace(b"DimSize = 7 5 4", b"DimSize = 70000 50000 40000")
    (tmp_path / "a.mha").write_bytes(huge)
    with pytest.raises(BadInput, match=r"a\.mha: truncated: 280 of 280000000000000 bytes"):
        read_image(tmp_path / "a.mha")
    assert read_geometry(tmp_path / "a.mha") is not None


def test_a_geometry_needs_no_voxels(tmp_path: Path) -> None:
    grid = Geometry(SHAPE, torch.from_numpy(oblique()))
    for name in ("a.mha", "a.nrrd"):
        save(tmp_path / name, numbers(), oblique(), useCompression=True)
        content = (tmp_path / name).read_bytes()[:-30]
        assert read_placement(decode_header(content, tmp_path / name), name).same_as(grid)
