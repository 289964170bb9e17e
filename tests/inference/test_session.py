"""Networks of a run at work in each scan's own space: oblique, anisotropic, off-centre scans."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepatlas.data.plan import Plan
from deepatlas.errors import BadInput
from deepatlas.inference.session import Session
from deepatlas.io.images import write_image
from deepatlas.networks.registration import build_registration
from deepatlas.networks.registration.base import Deformation, RegistrationNetwork
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import Affine, DisplacementField
from deepatlas.training.recipe import load_recipe

VALUES = (3, 700)
PLANS = {
    2: Plan(
        shape=(32, 40), spacing_mm=(1.0, 1.5), centre_mm=(0.0, 0.0),
        label_values=VALUES, label_dtype="int16",
    ),
    3: Plan(
        shape=(32, 40, 24), spacing_mm=(1.0, 1.5, 2.0), centre_mm=(0.0, 0.0, 0.0),
        label_values=VALUES, label_dtype="int16",
    ),
}  # fmt: skip


class Levels(nn.Module):
    """A segmentation network that knows the intensity of each class: 0, 1/2 and 1."""

    def __init__(self, ndim: int, classes: int) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    def forward(self, image: Tensor) -> Tensor:
        levels = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, *[1] * (image.ndim - 2))
        return -self.sharpness * (image.float() - levels) ** 2


class Constant(RegistrationNetwork):
    """Moves everything by the same number of voxels along each axis."""

    def __init__(self, ndim: int, step: float = 1.5) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(step))

    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        shape = (len(fixed), fixed.ndim - 2, *fixed.shape[2:])
        return Deformation(self.step.expand(shape).float().contiguous())


HERE = "test_session"
SMALL = {"kind": "voxelmorph", "encoder": [4], "decoder": [4], "final": [4]}


@pytest.fixture(params=[2, 3])
def ndim(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks above can be named by their path, whatever pytest calls this file."""
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def make_run(folder: Path, plan: Plan, registration: Any = SMALL, std: float = 0.0) -> RunFolder:
    """A finished run without training; `std` makes a displacement at random, 0 the identity."""
    ndim = len(plan.shape)
    outside = {"ndim": "{ndim}"}
    if registration == "constant":
        registration = {"kind": f"{HERE}:Constant", **outside}
    levels = {"kind": f"{HERE}:Levels", **outside, "classes": "{classes}"}
    recipe = load_recipe(
        "baseline",
        overrides={"networks.segmentation": levels, "networks.registration": registration},
    )
    run = RunFolder(folder)
    run.write_config(recipe)
    run.write("plan.json", plan.to_json())
    run.write("split.json", {"train": [], "labelled": [], "cohort": str(folder / "none")})
    segmentation = build_segmentation(levels, ndim=ndim, classes=3)
    run.write_network("segmentation", segmentation.state_dict(), recipe)
    torch.manual_seed(0)
    network = build_registration(recipe.networks["registration"], ndim=ndim)
    if hasattr(network, "flow"):
        nn.init.normal_(network.flow.weight, std=std)
    run.write_network("registration", network.state_dict(), recipe)
    return run


def oblique(ndim: int, seed: int = 0) -> Geometry:
    """Rotated, anisotropic, far from the origin, and not a cube."""
    shape, spacing = (27, 21, 17)[:ndim], (1.1, 1.6, 2.3)[:ndim]
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.eye(ndim) + 0.25 * random.normal(size=(ndim, ndim)))[0]
    affine = torch.eye(ndim + 1, dtype=torch.float64)
    affine[:ndim, :ndim] = torch.from_numpy(rotation) @ torch.diag(torch.tensor(spacing).double())
    affine[:ndim, ndim] = torch.tensor((60.0, -35.0, 110.0)[:ndim])
    return Geometry(shape, affine)


