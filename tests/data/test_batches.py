"""Batches are a pure function of where they are drawn; labels that are hidden stay hidden."""

from __future__ import annotations

import math
import pickle
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deepatlas.data.augment import Augmentation
from deepatlas.data.batches import Batch, Batches, Draw, one_hot
from deepatlas.data.prepare import Preparation, PreparedScan, inside
from deepatlas.data.randomness import generator, permutation, seed_of, uniform
from deepatlas.errors import BadInput
from deepatlas.spatial.geometry import Geometry
from deepatlas.spatial.matrix import to_matrix
from deepatlas.spatial.transform import Affine

SHAPE = (5, 4)
GRID = Preparation(Geometry.axis_aligned(SHAPE, (1.0, 1.0)), Affine(torch.eye(3)))


def scan(
    number: int, *, labelled: bool, present: tuple[bool, ...] = (True, True, True)
) -> PreparedScan:
    """A scan whose image holds its number, and whose labels are its number modulo 4."""
    return PreparedScan(
        id=f"case_{number:02d}",
        image=torch.full((1, *SHAPE), number / 100),
        labels=torch.full(SHAPE, 1 + number % 3, dtype=torch.uint8) if labelled else None,
        present=torch.tensor(present if labelled else (False,) * 3),
        preparation=GRID,
    )


SCANS = [scan(n, labelled=n in (2, 5, 7)) for n in range(12)]
PAIR = {"fixed": Draw(3, "any"), "moving": Draw(3, "any", apart_from="fixed")}


def same(a: Batch, b: Batch) -> bool:
    parts = [
        (a.scans, b.scans, ("image", "labels", "labelled", "present"), "ids"),
        (a.views, b.views, ("positions", "flipped", "intensity"), "noise_seed"),
    ]
    return all(
        mine.keys() == other.keys()
        and all(getattr(mine[r], plain) == getattr(other[r], plain) for r in mine)
        and all(torch.equal(getattr(mine[r], n), getattr(other[r], n)) for r in mine for n in names)
        for mine, other, names, plain in parts
    )


def test_a_pure_function_of_its_place() -> None:
    request = {**PAIR, "scan": Draw(2, "yes", augment=Augmentation())}
    batches = Batches(SCANS)
    first = batches.draw(request, 0, "joint", 17)
    for step in (3, 16, 18):  # other draws in between, as after resuming
        assert not same(batches.draw(request, 0, "joint", step), first)
    assert same(batches.draw(request, 0, "joint", 17), first)
    assert same(Batches(SCANS).draw(request, 0, "joint", 17), first)
    assert not same(batches.draw(request, 1, "joint", 17), first)
    assert not same(batches.draw(request, 0, "registration", 17), first)
    torch.manual_seed(99)
    assert same(batches.draw(request, 0, "joint", 17), first)


def test_the_order_of_scans_does_not_matter() -> None:
    request = {**PAIR, "scan": Draw(4, "yes", augment=Augmentation())}
    shuffled = list(SCANS)
    random.Random(0).shuffle(shuffled)
    assert [s.id for s in shuffled] != [s.id for s in SCANS]
    for step in range(5):
        key = (0, "joint", step)
        assert same(Batches(shuffled).draw(request, *key), Batches(SCANS).draw(request, *key))


def test_a_role_does_not_depend_on_the_others() -> None:
    batches = Batches(SCANS)
    alone = batches.draw({"scan": Draw(4, "yes", augment=Augmentation())}, 0, "a", 1)
    with_others = batches.draw({**PAIR, "scan": Draw(4, "yes", augment=Augmentation())}, 0, "a", 1)
    assert with_others.scans["scan"].ids == alone.scans["scan"].ids
    assert torch.equal(with_others.views["scan"].positions, alone.views["scan"].positions)
    backwards = dict(reversed(PAIR.items()))
    pair, turned = batches.draw(PAIR, 0, "a", 1), batches.draw(backwards, 0, "a", 1)
    assert same(pair, turned)
    assert list(turned.scans) == ["moving", "fixed"]
    plain = {role: Draw(4, "any") for role in ("one", "two")}
    both = batches.draw(plain, 0, "a", 1).scans
    assert both["one"].ids != both["two"].ids  # roles have their own draws
    varied = {"scan": Draw(4, "yes", augment=Augmentation(rotation_degrees=0.0))}
    assert batches.draw(varied, 0, "a", 1).scans["scan"].ids == alone.scans["scan"].ids


def test_pairs_are_of_two_scans() -> None:
    batches = Batches(SCANS[:2])  # the only other one is left
    for step in range(30):
        drawn = batches.draw(PAIR, 0, "a", step).scans
        assert all(m != f for m, f in zip(drawn["moving"].ids, drawn["fixed"].ids, strict=True))
    several = {"fixed": Draw(2, "no"), "moving": Draw(6, "any", apart_from="fixed")}
    for step in range(30):  # three to each fixed scan: item i belongs to fixed i modulo 2
        drawn = Batches(SCANS).draw(several, 0, "a", step).scans
        pairs = zip(drawn["moving"].ids, drawn["fixed"].ids * 3, strict=True)
        assert all(m != f for m, f in pairs)


