"""Parts from what stands in a YAML file, and what a user reads when it is wrong."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from deepatlas.errors import BadInput
from deepatlas.parts import build, describe, resolve


@dataclass(frozen=True)
class Blur:
    """A part with a default for everything."""

    width: int = 3
    sharp: bool = False
    edge: Literal["zeros", "border"] = "zeros"
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self) -> None:
        if self.width > 10:
            raise ValueError(f"width must be at most 10, got {self.width}")
        if self.width < 0:
            raise RuntimeError("no blur is that narrow")


@dataclass(frozen=True)
class Gain:
    """A part with something to give."""

    factor: float
    offset: float = 0.0


@dataclass(frozen=True)
class Holder:
    """A dataclass of something that JSON does not know."""

    weights: torch.Tensor = field(default_factory=lambda: torch.ones(2))


class Plain:
    """No dataclass."""

    def __init__(self, size: int, *, deep: bool = False) -> None:
        if size < 0:
            raise ArithmeticError("size is negative")
        self.size, self.deep = size, deep


TABLE: dict[str, type] = {"blur": Blur, "gain": Gain, "plain": Plain}
HERE = __name__


def faults(spec: Any) -> list[str]:
    with pytest.raises(BadInput) as caught:
        build(TABLE, spec, "filter")
    return caught.value.faults


def test_a_name_alone() -> None:
    assert build(TABLE, "blur", "filter") == Blur()


def test_fields_beside_the_kind() -> None:
    spec = {"kind": "blur", "width": 5, "edge": "border", "sizes": [4, 5]}
    assert build(TABLE, spec, "filter") == Blur(5, edge="border", sizes=(4, 5))
    assert spec == {"kind": "blur", "width": 5, "edge": "border", "sizes": [4, 5]}


def test_text_becomes_numbers() -> None:
    # YAML 1.1 reads 1e-3 as text.
    made = build(TABLE, {"kind": "gain", "factor": "1e-3"}, "filter")
    assert made.factor == 1e-3


def test_an_unknown_kind_shows_the_choices() -> None:
    (fault,) = faults("blurr")
    assert 'filter: there is no "blurr" (did you mean "blur"?)' in fault
    assert "choose one of blur, gain, plain" in fault
    assert "mypackage.module:Class" in fault


@pytest.mark.parametrize("spec", [None, 3, {"width": 3}, {"kind": 3}, ["blur"]])
def test_something_that_is_no_specification(spec: Any) -> None:
    (fault,) = faults(spec)
    assert fault.startswith('filter: expected a name or a mapping with a "kind"')
    assert "choose one of blur, gain, plain" in fault


def test_all_faults_of_the_fields_are_listed() -> None:
    listed = faults({"kind": "blur", "widht": 3, "width": 2.5, "edge": "round", "sharp": "perhaps"})
    assert len(listed) == 4
    assert 'filter "blur": there is no field "widht" (did you mean "width"?)' in listed[0]
    assert "width (int), sharp (bool)" in listed[0]
    assert any('field "width": ' in x and "integer" in x and "got 2.5" in x for x in listed)
    assert any("'zeros' or 'border'" in x and "got 'round'" in x for x in listed)
    assert any('field "sharp": ' in x and "boolean" in x for x in listed)


def test_a_field_that_must_be_given() -> None:
    (fault,) = faults("gain")
    assert 'filter "gain": field "factor" must be given' in fault


def test_what_the_part_refuses() -> None:
    assert faults({"kind": "blur", "width": 11}) == [
        'filter "blur": width must be at most 10, got 11'
    ]
    (fault,) = faults({"kind": "blur", "width": -1})
    assert "RuntimeError: no blur is that narrow" in fault


def test_a_class_that_is_no_dataclass() -> None:
    made = build(TABLE, {"kind": "plain", "size": 4, "deep": True}, "filter")
    assert (made.size, made.deep) == (4, True)
    (fault,) = faults({"kind": "plain", "size": 4, "depe": True})
    assert "'depe'" in fault
    assert "size: " in fault
    (fault,) = faults("plain")
    assert "'size'" in fault
    (fault,) = faults({"kind": "plain", "size": -1})
    assert 'filter "plain" cannot be made: ArithmeticError: size is negative' in fault


def test_a_dotted_path_to_a_dataclass_is_checked_like_our_own() -> None:
    assert build({}, {"kind": f"{HERE}:Blur", "width": 5}, "filter") == Blur(5)
    (fault,) = faults({"kind": f"{HERE}:Blur", "widht": 5})
    assert "did you mean" in fault


def test_a_dataclass_of_unknown_types_is_called() -> None:
    made = build({}, {"kind": f"{HERE}:Holder", "weights": torch.zeros(3)}, "filter")
    assert made.weights.shape == (3,)
    (fault,) = faults({"kind": f"{HERE}:Holder", "wieghts": 3})
    assert "'wieghts'" in fault


def test_a_monai_network_by_dotted_path() -> None:
    spec = {
        "kind": "monai.networks.nets:UNet",
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 3,
        "channels": [4, 8],
        "strides": [2],
    }
    network = build({}, spec, "segmentation network")
    assert network(torch.zeros(1, 1, 8, 12)).shape == (1, 3, 8, 12)
    with pytest.raises(BadInput, match="out_channels"):
        build({}, {k: v for k, v in spec.items() if k != "out_channels"}, "segmentation network")
    with pytest.raises(BadInput, match="colour"):
        build({}, {**spec, "colour": "blue"}, "segmentation network")


class Outer:
    """A class that holds another."""

    class Inner:
        """The other."""


def test_nested_classes_and_functions_that_make_parts() -> None:
    assert isinstance(build({}, f"{HERE}:Outer.Inner", "filter"), Outer.Inner)
    assert build({}, {"kind": f"{HERE}:make_blur", "width": 4}, "filter") == Blur(4)


def make_blur(width: int) -> Blur:
    return Blur(width)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nosuchpackage.losses:Mine", "no module nosuchpackage"),
        ("torch.nosuchmodule:Mine", "no module torch.nosuchmodule"),
        ("torch.nn:Lineer", 'no "Lineer" there (did you mean "Linear"?)'),
        ("torch.nn:Linear.nothing", 'no "nothing" there'),
        ("math:pi", "is a float, not a class or function"),
        (":Mine", "is not a path of the form"),
        ("torch.nn:", "is not a path of the form"),
        (".losses:Mine", "is not a path of the form"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, words: str) -> None:
    (fault,) = faults(path)
    assert fault.startswith("filter: ")
    assert path in fault
    assert words in fault


def test_a_module_that_fails_to_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_losses.py").write_text("raise KeyError('half-written')\n")
    (tmp_path / "needy_losses.py").write_text("import nosuchdependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    (fault,) = faults("broken_losses:Mine")
    assert "importing broken_losses" in fault
    assert "KeyError: 'half-written'" in fault
    (fault,) = faults("needy_losses:Mine")
    assert "no module nosuchdependency" in fault
    assert "broken_losses" not in sys.modules


def test_describe_gives_back_what_build_takes() -> None:
    part = Blur(7, sizes=(3, 4))
    spec = describe(TABLE, part)
    assert spec == {"kind": "blur", "width": 7, "sharp": False, "edge": "zeros", "sizes": [3, 4]}
    assert build(TABLE, json.loads(json.dumps(spec)), "filter") == part


def test_describe_names_what_is_in_no_table_by_its_path() -> None:
    spec = describe({}, Gain(2))
    assert spec == {"kind": f"{HERE}:Gain", "factor": 2.0, "offset": 0.0}
    assert build({}, spec, "filter") == Gain(2)


@pytest.mark.parametrize("part", [Plain(3), Holder(), Blur, "blur"])
def test_describe_refuses_what_does_not_know_its_fields(part: Any) -> None:
    with pytest.raises(TypeError, match="dataclasses"):
        describe(TABLE, part)


def test_resolve_fills_in_defaults() -> None:
    assert resolve(TABLE, "blur", "filter") == describe(TABLE, Blur())
    path = f"{HERE}:Gain"
    assert resolve(TABLE, {"kind": path, "factor": "2"}, "filter") == {
        "kind": path,
        "factor": 2.0,
        "offset": 0.0,
    }


def test_resolve_keeps_what_it_cannot_look_into() -> None:
    spec = {"kind": "torch.nn:Linear", "in_features": 3, "out_features": 2}
    assert resolve(TABLE, spec, "network") == spec
    with pytest.raises(BadInput, match="out_features"):
        resolve(TABLE, {"kind": "torch.nn:Linear", "in_features": 3}, "network")
    with pytest.raises(BadInput, match="no field"):
        resolve(TABLE, {"kind": "blur", "widht": 3}, "filter")
