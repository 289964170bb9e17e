"""Help comes at once, and importing deepatlas costs nothing."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepatlas

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "numpy", "scipy", "matplotlib", "nibabel", "pydantic", "safetensors", "rich"}


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    "code",
    [
        "import deepatlas",
        "from deepatlas.cli.entry import build_parser; build_parser().format_help()",
        "from deepatlas.cli.entry import build_parser;"
        "build_parser().parse_args(['segment', 'r', 'a', '--out', 'o'])",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    modules = python("-c", f"{code}\nimport sys; print(*sys.modules)").stdout.split()
    assert "deepatlas" in modules
    assert HEAVY.isdisjoint(modules)


def test_version() -> None:
    assert python("-m", "deepatlas", "--version").stdout == f"deepatlas {deepatlas.__version__}\n"


def test_the_installed_command_is_this_one() -> None:
    script = os.path.join(os.path.dirname(sys.executable), "deepatlas")
    if not os.path.exists(script):
        pytest.skip("deepatlas is not installed beside this Python")
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"deepatlas {deepatlas.__version__}\n"


def test_a_verb_stays_a_function_when_a_folder_of_its_name_is_imported() -> None:
    importlib.import_module("deepatlas.report")
    from deepatlas import report

    assert callable(report)
    assert callable(deepatlas.report)


@pytest.mark.parametrize("name", deepatlas.__all__)
def test_public_names(name: str) -> None:
    assert callable(getattr(deepatlas, name))
    assert getattr(deepatlas, name).__doc__