@pytest.mark.parametrize(("each", "different"), [(2, 2), (3, 3), (4, 3)])
def test_several_for_one_scan_differ_while_there_are_others(each: int, different: int) -> None:
    """Of three labelled scans."""
    request = {"fixed": Draw(2, "no"), "moving": Draw(2 * each, "yes", apart_from="fixed")}
    seen = Counter[str]()
    for step in range(100):
        ids = Batches(SCANS).draw(request, 0, "a", step).scans["moving"].ids
        assert [len(set(ids[k::2])) for k in range(2)] == [different, different]
        seen.update(ids[:2])
    assert len(seen) == 3


def test_every_scan_of_its_pool_is_drawn_alike() -> None:
    batches = Batches(SCANS)
    labelled = {s.id for s in SCANS if s.labels is not None}
    pools: list[tuple[Any, set[str]]] = [
        ("any", {s.id for s in SCANS}),
        ("yes", labelled),
        ("no", {s.id for s in SCANS} - labelled),
    ]
    for pool, ids in pools:
        request = {"x": Draw(4, pool)}
        drawn = Counter(
            i for step in range(300) for i in batches.draw(request, 0, "a", step).scans["x"].ids
        )
        assert set(drawn) == ids
        expected = 1200 / len(ids)
        assert all(abs(n - expected) < 6 * expected**0.5 for n in drawn.values())
    assert [len(batches.pools[name]) for name in ("any", "yes", "no")] == [12, 3, 9]


def test_what_a_batch_holds() -> None:
    annotated = [scan(1, labelled=True, present=(True, False, True)), scan(2, labelled=False)]
    drawn = Batches(annotated).draw({"x": Draw(6, "any")}, 0, "a", 0).scans["x"]
    assert set(drawn.ids) == {"case_01", "case_02"}
    assert drawn.image.shape == (6, 1, *SHAPE)
    assert drawn.image.dtype == torch.float32
    assert drawn.labels.shape == (6, *SHAPE)
    assert drawn.labels.dtype == torch.int16
    assert drawn.classes == 4
    for item, name in enumerate(drawn.ids):
        known = name == "case_01"
        assert (drawn.image[item] == (0.01 if known else 0.02)).all()
        assert bool(drawn.labelled[item]) is known
        assert drawn.present[item].tolist() == [known, False, known]
        assert (drawn.labels[item] == (2 if known else 0)).all()
    assert drawn.one_hot().shape == (6, 4, *SHAPE)


def test_hidden_labels_do_not_leak() -> None:
    hidden = scan(4, labelled=True)
    hidden = PreparedScan(hidden.id, hidden.image, None, hidden.present, hidden.preparation)
    batches = Batches([hidden, scan(3, labelled=True)])
    assert len(batches.pools["yes"]) == 1
    for step in range(10):
        assert batches.draw({"x": Draw(1, "yes")}, 0, "a", step).scans["x"].ids == ("case_03",)
        drawn = batches.draw({"x": Draw(1, "no")}, 0, "a", step).scans["x"]
        assert drawn.ids == ("case_04",)
        assert not drawn.labelled.any()
        assert not drawn.labels.any()
        assert not drawn.present.any()


