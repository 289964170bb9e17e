"""Memory: what is counted before a case starts, and what is kept to."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from test_session import PLANS, SMALL, VALUES, importable, make_run, oblique, write_scan

from benchmarks.speed.memory import call
from deepatlas.compute import half_pays, parse_memory, used_memory
from deepatlas.data.plan import Plan
from deepatlas.errors import BadInput
from deepatlas.inference.chain import warp
from deepatlas.inference.memory import Cost, Room, _Live, for_field, for_inverse, held
from deepatlas.inference.register import register, write_registration
from deepatlas.inference.segment import segment
from deepatlas.inference.session import Session
from deepatlas.io.images import read_labels, write_image
from deepatlas.io.transforms import write_transform
from deepatlas.networks.segmentation import build_segmentation
from deepatlas.run.folder import RunFolder
from deepatlas.spatial.geometry import Geometry, Volume
from deepatlas.spatial.transform import (
    FADE_VOXELS,
    Affine,
    Composite,
    DisplacementField,
    Transform,
    fade_margin,
)
from deepatlas.training.recipe import load_recipe

__all__ = ["importable"]  # a fixture


def test_tensors_are_counted_as_they_come_and_go() -> None:
    """Two of four bytes at most at once, the third after the first is gone; views are free."""

    def run(shape: tuple[int, ...]) -> torch.Tensor:
        one = torch.zeros(shape)
        two = one[..., :1].expand(shape) + 1
        del one
        three = two.flatten().view(shape) * 2
        del two
        return three

    cost = held(run, (40, 50))
    assert cost is not None
    assert cost(2000) == 8 * 2000


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("ndim", [2, 3])
def test_the_count_of_a_small_input_holds_for_a_large_one(ndim: int, half: bool) -> None:
    """Also where most of the small input's bytes are weights in bfloat16."""
    network = build_segmentation("unet", ndim=ndim, classes=7).eval()

    def run(shape: tuple[int, ...]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return network(torch.zeros(shape))

    large = (64, 48, 80)[:ndim]
    cost = held(run, large, network.multiple)
    assert cost is not None
    assert len(cost.moments) > 1
    with torch.inference_mode(), _Live() as live:
        run((1, 1, *large))
    share = cost(math.prod(large)) / max(live.history)
    # Small inputs are copied once more before a normalisation; in float32, where PyTorch does not
    # convolve them channels last, what lies at a decoder's corners is, too.
    assert 0.99 < share < (1.2 if half else 1.4)


def test_small_inputs_are_no_larger_than_the_grid() -> None:
    sizes: list[tuple[int, ...]] = []

    def run(shape: tuple[int, ...]) -> Tensor:
        sizes.append(shape)
        return torch.zeros(shape) + 1

    grid = (48, 56, 48)
    cost = held(run, grid, 64)
    assert sizes == [(1, 1, 64, 64, 64)]
    assert cost is not None
    assert cost(64**3) == 2 * 4 * 64**3
    sizes.clear()
    held(run, grid, 8)
    assert sizes == [(1, 1, 32, 32, 32), (1, 1, 32, 32, 64)]


def test_what_is_said_of_a_device_is_the_bound_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("memory_allocated", 10**9), ("memory_reserved", 10**9)):
        monkeypatch.setattr(torch.cuda, name, lambda device, size=size: size)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 80 * 10**9))
    device = torch.device("cuda")
    assert "8.00 GB can be used of what is free" in str(
        Room("80GB").on(device).too_little("x", 1, "")
    )
    limited = str(Room("3GB").on(device).too_little("x", 1, ""))
    assert "of --max-memory 3.00 GB the program itself holds 1.00 GB" in limited


class Strided(nn.Module):
    """One voxel in 32 along each axis, normalised: it needs two of those."""

    def __init__(self, ndim: int, classes: int) -> None:
        super().__init__()
        self.down = nn.Conv3d(1, classes, 32, stride=32)
        self.norm = nn.InstanceNorm3d(classes)

    def forward(self, image: Tensor) -> Tensor:
        return nn.functional.interpolate(self.norm(self.down(image)), image.shape[2:])


class OneSize(nn.Module):
    """Its input has one size, that of the grid."""

    def __init__(self, ndim: int, classes: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.linspace(0, 1, classes).reshape(1, -1, 1, 1, 1))
        self.place = nn.Parameter(torch.zeros(1, 1, 32, 48, 32))

    def forward(self, image: Tensor) -> Tensor:
        return -((image + self.place - self.level) ** 2)


