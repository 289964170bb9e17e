"""Every command hands its options to the function of the same name, to the letter."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import deepatlas
from deepatlas import api
from deepatlas.cli import main, options
from deepatlas.cli.entry import COMMANDS

COMPUTE = {"device": "auto", "threads": None}
MEMORY = {"max_memory": None}


def run(line: str) -> int:
    return main(line.split())


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the verbs were called with, by name; they return what a command can print."""
    seen: dict[str, Any] = {}

    def record(verb: str, result: Any) -> None:
        def fake(*args: Any, **kwargs: Any) -> Any:
            kwargs.pop("progress", None)
            seen[verb] = (args, kwargs)
            return result

        monkeypatch.setattr(api, verb, fake)

    record("train", SimpleNamespace(path=Path("r")))
    record("segment", [Path("o/a.nii.gz"), Path("o/b.nii.gz")])
    moved, field = Path("o/moved.nii.gz"), Path("o/transform.h5")
    record("register", SimpleNamespace(files=(moved, field)))
    record("warp", SimpleNamespace(files=(Path("o/i"), Path("o/l"))))
    record("convert", Path("t"))
    record("jacobian", SimpleNamespace(files=(Path("o/j"),), folds_percent=0.25))
    dice = {"mean": 0.8125, "interval": [0.80, 0.82], "n": 40, "misses": 0}
    record("evaluate", {"segmentation": {"dice": dice}, "align": "centre"})
    record("report", Path("r/report.html"))
    record("phantom", Path("p"))
    record("demo", Path("demo/report.html"))
    return seen


def test_train_defaults(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "cohort", "--out", "r"]) == 0
    args, kwargs = called["train"]
    assert args == (Path("cohort"), Path("r"))
    assert kwargs == {
        "recipe": "da",
        "config": None,
        "overrides": {},
        "labelled": "all",
        "label_groups": None,
        "annotated": None,
        "split": None,
        "init": None,
        "seed": None,
        "cache": None,
        **COMPUTE,
    }
    assert capsys.readouterr().out == "r\n"