@pytest.mark.parametrize(
    ("scans", "request_", "says"),
    [
        (SCANS[:2], {"x": Draw(1, "yes")}, "more training scans with labels"),
        ([SCANS[2]], {"x": Draw(1, "no")}, "more training scans without labels"),
        ([SCANS[2]], PAIR, "more training scans than"),
        (SCANS[2:4], {"fixed": Draw(40, "any"), "moving": Draw(40, "yes", apart_from="fixed")},
         "more training scans with labels"),
        ([], {"x": Draw(1, "any", augment=Augmentation())}, "more training scans than"),
    ],
)  # fmt: skip
def test_empty_pools_are_told(scans: Any, request_: Any, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Batches(scans).draw(request_, 0, "a", 0)


def test_views_belong_to_the_roles_that_asked() -> None:
    request = {"scan": Draw(2, "yes", augment=Augmentation()), "fixed": Draw(3, "no")}
    batch = Batches(SCANS, Geometry.axis_aligned(SHAPE, (1.0, 3.0))).draw(request, 0, "a", 0)
    assert set(batch.views) == {"scan"}
    assert batch.views["scan"].positions.shape == (2, 2, *SHAPE)
    cubes = Batches(SCANS).draw(request, 0, "a", 0)
    assert cubes.scans["scan"].ids == batch.scans["scan"].ids
    assert not torch.equal(cubes.views["scan"].positions, batch.views["scan"].positions)


def test_padding_is_told_from_scan() -> None:
    """The first scan's own grid is one row shorter and begins one column later."""
    small = Geometry.axis_aligned((4, 3), (1.0, 1.0), (-0.5, 0.5))
    padded = replace(scan(1, labelled=False), preparation=Preparation(small, GRID.transform))
    scans = [padded, scan(2, labelled=False)]
    request = {"x": Draw(5, "any")}
    assert Batches(scans).draw(request, 0, "a", 0).scans["x"].inside is None
    drawn = Batches(scans, Geometry.axis_aligned(SHAPE, (1.0, 1.0))).draw(request, 0, "a", 0)
    inside = drawn.scans["x"].inside
    assert inside is not None
    assert set(drawn.scans["x"].ids) == {"case_01", "case_02"}
    there = drawn.to(torch.device("meta")).scans["x"].inside
    assert there is not None
    assert there.device.type == "meta"
    for item, name in zip(inside, drawn.scans["x"].ids, strict=True):
        expected = torch.ones(1, *SHAPE)
        if name == "case_01":
            expected[:, 4], expected[:, :, 0] = 0, 0
        assert torch.equal(item, expected)


def test_padding_is_kept_in_little_memory() -> None:
    """Of every scan that was ever drawn; a cohort may be larger than the memory."""
    shape = (41, 43, 47)
    grid = Geometry.axis_aligned(shape, (1.0, 1.5, 2.0))
    matrix = to_matrix(torch.tensor([0.2, -0.1, 0.3, 4, -5, 6.0]).double(), torch.zeros(3), "rigid")
    lies = Preparation(Geometry.axis_aligned((36, 40, 40), (1.0, 1.5, 2.0)), Affine(matrix))
    scans = [
        replace(scan(n, labelled=False), image=torch.zeros(1, *shape), preparation=lies)
        for n in range(4)
    ]
    batches = Batches(scans, grid)
    for step in range(20):
        drawn = batches.draw({"x": Draw(2)}, 0, "a", step).scans["x"].inside
        assert drawn is not None
        assert torch.equal(drawn, inside(lies, grid).expand(2, 1, *shape).float())
    assert len(pickle.dumps(batches._inside)) < 4 * math.prod(shape) / 20


def test_moving_a_batch_to_a_device() -> None:
    request = {"scan": Draw(2, "yes", augment=Augmentation())}
    batch = Batches(SCANS).draw(request, 0, "a", 0)
    assert same(batch.to(torch.device("cpu")), batch)
    there = batch.to(torch.device("meta"))
    scans = there.scans["scan"]
    tensors = [scans.image, scans.labels, scans.labelled, scans.present]
    assert {t.device.type for t in [*tensors, there.views["scan"].positions]} == {"meta"}


def test_drawing_leaves_the_scans_alone() -> None:
    mine = [scan(n, labelled=True) for n in range(3)]
    batch = Batches(mine).draw({"x": Draw(3, "any")}, 0, "a", 0)
    (
        batch.scans["x"].image.zero_(),
        batch.scans["x"].labels.zero_(),
        batch.scans["x"].present.zero_(),
    )
    for number, one in enumerate(mine):
        assert (one.image == number / 100).all()
        assert one.labels is not None
        assert one.labels.all()
        assert one.present.all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64], ids=str)
def test_one_hot(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[0, 2], [1, 3]], [[3, 3], [0, 1]]], dtype=dtype)
    maps = one_hot(labels, 5)
    assert maps.shape == (2, 5, 2, 2)
    assert maps.dtype == torch.float32
    assert maps.movedim(1, -1).is_contiguous()
    assert torch.equal(maps.argmax(dim=1), labels.long())
    assert torch.equal(maps.sum(dim=1), torch.ones(2, 2, 2))


def test_places_have_their_own_numbers() -> None:
    keys = [
        (0, "a", 1),
        (0, "a", 2),
        (1, "a", 1),
        (0, "b", 1),
        ("0", "a", 1),
        (0, "a1"),
        (0, "a", 1, 0),
    ]
    assert len({seed_of(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_of(*key) < 2**63 for key in keys)
    assert seed_of(0, "a", 1) == 7965780462979794708  # the same on every machine and Python

    def numbers(key: tuple[object, ...]) -> Tensor:
        return torch.rand(3, generator=generator(*key))

    assert torch.equal(numbers(keys[0]), numbers(keys[0]))
    assert not torch.equal(numbers(keys[0]), numbers(keys[1]))


def test_uniform_numbers() -> None:
    drawn = [uniform(0, "x", step) for step in range(2000)]
    assert all(0 <= x < 1 for x in drawn)
    assert abs(sum(drawn) / 2000 - 0.5) < 0.03
    assert all(abs(sum(x < q for x in drawn) / 2000 - q) < 0.04 for q in (0.1, 0.25, 0.75, 0.9))
    assert uniform(0, "x", 5) == drawn[5]


def test_the_largest_uniform_number_is_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepatlas.data.randomness.seed_of", lambda *key: 2**63 - 1)
    assert uniform(0) < 1


def test_permutations() -> None:
    assert sorted(permutation(9, 0, "split")) == list(range(9))
    assert permutation(9, 0, "split") == permutation(9, 0, "split")
    assert permutation(9, 0, "split") != permutation(9, 1, "split")
