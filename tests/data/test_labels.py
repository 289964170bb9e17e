"""Label values and class indices are one to one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepatlas.data.labels import class_dtype, classes_to_labels, label_values, labels_to_classes

VALUES = st.lists(
    st.integers(1, 2**62), min_size=1, max_size=12, unique=True
).map(sorted)  # fmt: skip


@settings(deadline=None)
@given(VALUES, st.lists(st.integers(0, 99), min_size=1, max_size=30))
def test_round_trip_is_exact(values: list[int], picks: list[int]) -> None:
    table = torch.tensor([0, *values])
    labels = table[torch.tensor(picks) % len(table)]
    classes = labels_to_classes(labels, values)
    assert classes.dtype == torch.uint8
    assert classes.tolist() == [[0, *values].index(v) for v in labels.tolist()]
    assert torch.equal(classes_to_labels(classes, values), labels)


def test_neighbours_beyond_float_precision_stay_apart() -> None:
    values = [2**24, 2**24 + 1, 2**53, 2**53 + 1]
    labels = torch.tensor([[2**24 + 1, 0], [2**53 + 1, 2**53]])
    classes = labels_to_classes(labels, values)
    assert classes.tolist() == [[2, 0], [4, 3]]
    assert torch.equal(classes_to_labels(classes, values), labels)
    with pytest.raises(ValueError, match="not among"):
        labels_to_classes(torch.tensor([2**24 + 1]), [2**24])


@pytest.mark.parametrize("label", [-1, 1, 4, 6, 2**40])
def test_unknown_values_are_told(label: int) -> None:
    with pytest.raises(ValueError, match=rf"\[{label}\] are not among the known 2"):
        labels_to_classes(torch.tensor([0, 3, label, 5]), [3, 5])


def test_no_class_at_all() -> None:
    assert labels_to_classes(torch.zeros(3, dtype=torch.int64), []).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="not among"):
        labels_to_classes(torch.tensor([1]), [])


@pytest.mark.parametrize("values", [[2, 1], [1, 1], [0, 1]])
def test_the_table_is_checked(values: list[int]) -> None:
    with pytest.raises(ValueError, match="ascending label values without 0"):
        labels_to_classes(torch.tensor([1]), values)


def test_many_classes_need_more_than_a_byte() -> None:
    assert class_dtype(255) == torch.uint8
    values = list(range(10, 310))
    classes = labels_to_classes(torch.tensor(values), values)
    assert classes.dtype == torch.int16
    assert classes.tolist() == list(range(1, 301))


@settings(deadline=None)
@given(st.lists(st.one_of(st.integers(-3, 3), st.integers(-(2**62), 2**62)), max_size=20))
def test_values_that_occur(labels: list[int]) -> None:
    expected = tuple(sorted(set(labels) - {0}))
    assert label_values(torch.tensor(labels, dtype=torch.int64)) == expected