def flipped(ndim: int) -> Geometry:
    """On the working grid's lattice, but with axes in another order and direction."""
    order = torch.tensor([[0, -1.0], [1.5, 0]] if ndim == 2 else
                         [[0, -1.0, 0], [0, 0, 1.5], [-2.0, 0, 0]])  # fmt: skip
    affine = torch.eye(ndim + 1, dtype=torch.float64)
    affine[:ndim, :ndim] = order
    affine[:ndim, ndim] = torch.tensor((10.3, -4.7, 20.9)[:ndim])
    return Geometry((25, 27, 18)[:ndim] if ndim == 2 else (17, 25, 28), affine)


def anatomy(grid: Geometry) -> tuple[Volume, Volume]:
    """An image of two nested ellipsoids in the middle of its field of view, and their labels."""
    points = grid.points_mm() - grid.centre_mm
    sizes = torch.tensor([11.0, 12.0, 13.0][: grid.ndim])
    away = (points / sizes).square().sum(-1)
    classes = (away < 1).long() + (away < 0.3).long()
    labels = torch.tensor([0, *VALUES])[classes]
    return Volume(classes.float() * 500 - 200, grid), Volume(labels, grid)


def write_scan(path: Path, grid: Geometry) -> tuple[Volume, Volume]:
    image, labels = anatomy(grid)
    write_image(path, image)
    return image, labels


def test_segmentation_on_a_lattice_that_is_shared_is_exact(ndim: int, tmp_path: Path) -> None:
    grid = flipped(ndim)
    _, labels = write_scan(tmp_path / "scan.nii.gz", grid)
    session = Session(make_run(tmp_path / "run", PLANS[ndim]))
    found = session.segment(tmp_path / "scan.nii.gz")
    assert found.geometry.same_as(grid)
    assert torch.equal(found.data, labels.data)
    assert set(found.data.unique().tolist()) == {0, *VALUES}


def test_segmentation_of_an_oblique_scan_comes_back_to_its_grid(ndim: int, tmp_path: Path) -> None:
    grid = oblique(ndim)
    _, labels = write_scan(tmp_path / "scan.nii.gz", grid)
    session = Session(make_run(tmp_path / "run", PLANS[ndim]))
    found = session.segment(tmp_path / "scan.nii.gz")
    assert found.geometry.same_as(grid)
    for value in VALUES:
        a, b = found.data == value, labels.data == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85
    points = grid.points_mm() - grid.centre_mm
    away = (points / torch.tensor([11.0, 12.0, 13.0][:ndim])).square().sum(-1).sqrt()
    clear = ((away - 1).abs() > 0.2) & ((away - 0.3**0.5).abs() > 0.2)
    assert clear.sum() > 100
    assert torch.equal(found.data[clear], labels.data[clear])


def test_what_lies_beyond_the_working_grid_is_background(tmp_path: Path) -> None:
    plan = replace(PLANS[3], shape=(16, 16, 8), spacing_mm=(1.0, 1.0, 1.0))
    grid = Geometry.axis_aligned((24, 24, 16), (1.0, 1.0, 1.0), (5.0, 6.0, 7.0))
    write_image(tmp_path / "s.nii.gz", Volume(torch.full(grid.shape, 9.0).index_fill_(
        0, torch.tensor([0]), 0.0), grid))  # fmt: skip
    found = Session(make_run(tmp_path / "run", plan)).segment(tmp_path / "s.nii.gz").data
    inside = found[4:-4, 4:-4, 4:-4]
    assert set(inside.unique().tolist()) == {700}
    assert int((found != 0).sum()) == inside.numel()


