"""What tasks make of scans that say nothing of some structures, or of some voxels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import CLASSES, batch, make_networks, make_scans
from torch import Tensor, nn

from deepatlas.data.augment import Augmentation, View
from deepatlas.data.batches import Batch, Batches, Scans, one_hot
from deepatlas.data.prepare import PreparedScan
from deepatlas.losses.overlap import DiceCE, SoftDice
from deepatlas.networks.registration.base import Deformation
from deepatlas.training.tasks.base import Context, Task
from deepatlas.training.tasks.joint import Joint, agreed
from deepatlas.training.tasks.registration import Registration
from deepatlas.training.tasks.segmentation import Segmentation
from deepatlas.training.validation import Validation

IGNORED = CLASSES


def ignoring(scan: PreparedScan) -> PreparedScan:
    """The scan with a slab that is ignored, across a structure."""
    assert scan.labels is not None
    labels = scan.labels.clone()
    labels[3:6] = IGNORED
    return replace(scan, labels=labels)


def ignoring_batch(**roles: list[PreparedScan]) -> Batch:
    plain = batch(**roles)
    return Batch({role: replace(s, ignoring=True) for role, s in plain.scans.items()}, {})


class Fixed(nn.Module):
    """A segmentation network whose logits are its weights."""

    def __init__(self, count: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(count, CLASSES, *shape, generator=random))

    def forward(self, image: Tensor) -> Tensor:
        return self.logits[: len(image)]


class Shift(nn.Module):
    """A registration network that moves by whole voxels along the first axis."""

    def __init__(self, voxels: float) -> None:
        super().__init__()
        self.voxels = nn.Parameter(torch.tensor(voxels))

    def forward(self, moving: Tensor, fixed: Tensor) -> Deformation:
        displacement = torch.zeros(len(moving), moving.ndim - 2, *moving.shape[2:])
        displacement[:, 0] = 1
        return Deformation(displacement * self.voxels, None)


def make_task(
    config: Segmentation | Registration | Joint, ndim: int, **networks: nn.Module
) -> Task:
    context = Context((1.0,) * ndim, 10, (0, "stage"), 3, 3)
    return config.build(nn.ModuleDict(networks), context)


PLAIN = {"augment": None, "labelled_pairs": 0.0, "regularity_weight": 0.0}
FORWARD = {**PLAIN, "registration_steps": 0, "moving_labelled": 1.0, "supervised_weight": 0.0}
BACKWARD = {**FORWARD, "moving_labelled": 0.0}


def test_the_ignored_get_no_gradient_in_the_supervised_loss(ndim: int) -> None:
    known, marked = make_scans(ndim, 2, labelled=2)
    marked = ignoring(marked)
    network = Fixed(2, known.image.shape[1:])
    task = make_task(Segmentation(augment=None), ndim, segmentation=network)
    task(ignoring_batch(scan=[known, marked]), 0).total.backward()
    gradient = network.logits.grad
    assert gradient is not None
    assert marked.labels is not None
    away = marked.labels == IGNORED
    assert away.any()
    assert (gradient[1][:, away] == 0).all()
    assert (gradient[1][:, ~away] != 0).any(dim=0).all()
    assert (gradient[0] != 0).any(dim=0).all()


@pytest.mark.parametrize("role", ["scan", "fixed"])
def test_a_mirrored_scan_was_annotated_on_the_other_side(ndim: int, role: str) -> None:
    """Of left and right only the left was annotated: mirrored, it is the right that is known."""
    scan, other = make_scans(ndim, 2, labelled=1)
    assert scan.labels is not None
    left = replace(
        scan, labels=scan.labels * (scan.labels == 1), present=torch.tensor([True, False])
    )
    network = Fixed(1, scan.image.shape[1:])
    task: Task
    if role == "scan":
        task = make_task(Segmentation(augment=None), ndim, segmentation=network)
        drawn = batch(scan=[left])
    else:
        config = Joint(**{**FORWARD, "supervised_weight": 0.0}, anatomy="dice_ce", batch=1)
        task = make_task(config, ndim, segmentation=network, registration=Shift(0.0))
        drawn = batch(scan=[left], moving=[left], fixed=[other])
    view = replace(View.plain(scan.image[None]), flipped=torch.tensor([True]), flip_pairs=((1, 2),))
    loss = task(replace(drawn, views={role: view}), 0).total / (1 if role == "scan" else 3)
    right = one_hot((left.labels * 2)[None].long(), CLASSES)
    expected = DiceCE()(network.logits.softmax(dim=1), right, torch.tensor([[False, True]]))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("config", [FORWARD, BACKWARD], ids=["to fixed", "from moving"])
@pytest.mark.parametrize("anatomy", ["dice", "dice_ce"])
def test_a_warped_ignored_voxel_weighs_nothing(ndim: int, config: dict, anatomy: str) -> None:
    """Carried by two and a half voxels: between a known and an ignored voxel it weighs half."""
    known, other = make_scans(ndim, 2, labelled=1)
    marked = ignoring(known)
    network = Fixed(1, known.image.shape[1:])
    task = make_task(
        Joint(**config, anatomy=anatomy, batch=1),
        ndim,
        segmentation=network,
        registration=Shift(2.5),
    )
    roles = {"moving": [marked], "fixed": [other]}
    if config is BACKWARD:
        roles = {"moving": [other], "fixed": [marked]}
    drawn = ignoring_batch(scan=[marked], **roles)
    task(drawn, 0).total.backward()
    gradient = network.logits.grad
    assert gradient is not None
    still = (gradient[0] == 0).all(dim=0).flatten(1).all(dim=1)
    # out(x) = in(x + 2.5): where only 3 to 5 are seen, and what only they see (0, 1: nobody does)
    rows = [1, 2] if config is FORWARD else [0, 1, 6, 7]
    assert still.nonzero().flatten().tolist() == rows
    before = float(task(drawn, 0).values["anatomy"])
    with torch.no_grad():
        network.logits[:, :, rows] *= -3
    assert float(task(drawn, 0).values["anatomy"]) == pytest.approx(before, rel=1e-6)


def test_pairs_leave_out_what_either_side_ignores(ndim: int) -> None:
    moving, fixed = make_scans(ndim, 2, labelled=2)
    shift = Shift(0.0)
    for config in (
        Registration(labelled_pairs=1.0, batch=1),
        Joint(**PLAIN, segmentation_steps=0, batch=1),
    ):
        task = make_task(config, ndim, registration=shift, segmentation=nn.Identity())
        totals = []
        for roles in (
            {"moving": [ignoring(moving)], "fixed": [fixed]},
            {"moving": [moving], "fixed": [ignoring(fixed)]},
            {"moving": [ignoring(moving)], "fixed": [ignoring(fixed)]},
        ):
            totals.append(float(task(ignoring_batch(**roles), 0).values["anatomy"]))
        one, two = (torch.cat([s.labels[:3], s.labels[6:]]) for s in (moving, fixed))
        maps = [nn.functional.one_hot(x.long(), 3).movedim(-1, 0)[None].float() for x in (one, two)]
        assert totals == pytest.approx([float(SoftDice()(*maps))] * 3, rel=1e-6)


def test_predictions_stand_for_missing_maps_beside_ignored_voxels(ndim: int) -> None:
    """A pair of a map with ignored voxels and none: nothing is read where it is ignored."""
    known, other = make_scans(ndim, 2, labelled=1)
    network = Fixed(1, known.image.shape[1:])
    joint = Joint(**PLAIN, segmentation_steps=0, batch=1)
    task = make_task(joint, ndim, registration=Shift(0.0), segmentation=network)
    drawn = ignoring_batch(moving=[other], fixed=[ignoring(known)])
    before = float(task(drawn, 0).values["anatomy"])
    with torch.no_grad():
        network.logits[:, :, 3:6] *= -3
    assert float(task(drawn, 0).values["anatomy"]) == pytest.approx(before, rel=1e-6)
    with torch.no_grad():
        network.logits[:, :, 7] *= -3
    assert float(task(drawn, 0).values["anatomy"]) != pytest.approx(before, rel=1e-6)


def test_augmentation_carries_the_ignored_with_the_labels(ndim: int) -> None:
    (scan,) = make_scans(ndim, 1, labelled=1)
    strong = Augmentation(flip_axis=0, flip_pairs=((1, 2),))
    drawn = Batches([ignoring(scan)]).draw(
        Segmentation(batch=3, augment=strong).build(nn.ModuleDict(), None).request(0), 0, "x", 0
    )
    scans, view = drawn.scans["scan"], drawn.views["scan"]
    assert scans.ignoring
    moved = view.labels(scans.labels)
    alone = view.labels((scans.labels == IGNORED).to(torch.uint8))
    assert torch.equal(moved == IGNORED, alone != 0)
    assert 0 < int(alone.sum()) < alone.numel()
    maps, weight = scans.known(scans.one_hot(moved))
    assert weight is not None
    assert torch.equal(weight[:, 0] == 0, alone != 0)
    assert maps.shape[1] == CLASSES
    assert torch.equal(maps.sum(dim=1) == 1, alone == 0)


def test_what_is_half_ignored_weighs_half_and_is_what_its_known_half_is() -> None:
    scans = Scans(*[torch.zeros(1)] * 3, torch.ones(1, 2, dtype=torch.bool), ("a",), ignoring=True)
    mixed = torch.tensor([[0.0, 0.5, 0.0, 0.5], [0.1, 0.3, 0.6, 0.0], [0.0, 0.0, 0.0, 1.0]])
    known, weight = scans.known(mixed.T[None])
    assert weight is not None
    assert weight.flatten().tolist() == [0.5, 1, 0]
    torch.testing.assert_close(known[0].T[:2], torch.tensor([[0.0, 1.0, 0.0], [0.1, 0.3, 0.6]]))


def test_cohorts_without_ignored_voxels_weigh_nothing(ndim: int) -> None:
    drawn = Batches(make_scans(ndim, 3, labelled=2)).draw(
        Segmentation(augment=None).build(nn.ModuleDict(), None).request(0), 0, "x", 0
    )
    scans = drawn.scans["scan"]
    assert not scans.ignoring
    maps, weight = scans.known(scans.one_hot())
    assert weight is None
    assert maps.shape[1] == CLASSES


def test_atlases_vote_on_what_was_annotated_in_them(ndim: int) -> None:
    maps = torch.rand(3, 2, CLASSES, *[4] * ndim, generator=torch.Generator().manual_seed(1))
    maps = maps / maps.sum(dim=2, keepdim=True)
    everywhere = torch.ones(3, 2, 2, dtype=torch.bool)
    assert torch.equal(agreed(maps, everywhere), maps.mean(dim=0))
    present = everywhere.clone()
    present[1:, 0, 0] = False  # of the first item, structure 1 is annotated in atlas 0 alone
    present[:, 1, 1] = False  # of the second, structure 2 in none
    found = agreed(maps, present)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, *[4] * ndim))
    sure = found[0, 0] > 0  # elsewhere the atlases contradict each other
    assert sure.float().mean() > 0.5
    torch.testing.assert_close(found[0, 1][sure], maps[0, 0, 1][sure])
    torch.testing.assert_close(found[0, 2][sure], maps[:, 0, 2].mean(dim=0)[sure])
    torch.testing.assert_close(found[1, 1], maps[:, 1, 1].mean(dim=0))
    assert not found[1, 2].any()


def test_atlases_that_differ_ignore_what_one_ignores() -> None:
    maps = torch.zeros(2, 1, CLASSES + 1, 3)
    maps[0, 0, 1] = 1
    maps[1, 0, 2, :2] = 1
    maps[1, 0, CLASSES, 2] = 1
    present = torch.tensor([[[True, False]], [[False, True]]])
    found = agreed(maps, present)
    assert found[0, :, 2].tolist() == [0, 0, 0, 1]
    assert found[0, :, 0].tolist() == [0, 0.5, 0.5, 0]
    scans = Scans(*[torch.zeros(1)] * 3, torch.ones(1, 2, dtype=torch.bool), ("a",), ignoring=True)
    known, weight = scans.known(found)
    assert weight is not None
    assert weight.flatten().tolist() == [1, 1, 0]
    assert known.shape[1] == CLASSES


def test_ignored_voxels_do_not_choose_the_model(ndim: int) -> None:
    """Scores are those of the voxels that both sides know."""
    first, second = make_scans(ndim, 2, labelled=2)
    networks = make_networks(ndim)
    networks["registration"] = Shift(0.0)
    names = ("segmentation", "registration")
    scans = [ignoring(first), ignoring(second)]
    scores = Validation(scans, torch.device("cpu")).score(networks, names)
    cut = []
    for scan in (first, second):
        labels = scan.labels.clone()
        labels[3:6] = 0
        cut.append(replace(scan, labels=labels))
    assert scores["registration.dice"] == pytest.approx(
        Validation(cut, torch.device("cpu")).score(networks, names)["registration.dice"]
    )
    worst = {**networks, "segmentation": Fixed(1, first.image.shape[1:])}
    before = Validation(scans, torch.device("cpu")).score(worst, ("segmentation",))
    with torch.no_grad():
        worst["segmentation"].logits[:, :, 3:6] *= -3
    assert Validation(scans, torch.device("cpu")).score(worst, ("segmentation",)) == before