@pytest.mark.parametrize(("kind", "multiple"), [("Strided", 32), ("OneSize", 16)])
def test_networks_that_do_not_work_on_every_size(
    kind: str, multiple: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where small inputs are none for them they are used in one pass, uncounted."""
    monkeypatch.setitem(sys.modules, "test_memory", sys.modules[__name__])
    spec = {"kind": f"test_memory:{kind}", "ndim": "{ndim}", "classes": "{classes}"}
    spec["multiple"] = multiple
    run = make_run(tmp_path / "run", PLANS[3])
    recipe = load_recipe(
        "baseline", overrides={"networks.segmentation": spec, "networks.registration": SMALL}
    )
    torch.manual_seed(0)
    run.write_config(recipe)
    network = build_segmentation(spec, ndim=3, classes=3)
    run.write_network("segmentation", network.state_dict(), recipe)
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    session = Session(run)
    assert (session.segment(path).data != 0).any()
    assert (session._segmenter.cost is None) == (kind == "OneSize")
    with pytest.raises(BadInput, match="needs about"):  # the rest is counted
        segment(run, [path], out=tmp_path / "out", max_memory="1MB")


def test_work_waits_until_there_is_room() -> None:
    room = Room("8GB")
    room.total = 100
    most = now = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal most, now
        for _ in range(20):
            with room.taking(40):
                with lock:
                    now += 1
                    most = max(most, now)
                with lock:
                    now -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 2
    with room.taking(1000):  # alone, for what is too much is refused elsewhere
        pass


def test_the_limit_is_of_the_whole_process() -> None:
    room = Room("64GB")
    assert 0 < 64e9 - room.total - used_memory() < 3e8
    assert Room().total > 0


def large_run(folder: Path, shape: tuple[int, ...], *, slabs: bool = True) -> RunFolder:
    """A run with the default U-Net, whose weights are drawn, on a grid of that shape."""
    plan = Plan(
        shape=shape, spacing_mm=(1.0, 1.0, 1.0)[: len(shape)], centre_mm=(0.0,) * len(shape),
        label_values=VALUES, label_dtype="int16",
    )  # fmt: skip
    run = make_run(folder, plan)
    recipe = load_recipe("baseline", overrides={"networks.registration": SMALL})
    torch.manual_seed(1)
    network = build_segmentation("unet", ndim=len(shape), classes=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    run.write_config(recipe)
    run.write_network("segmentation", network.state_dict(), recipe)
    return run


def noise(path: Path, shape: tuple[int, ...], spacing: float = 1.0) -> Path:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 1, *[max(2, n // 4) for n in shape], generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0]
    write_image(path, Volume(1000 * smooth, Geometry.axis_aligned(shape, (spacing,) * 3)))
    return path


@pytest.mark.parametrize("spacing", [1.0, 1.13])
def test_slabs_give_what_one_pass_gives(spacing: float, tmp_path: Path) -> None:
    """On the lattice of the working grid, and between its voxels."""
    path = noise(tmp_path / "scan.nii.gz", (43, 38, 29), spacing)
    run = large_run(tmp_path / "run", (44, 40, 31))
    session = Session(run)
    session.half = False  # of which rounding is the least
    whole = session.segment(path).data
    segmenter, shape = session._segmenter, whole.shape
    segmenter.cost = Cost(((0.0, 1e6),))
    beside, in_slab = segmenter.slab_bytes
    segmenter.slab_bytes = (beside, 1000 * in_slab)
    session.room.total = math.ceil(segmenter.need(4, shape))
    assert segmenter.way(path, shape) == 4
    found = session.segment(path).data
    assert len(whole.unique()) == 3
    assert (found != whole).float().mean() < 1e-3


def test_a_window_is_the_last_resort_and_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A network of single voxels, to which tiles make no difference; without a limit refused."""
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    session = Session(make_run(tmp_path / "run", PLANS[3]), max_memory="64GB")
    whole = session.segment(path).data
    segmenter = session._segmenter
    segmenter.cost, segmenter.network.multiple = Cost(((0.0, 3e5),)), 4
    session.room.total = math.ceil(segmenter.need(None, whole.shape) * 0.8)
    assert torch.equal(session.segment(path).data, whole)
    assert re.search(r"scan\.nii\.gz: .* in \d+ tiles of \d+ x \d+ x \d+ voxels", caplog.text)
    session.room.limit = None
    with pytest.raises(BadInput, match=r"scan\.nii\.gz: .* needs about .* say --max-memory SIZE"):
        session.segment(path)


def test_too_little_for_anything(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    run = make_run(tmp_path / "run", PLANS[3])
    with pytest.raises(BadInput, match=r"scan\.nii\.gz.* needs about .*--max-memory 1 MB.*give it"):
        segment(run, [path], out=tmp_path / "out", max_memory="1MB")
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadInput, match=r"registration on its grid of 32 x 40 x 24 .*spacing_mm"):
        register(run, moving=path, fixed=path, out=tmp_path / "pair", max_memory="1MB")
    assert not (tmp_path / "pair").exists()


def test_too_little_to_warp(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    write_transform(tmp_path / "t.mat", Affine.identity(3))
    given = {"image": path, "onto": path, "out": tmp_path / "out"}
    with pytest.raises(BadInput, match=r"scan\.nii\.gz: warping it needs about"):
        warp([tmp_path / "t.mat"], **given, max_memory=1000)
    assert not (tmp_path / "out").exists()


def test_warping_inverts_once_where_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = DisplacementField(
        torch.full((3, 40, 40, 40), 1.5), Geometry.axis_aligned((40,) * 3, (1.0,) * 3)
    )
    write_transform(tmp_path / "t.h5", whole)
    (tmp_path / "marks.csv").write_text("x,y,z\n9,9,9\n")
    given = {"points": tmp_path / "marks.csv", "out": tmp_path / "out", "inverse": True}
    inverse, made = DisplacementField.inverse, []

    def counted(field: DisplacementField) -> DisplacementField:
        made.append(field)
        return inverse(field)

    monkeypatch.setattr(DisplacementField, "inverse", counted)
    monkeypatch.setattr("deepatlas.inference.memory.used_memory", lambda: 0)
    limit = (100 << 20) + int(for_inverse(whole) / 2)
    with pytest.raises(BadInput, match=r"t\.h5: inverting it needs about .* or use the file of"):
        warp([tmp_path / "t.h5"], **given, max_memory=limit)
    assert not made
    warp([tmp_path / "t.h5"], **given)
    assert len(made) == 1
    assert (tmp_path / "out/marks.csv").read_text().endswith("7.500000,7.500000,7.500000\n")


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_inverse_and_a_faded_field_take_what_is_counted(ndim: int) -> None:
    """Also where the field is large at its border, so that its margin is wide."""
    torch.manual_seed(0)
    grid = Geometry.axis_aligned((40, 44, 36)[:ndim], (1.0, 1.5, 2.0)[:ndim])
    mode = "bilinear" if ndim == 2 else "trilinear"
    coarse = 4 * torch.randn(1, ndim, *[4] * ndim)
    steps = nn.functional.interpolate(coarse, grid.shape, mode=mode, align_corners=True)[0]
    margin = fade_margin(steps)
    assert margin > FADE_VOXELS
    with _Live() as live:
        field = DisplacementField.faded(steps, grid)
    assert field.geometry.same_as(grid.padded(margin))
    assert for_field(grid.shape) < max(live.history) < for_field(grid.shape, margin)
    whole = Composite([Affine.identity(ndim), DisplacementField(steps, grid)])
    with _Live() as live:
        whole.inverse()
    assert 0.8 * for_inverse(whole) < max(live.history) < for_inverse(whole)


def test_too_little_for_the_inverse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scan.nii.gz"
    write_scan(path, oblique(3))
    steps = torch.full((3, 100, 100, 100), 3.0)
    steps[:, 0, 0, 0] = 0
    whole = DisplacementField(steps, Geometry.axis_aligned((100,) * 3, (1.0,) * 3))
    need = for_inverse(whole)

    def find() -> tuple[Transform, Transform]:
        return whole, Affine.identity(3)

    given = {"moving": path, "fixed": path, "out": tmp_path / "out", "write": "all"}
    monkeypatch.setattr("deepatlas.inference.memory.used_memory", lambda: 0)
    with pytest.raises(BadInput, match=r"inverting the map needs about .*--write all"):
        write_registration(find, **given, max_memory=(100 << 20) + int(0.7 * need))
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written >= {"moved.nii.gz", "transform.h5", "transform.json"}


def test_half_precision_is_used_where_the_device_has_it(tmp_path: Path) -> None:
    session = Session(make_run(tmp_path / "run", PLANS[2]))
    assert session.half == half_pays(torch.device("cpu"))


@pytest.mark.slow
def test_a_command_stays_below_its_limit(tmp_path: Path) -> None:
    """Peak memory of the process itself, for one pass, slabs and a scan much larger than a grid."""
    path = noise(tmp_path / "scan.nii.gz", (180, 170, 160), 0.8)
    run = large_run(tmp_path / "run", (144, 136, 128))
    labels: dict[str, np.ndarray] = {}
    said = ""
    for limit in ("4GB", "1050MB"):
        out = tmp_path / limit
        command = ["segment", str(run.path), str(path), "--out", str(out), "--threads", "2"]
        done, mib = call(["-m", "deepatlas", *command, "--max-memory", limit])
        assert done.returncode == 0, done.stderr
        said += done.stderr
        assert 300 < mib < parse_memory(limit) / 2**20
        labels[limit] = read_labels(out / "scan.nii.gz")[0].data.numpy()
    assert said.count("slabs") == 1
    assert (labels["4GB"] != labels["1050MB"]).mean() < 0.01  # rounding in bfloat16, of noise


def test_counting_does_not_import_pytorchs_compiler() -> None:
    """Which takes two seconds of a command's start."""
    code = (
        "import sys, torch; from deepatlas.inference.memory import held;"
        "print(held(torch.zeros, (4, 4))(16), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == "64.0 False\n"