def test_an_untrained_registration_is_the_shift_between_centres(ndim: int, tmp_path: Path) -> None:
    first, second = oblique(ndim, 0), oblique(ndim, 1)
    moved = Geometry(second.shape, second.affine + 0.0)
    moved.affine[:ndim, ndim] += torch.tensor([7.3, -2.9, 4.1][:ndim])
    write_scan(tmp_path / "fixed.nii.gz", first)
    write_scan(tmp_path / "moving.nii.gz", moved)
    session = Session(make_run(tmp_path / "run", PLANS[ndim]))
    paths = {"moving": tmp_path / "moving.nii.gz", "fixed": tmp_path / "fixed.nii.gz"}
    points = first.points_mm()
    shift = moved.centre_mm - first.centre_mm
    for transform in (session.register(**paths), session.alignment(**paths)):
        torch.testing.assert_close(transform(points), points + shift, atol=1e-4, rtol=0)
        back = transform.inverse()(points + shift)
        torch.testing.assert_close(back, points, atol=1e-4, rtol=0)


def test_with_headers_trusted_it_is_the_identity(ndim: int, tmp_path: Path) -> None:
    grid = oblique(ndim)
    plan = replace(PLANS[ndim], align="world", centre_mm=tuple(grid.centre_mm.tolist()))
    write_scan(tmp_path / "fixed.nii.gz", grid)
    write_scan(tmp_path / "moving.nii.gz", oblique(ndim, 1))
    session = Session(make_run(tmp_path / "run", plan))
    transform = session.register(moving=tmp_path / "moving.nii.gz", fixed=tmp_path / "fixed.nii.gz")
    points = grid.points_mm()
    torch.testing.assert_close(transform(points), points, atol=1e-9, rtol=0)


def test_the_map_goes_from_fixed_to_moving_in_mm(ndim: int, tmp_path: Path) -> None:
    """A network that adds 1.5 voxels: in mm along R, A, S, whatever the axes of the scans."""
    write_scan(tmp_path / "fixed.nii.gz", flipped(ndim))
    write_scan(tmp_path / "moving.nii.gz", oblique(ndim))
    session = Session(make_run(tmp_path / "run", PLANS[ndim], "constant"))
    paths = {"moving": tmp_path / "moving.nii.gz", "fixed": tmp_path / "fixed.nii.gz"}
    points = flipped(ndim).points_mm()
    step = session.register(**paths)(points) - session.alignment(**paths)(points)
    expected = 1.5 * torch.tensor(PLANS[ndim].spacing_mm, dtype=torch.float64)
    torch.testing.assert_close(step, expected.expand_as(step), atol=1e-5, rtol=0)


@pytest.mark.parametrize("half", [True, False])
def test_the_inverse_leads_back(half: bool, tmp_path: Path) -> None:
    grid = oblique(3)
    write_scan(tmp_path / "a.nii.gz", grid)
    write_scan(tmp_path / "b.nii.gz", oblique(3, 1))
    network = {**SMALL, "half_resolution": half, "squarings": 3}
    session = Session(make_run(tmp_path / "run", PLANS[3], network, std=0.2))
    transform = session.register(moving=tmp_path / "a.nii.gz", fixed=tmp_path / "b.nii.gz")
    assert [type(part) for part in transform.parts()] == [Affine, DisplacementField, Affine]
    points = oblique(3, 1).points_mm()
    there = transform(points)
    alignment = session.alignment(moving=tmp_path / "a.nii.gz", fixed=tmp_path / "b.nii.gz")
    assert (there - alignment(points)).abs().max() > 0.3
    assert (transform.inverse()(there) - points).abs().mean() < 0.02


def test_a_run_without_networks(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", PLANS[3])
    for name in run.network_names():
        (run.path / f"{name}.safetensors").unlink()
    with pytest.raises(BadInput, match="no trained network yet; finish training"):
        Session(run)


def test_a_scan_of_other_dimensions(tmp_path: Path) -> None:
    write_scan(tmp_path / "slice.nii.gz", oblique(2))
    session = Session(make_run(tmp_path / "run", PLANS[3]))
    with pytest.raises(BadInput, match=r"slice\.nii\.gz: is 2-D; expected 3-D"):
        session.segment(tmp_path / "slice.nii.gz")
