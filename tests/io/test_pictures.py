"""Pictures as slices; SimpleITK and Pillow, which write them, are the referees."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from image_files import corners_by_itk, numbers, save

from deepatlas.errors import BadInput
from deepatlas.io.images import read_geometry, read_image, read_labels


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
