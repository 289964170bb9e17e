"""Pairs of small scans on every kind of grid, and a registration of them that is known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from deepatlas.data.plan import Plan
from deepatlas.data.prepare import place
from deepatlas.inference.register import Registered, write_registration
from deepatlas.io.images import read_geometry
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.transform import Affine, Composite, DisplacementField, Transform

ORIENTATIONS = {
    d: list(
        itertools.product(itertools.permutations(range(d)), itertools.product((1, -1), repeat=d))
    )
    for d in (2, 3)
}
LABELS = (0, 3, 700, 2**24 + 5)


@dataclass(frozen=True)
class Kind:
    """Shapes and spacings (mm) of a pair's two grids, and by how much they are turned."""

    fixed: tuple[tuple[int, ...], tuple[float, ...]]
    moving: tuple[tuple[int, ...], tuple[float, ...]]
    turns: tuple[float, float] = (0.0, 0.0)


KINDS = {
    "isotropic": Kind(((17, 15, 19), (1.5,) * 3), ((15, 21, 17), (1.4,) * 3)),
    "1:1:5": Kind(((23, 21, 7), (0.9, 0.9, 4.5)), ((25, 27, 9), (0.8, 0.8, 4.0))),
    "oblique": Kind(((21, 15, 13), (1.1, 1.6, 2.3)), ((15, 23, 11), (1.9, 1.2, 2.1)), (0.4, -0.3)),
}


def turned(angle: float, d: int) -> np.ndarray:
    """A rotation about no axis of the world."""
    c, s = np.cos(angle), np.sin(angle)
    about_z, about_x = np.eye(3), np.eye(3)
    about_z[:2, :2] = about_x[1:, 1:] = [[c, -s], [s, c]]
    return about_z[:2, :2] if d == 2 else about_z @ about_x


def grid(
    shape: tuple[int, ...], spacing: tuple[float, ...], orientation: int, turn: float,
    centre: tuple[float, ...], d: int = 3,
) -> Geometry:  # fmt: skip
    """Voxel axis n runs along the `orientation`'s n-th axis of the world, then all is turned."""
    order, signs = ORIENTATIONS[d][orientation]
    affine = np.eye(d + 1)
    affine[:d, :d] = turned(turn, d) @ np.eye(d)[:, list(order)] * signs * spacing[:d]
    affine[:d, d] = centre[:d] - affine[:d, :d] @ (np.array(shape[:d]) - 1) / 2
    return Geometry(shape[:d], torch.from_numpy(affine))


def drawn(onto: Geometry, phase: float) -> tuple[Tensor, Tensor]:
    """An image of smooth waves, other ones along each axis of the world, and labels by level."""
    x = onto.points_mm() - onto.centre_mm
    waves = [torch.sin(x[..., n] / (4.0 + n) + phase + n) for n in range(onto.ndim)]
    level = torch.stack(waves).sum(0)
    labels = torch.tensor(LABELS)[((level + 2) * 1.2).floor().long() % len(LABELS)]
    return 1000 + 200 * level, labels


def write(path: Path, data: Tensor, where: Geometry) -> None:
    """By nibabel, whatever this package would do."""
    d = where.ndim
    affine = np.eye(4)
    affine[np.ix_([*range(d), 3], [*range(d), 3])] = where.affine
    image = nib.Nifti1Image(data.numpy(), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.to_filename(path)


@dataclass(frozen=True)
class Pair:
    """Files of two scans, their grids, and the registration that was written."""

    folder: Path
    fixed: Geometry
    moving: Geometry
    result: Registered

    def path(self, name: str) -> Path:
        """Of fixed, moving, labels or a file that was written."""
        return self.folder / (f"{name}.nii" if "." not in name else f"out/{name}")


def known_map(fixed: Path, moving: Path) -> tuple[Transform, Transform]:
    """A smooth displacement of several mm on a working grid, between the scans' preparations.

    As `Session.register` joins a network's displacement to them.
    """
    d = read_geometry(fixed).ndim
    plan = Plan(shape=(12, 13, 11)[:d], spacing_mm=(2.1, 1.9, 2.3)[:d], centre_mm=(0.0,) * d,
                label_values=(1,), label_dtype="uint8")  # fmt: skip
    x = plan.geometry.points_mm()
    u = torch.stack(
        [1 + torch.sin(x.sum(-1) / 20 + n) + (0.08 * x[..., n]).cos() for n in range(d)]
    )
    inner = DisplacementField.faded(u, plan.geometry)
    first, last = (place(read_geometry(path), plan).transform for path in (fixed, moving))
    aligned = torch.eye(d + 1, dtype=torch.float64)
    aligned[:d, :d] += 0.03 * torch.tensor([[1, -2, 0.5], [3, 0, 1], [0, -2, -1]])[:d, :d]
    last = Composite([Affine(aligned), last])  # as a scan that was aligned before
    return Composite([first.inverse(), inner, last]), Composite([first.inverse(), last])


def registered(folder: Path, kind: str, orientation: int, d: int = 3) -> Pair:
    """The whole way that `register` goes, but for the network.

    The moving scan's orientation is the one as far from the table's end as the fixed one's is from
    its beginning.
    """
    about = KINDS[kind]
    other = len(ORIENTATIONS[d]) - 1 - orientation
    fixed = grid(*about.fixed, orientation, about.turns[0], (60.0, -35.0, 110.0), d)
    moving = grid(*about.moving, other, about.turns[1], (-20.0, 85.0, 10.0), d)
    write(folder / "fixed.nii", drawn(fixed, 0.0)[0].float(), fixed)
    image, labels = drawn(moving, 0.7)
    write(folder / "moving.nii", image.float(), moving)
    write(folder / "labels.nii", labels.int(), moving)
    paths = {name: folder / f"{name}.nii" for name in ("moving", "fixed")}
    result = write_registration(
        lambda: known_map(**paths), **paths, moving_labels=folder / "labels.nii",
        out=folder / "out", write="all",
    )  # fmt: skip
    return Pair(folder, fixed, moving, result)