def test_train_with_everything(called: dict[str, Any], tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("a\nb\n")
    line = (
        f"train cohort --out r --recipe baseline --config my.yaml --set training.steps=2000 a.b=x "
        f"--labelled {ids} --set training.deterministic=true rate=1e-3 --split split.json --init r0"
        " --seed 7 --cache c --device cuda:1 --threads 2 --label-groups g.json:coarse"
        " --annotated a.json"
    )
    assert run(line) == 0
    _, kwargs = called["train"]
    assert kwargs == {
        "recipe": "baseline",
        "config": Path("my.yaml"),
        "overrides": {
            "training.steps": 2000,
            "a.b": "x",
            "training.deterministic": True,
            "rate": 0.001,
        },
        "labelled": ids,
        "label_groups": Path("g.json:coarse"),
        "annotated": Path("a.json"),
        "split": Path("split.json"),
        "init": Path("r0"),
        "seed": 7,
        "cache": Path("c"),
        "device": "cuda:1",
        "threads": 2,
    }


def test_labelled_is_a_number(called: dict[str, Any]) -> None:
    run("train cohort --out r --labelled 5")
    assert called["train"][1]["labelled"] == 5


def test_segment(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("segment r a.nii b.nii.gz --out o --device cpu") == 0
    args, kwargs = called["segment"]
    assert args == (Path("r"), [Path("a.nii"), Path("b.nii.gz")])
    given = {"out": Path("o"), "bids": False, "device": "cpu", "threads": None}
    assert kwargs == {**given, **MEMORY}
    assert capsys.readouterr().out.splitlines() == ["o/a.nii.gz", "o/b.nii.gz"]
    assert run("segment r a.nii --out o --bids") == 0
    assert called["segment"][1]["bids"] is True


def test_register(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("register r --moving m --fixed f --out o --moving-labels l") == 0
    args, kwargs = called["register"]
    assert args == (Path("r"),)
    assert kwargs == {
        "moving": Path("m"),
        "fixed": Path("f"),
        "out": Path("o"),
        "moving_labels": Path("l"),
        "write": "main",
        "keep_dtype": False,
        **COMPUTE,
        **MEMORY,
    }
    assert capsys.readouterr().out == "o/moved.nii.gz\no/transform.h5\n"


def test_register_all_of_it(called: dict[str, Any]) -> None:
    assert run("register r --moving m --fixed f --out o --write all --keep-dtype") == 0
    kwargs = called["register"][1]
    assert (kwargs["write"], kwargs["keep_dtype"]) == ("all", True)


def test_warp(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    line = "warp a.h5 b.mat --image i --labels l --onto f --out o --inverse --axes LPS"
    assert run(line) == 0
    args, kwargs = called["warp"]
    assert args == ([Path("a.h5"), Path("b.mat")],)
    assert kwargs == {
        "out": Path("o"),
        "image": Path("i"),
        "labels": Path("l"),
        "points": None,
        "onto": Path("f"),
        "inverse": True,
        "axes": "LPS",
        **MEMORY,
    }
    assert capsys.readouterr().out == "o/i\no/l\n"


@pytest.mark.parametrize(
    "line",
    [
        "segment r a.nii --out o",
        "register r --moving m --fixed f --out o",
        "warp a.h5 --image i --onto f --out o",
        "evaluate r cohort --out o",
    ],
)
def test_memory(line: str, called: dict[str, Any]) -> None:
    run(f"{line} --max-memory 8GB")
    assert called[line.split()[0]][1]["max_memory"] == "8GB"


def test_convert(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    line = "convert a.h5 --out t --moving m --fixed f --from fsl --to learn2reg --inverse"
    assert run(line) == 0
    args, kwargs = called["convert"]
    assert args == ([Path("a.h5")],)
    assert kwargs == {
        "out": Path("t"),
        "moving": Path("m"),
        "fixed": Path("f"),
        "read_as": "fsl",
        "write_as": "learn2reg",
        "inverse": True,
    }
    assert capsys.readouterr().out == "t\n"


def test_jacobian(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("jacobian a.h5 --onto f --labels l --out o --inverse") == 0
    args, kwargs = called["jacobian"]
    assert args == ([Path("a.h5")],)
    expected = {"onto": Path("f"), "out": Path("o"), "labels": Path("l"), "inverse": True}
    assert kwargs == expected
    assert capsys.readouterr().out == "o/j\nfolds: 0.2500 % of the voxels\n"


def test_evaluate(called: dict[str, Any]) -> None:
    line = (
        "evaluate r cohort --pairs p.csv --against r1 r2 --against r3 --out o"
        " --label-groups g.json --annotated a.json"
    )
    assert run(line) == 0
    args, kwargs = called["evaluate"]
    assert args == (Path("r"), Path("cohort"))
    assert kwargs == {
        "out": Path("o"),
        "pairs": Path("p.csv"),
        "n_pairs": 40,
        "against": [Path("r1"), Path("r2"), Path("r3")],
        "label_groups": Path("g.json"),
        "annotated": Path("a.json"),
        **COMPUTE,
        **MEMORY,
    }
    run("evaluate r cohort --n-pairs 8 --out o")
    assert called["evaluate"][1]["n_pairs"] == 8
    assert called["evaluate"][1]["against"] == []


def test_evaluate_ends_with_plain_rows(
    called: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run("evaluate r cohort --out o")
    rows = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert float(rows["segmentation.dice"]) == pytest.approx(0.8125, abs=1e-3)
    assert rows["segmentation.dice.n"] == "40"
    assert rows["align"] == "centre"


def test_report(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", "r"])
    assert called["report"] == ((Path("r"),), {"out": None})
    main(["report", "r", "--out", "x.html"])
    assert called["report"][1] == {"out": Path("x.html")}
    assert capsys.readouterr().out.splitlines()[0] == "r/report.html"


def test_phantom(called: dict[str, Any]) -> None:
    main(["phantom", "--out", "p"])
    expected = {"out": Path("p"), "subjects": 40, "labelled": 3, "seed": 0}
    assert called["phantom"] == ((), expected)
    run("phantom --out p --subjects 6 --labelled 0 --seed 2")
    assert called["phantom"][1] == {"out": Path("p"), "subjects": 6, "labelled": 0, "seed": 2}


def test_demo(called: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    main(["demo"])
    assert called["demo"] == ((), {"out": Path("demo"), "seed": 0, **COMPUTE})
    assert capsys.readouterr().out.splitlines()[-1] == "report: demo/report.html"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "COMMAND"),
        ("fly", "invalid choice"),
        ("train cohort", "--out"),
        ("train --out r --set a=1 cohort", "expected key=value; got 'cohort'"),
        ("train cohort --out r --set steps", "expected key=value"),
        ("train cohort --out r --set a=[1", "not YAML"),
        ("train cohort --out r --labelled 0", "1 or more"),
        ("train cohort --out r --labelled -3", "expected"),
        ("train cohort --out r --labelled nowhere.txt", "there is no file 'nowhere.txt'"),
        ("train cohort --out r --label 5", "unrecognized arguments"),
        ("train cohort --out r --device gpu", "expected auto, cpu, cuda or cuda:N"),
        ("train cohort --out r --threads 0", "1 or more"),
        ("train cohort --out r -v -q", "not allowed with"),
        ("evaluate r c --out o --pairs p --n-pairs 3", "not allowed with"),
        ("report r --device cpu", "unrecognized arguments"),
        ("phantom --out p --seed -1", "0 or more"),
        ("segment r --out o", "IMAGE"),
        ("register r --moving m --out o", "--fixed"),
    ],
)
def test_wrong_arguments(line: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        run(line)
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("5.0", 5.0),
        ("1e-3", 1e-3),
        ("-2E4", -2e4),
        ("true", True),
        ("null", None),
        ("da", "da"),
        ("[4, 8]", [4, 8]),
        ("a=b", "a=b"),
        ("my.part:Thing", "my.part:Thing"),
    ],
)
def test_values_are_yaml(text: str, value: object) -> None:
    key, read = options.key_value(f"x.y={text}")
    assert key == "x.y"
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("train", "train c --out r"),
        ("segment", "segment r a --out o"),
        ("register", "register r --moving m --fixed f --out o"),
        ("evaluate", "evaluate r c --out o"),
        ("report", "report r"),
        ("phantom", "phantom --out p"),
        ("demo", "demo"),
    ],
)
def test_a_command_has_the_options_and_defaults_of_its_verb(
    verb: str, line: str, called: dict[str, Any]
) -> None:
    parameters = inspect.signature(getattr(deepatlas, verb)).parameters  # not the recorder
    run(line)
    given = called[verb][1]
    by_keyword = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(given) == set(by_keyword) - {"progress"}
    for name, parameter in by_keyword.items():
        if name in given and parameter.default not in (parameter.empty, None):
            value = given[name]
            assert (tuple(value) if value == [] else value) == (
                Path(parameter.default) if isinstance(value, Path) else parameter.default
            )


def test_a_command_is_a_verb() -> None:
    commands = [command.__name__.rpartition(".")[2] for command in COMMANDS]
    assert sorted(commands) == sorted(n for n in deepatlas.__all__ if n[0].islower())
    subparsers = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command.add(subparsers)
    assert list(subparsers.choices) == commands
