"""Scans of other formats than NIfTI that are damaged or are none: each is refused by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from image_files import (
    SCANS,
    SHAPE,
    big_endian_mha,
    big_endian_nrrd,
    itk_formats,
    numbers,
    oblique,
    save,
    save_mgh,
)

from deepatlas.errors import BadInput
from deepatlas.io.images import (
    FORMATS,
    decode_header,
    read_content,
    read_geometry,
    read_image,
    read_labels,
)
from deepatlas.spatial.geometry import Volume

sitk = pytest.importorskip("SimpleITK")


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
