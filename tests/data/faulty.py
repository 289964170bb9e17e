"""Cohorts of three balls, and faults that can be planted in them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK
from dicom_files import write_series

SHAPE = (26, 20, 23)
AFFINE = np.array([[1.2, 0, 0, -30.0], [0, 1.5, 0, 12], [0, 0, 1.1, 40], [0, 0, 0, 1]])
NAMES = {"0": "background", "1": "Left ball", "2": "Right ball", "3": "Stem"}
BALLS = {1: ((6, 9, 12), 4.0), 2: ((18, 11, 12), 4.5), 3: ((12, 9, 5), 3.5)}
GREYS = {1: 900.0, 2: 650.0, 3: 300.0}

Change = Callable[[Path, Path, str], object]  # images, labels, name


def draw(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan of three balls, of which no two are alike, and its label map."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    image, labels = np.full(SHAPE, 120.0), np.zeros(SHAPE, "u1")
    for value, (centre, radius) in BALLS.items():
        middle = np.array(centre) + rng.normal(0, 0.5, 3)
        inside = np.linalg.norm(at - middle, axis=-1) < radius + rng.normal(0, 0.3)
        labels[inside], image[inside] = value, GREYS[value]
    gain = rng.uniform(0.5, 50)
    return ((image + rng.normal(0, 20, SHAPE)).clip(1) * gain).astype("f4"), labels


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, affine, dtype=data.dtype).to_filename(path)
    return path


def data_of(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path, mmap=False).dataobj)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    save(path, change(data_of(path)))


def decathlon(folder: Path) -> Path:
    """A clean Decathlon cohort of 50 scans, all of them labelled."""
    for n in range(50):
        image, labels = draw(n)
        save(folder / "imagesTr" / f"s{n:02}.nii.gz", image)
        save(folder / "labelsTr" / f"s{n:02}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps({"labels": NAMES}))
    return folder


def plain(root: Path, count: int, *, labels: bool = True) -> Path:
    """A plain folder, whose label values have no names."""
    for n in range(count):
        image, label_map = draw(n)
        save(root / "images" / f"s{n}.nii", image)
        if labels:
            save(root / "labels" / f"s{n}.nii", label_map)
    return root


def invert(image: np.ndarray) -> np.ndarray:
    return image.max() + 1 - image


def nan(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[3, 4, 5] = np.nan
    return image


def resampled(labels: np.ndarray, shift: tuple[float, float, float]) -> np.ndarray:
    """As interpolated linearly, which a label map should not be."""
    image = SimpleITK.GetImageFromArray(labels.astype("f4"))
    moved = SimpleITK.Resample(image, SimpleITK.TranslationTransform(3, shift))
    return SimpleITK.GetArrayFromImage(moved)


def soft(labels: np.ndarray) -> np.ndarray:
    """A mask from 0 to 255 with soft edges."""
    return np.rint(resampled(255.0 * (labels > 0), (0.3, 0.4, 0.2))).astype("u1")


def with_affine(path: Path, affine: np.ndarray, qform: np.ndarray | None = None) -> None:
    image = nib.Nifti1Image(data_of(path), None)
    image.set_sform(affine, 1)
    image.set_qform(affine if qform is None else qform, 1)
    image.to_filename(path)


def damaged_qform(images: Path, labels: Path, name: str) -> None:
    content = bytearray(gzip.decompress((images / name).read_bytes()))
    content[252:254] = (1).to_bytes(2, "little")  # qform_code
    content[256:268] = np.array([1.5, 0.7, 0], "<f4").tobytes()  # no rotation
    (images / name).write_bytes(gzip.compress(bytes(content)))


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[1, 3] += mm
    return affine


def lacking_a_slice(images: Path, labels: Path, name: str) -> None:
    """A DICOM series in place of the scan."""
    folder = images / name.removesuffix(".nii.gz")
    scan = data_of(images / name)
    write_series(folder, (scan / scan.max() * 4000).astype("u2"), AFFINE)
    (images / name).unlink()
    (folder / "im007.dcm").unlink()


def turned(images: Path, labels: Path, name: str) -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for folder in (images, labels):
        with_affine(folder / name, turn @ AFFINE)


def stored_otherwise(images: Path, labels: Path, name: str) -> None:
    """The same scan with its first axis to the left."""
    affine = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for folder in (images, labels):
        save(folder / name, data_of(folder / name)[::-1], affine)


def coarse(images: Path, labels: Path, name: str) -> None:
    for folder in (images, labels):
        save(folder / name, data_of(folder / name), AFFINE @ np.diag([1, 1, 2, 1]))


def mirrored(images: Path, labels: Path, name: str) -> None:
    for folder in (images, labels):
        rewrite(folder / name, lambda data: data[::-1])


def copied(images: Path, labels: Path, name: str) -> None:
    """Other compression, type and description; the same scan."""
    source = nib.load(images / "s01.nii.gz")
    copy = nib.Nifti1Image(data_of(images / "s01.nii.gz").astype("f8"), source.affine)
    copy.header["descrip"] = b"copied"
    (images / name).write_bytes(gzip.compress(copy.to_bytes(), 1))
    (labels / name).unlink()


def one_slice(images: Path, labels: Path, name: str) -> None:
    rewrite(images / name, lambda data: data[:, :, 12:13])
    (labels / name).unlink()


def one_slice_across_x(images: Path, labels: Path, name: str) -> None:
    rewrite(images / name, lambda data: data[9:10])
    (labels / name).unlink()


def unnamed(labels: np.ndarray) -> np.ndarray:
    labels = labels.copy()
    labels[:2, :2, :2] = 9
    return labels


def renamed(new: str) -> Change:
    return lambda images, labels, name: (labels / name).rename(labels / new.format(n=name[1:3]))


def no_place(images: Path, labels: Path, name: str) -> None:
    image = nib.Nifti1Image(data_of(images / name), None)
    image.header["sform_code"] = 1
    image.header["srow_x"] = 0
    image.to_filename(images / name)


def colours(images: Path, labels: Path, name: str) -> None:
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    save(images / name, np.zeros(SHAPE, dtype))


def on_image(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda images, labels, name: rewrite(images / name, change)


def on_labels(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda images, labels, name: rewrite(labels / name, change)


def cut(images: Path, labels: Path, name: str) -> None:
    path = images / name
    path.write_bytes(path.read_bytes()[:-300])


# kind, what is done to a scan, the file that is told, and words that are told with it
PLANTED: list[tuple[str, Change, str, str]] = [
    ("unreadable", lambda i, _, n: (i / n).write_bytes(b"no scan " * 99), "imagesTr/{}", "export"),
    ("truncated", cut, "imagesTr/{}", "truncated gzip"),
    ("truncated", lambda _, m, n: (m / n).write_bytes(b""), "labelsTr/{}", "is empty"),
    ("several-volumes", on_image(lambda a: np.stack([a, a], -1)), "imagesTr/{}", "one volume"),
    ("not-grey", colours, "imagesTr/{}", "grey"),
    ("no-place", no_place, "imagesTr/{}", "mend the header"),
    ("nan-or-inf", on_image(nan), "imagesTr/{}", "1 of 11960"),
    ("nan-or-inf", on_labels(lambda a: nan(a.astype("f4"))), "labelsTr/{}", "NaN"),
    ("constant-image", on_image(lambda a: np.full_like(a, 3)), "imagesTr/{}", "every voxel is 3"),
    ("single-slice", one_slice, "imagesTr/{}", "is 2-D, most scans are 3-D"),
    ("single-slice", one_slice_across_x, "imagesTr/{}", "is 2-D, most scans are 3-D"),
    ("uneven-slices", lacking_a_slice, "imagesTr/s{n}", "1 missing between them"),
    ("label-without-image", renamed("S{n}.nii.gz"), "labelsTr/S{n}.nii.gz", "nearly its name"),
    ("label-without-image", renamed("s_{n}_seg.nii.gz"), "labelsTr/s_{n}_seg.nii.gz", "one name"),
    ("label-without-image", renamed("t9{n}.nii.gz"), "labelsTr/t9{n}.nii.gz", "or remove"),
    ("second-file", lambda i, _, n: save(i / n[:-3], draw(99)[0]), "imagesTr/{}", "second image"),
    ("not-a-scan", lambda i, _, n: (i / f"{n}.xyz").write_text("?"), "imagesTr/{}.xyz", "convert"),
    ("fractional-labels", on_labels(lambda a: resampled(a, (0.5, 0, 0))), "labelsTr/{}", "nearest"),
    ("empty-labels", on_labels(np.zeros_like), "labelsTr/{}", "name in annotations.json what"),
    ("negative-labels", on_labels(lambda a: -a.astype("i2")), "labelsTr/{}", "renumber"),
    ("other-shape", on_labels(lambda a: a[:-1]), "labelsTr/{}", "25 x 20 x 23"),
    ("header-shift", lambda _, m, n: with_affine(m / n, shifted(0.3)), "labelsTr/{}", "0.3 mm"),
    ("mask-0-255", on_labels(lambda a: (a > 0) * np.uint8(255)), "labelsTr/{}", "threshold"),
    ("mask-0-255", on_labels(soft), "labelsTr/{}", "soft edges"),
    ("mask-0-255", on_labels(lambda a: (resampled(255.0 * (a > 0), (0.5, 0, 0))).astype("u1")),
     "labelsTr/{}", "2 values"),
    ("unknown-label", on_labels(unnamed), "labelsTr/{}", "values 9 are not"),
    ("missing-structure", on_labels(lambda a: a * (a != 3)), "labelsTr/{}", "lacks 3 (Stem)"),
    ("duplicate-scan", copied, "imagesTr/{}", "same voxels as s01"),
    ("duplicate-labels", lambda _, m, n: save(m / n, data_of(m / "s02.nii.gz")), "labelsTr/{}",
     "the label map of s02"),
    ("forms-differ", lambda i, _, n: with_affine(i / n, AFFINE, shifted(7)), "imagesTr/{}",
     "by up to 7.0 mm"),
    ("forms-differ", damaged_qform, "imagesTr/{}", "sform and qform differ much"),
    ("intensity-outlier", on_image(invert), "imagesTr/{}", "likely, not certain"),
    ("flip-suspected", mirrored, "labelsTr/{}", "in 1 of 1 pairs"),
    ("float-labels", on_labels(lambda a: a.astype("f4")), "labelsTr/{}", "float32"),
    ("header-noise", lambda _, m, n: with_affine(m / n, shifted(0.01)), "labelsTr/{}", "0.01 mm"),
    ("mixed-orientations", stored_otherwise, ".", "LAS (1 scans)"),
    ("mixed-spacings", coarse, ".", "1.2 x 1.5 x 2.2"),
    ("oblique", turned, ".", "by up to 11 degrees"),
]  # fmt: skip
# what one scan cannot show: tested below
ELSEWHERE = {"volume-among-slices", "split", "layout", "choice", "unlisted-structure"}
