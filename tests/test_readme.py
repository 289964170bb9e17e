"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import deepatlas
from deepatlas.cli.entry import build_parser
from deepatlas.data.phantom_files import write_phantom

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def test_python_example(tmp_path: Path) -> None:
    (example,) = blocks("python")
    assert len(example.splitlines()) < 15
    write_phantom(
        tmp_path / "my_cohort", subjects=4, labelled=2, test_subjects=0, shape=(24, 28, 24)
    )
    quick, changed = re.subn(r'"training.steps": \d+', '"training.steps": 4', example)
    assert changed == 1
    result = subprocess.run(
        [sys.executable, "-c", quick],
        cwd=tmp_path,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    shown = result.stdout.split()
    assert len(shown) == 4
    for name in shown:
        assert (tmp_path / name).stat().st_size > 0


def test_commands_are_real(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    ours = [command for command in commands if command[0] == "deepatlas"]
    assert len(ours) >= 4
    for command in ours:
        build_parser().parse_args(command[1:])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands:
        if command[0] == "make":
            assert f"\n{command[1]}:" in makefile


def test_tables_name_every_command_and_recipe() -> None:
    def rows(title: str) -> set[str]:
        section = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
        return set(re.findall(r"^\| `(?:deepatlas )?([a-z-]+)", section, flags=re.MULTILINE))

    assert rows("Commands") == {name for name in deepatlas.__all__ if name[0].islower()}
    recipes = {path.stem for path in (ROOT / "src" / "deepatlas" / "recipes").glob("*.yaml")}
    if recipes:
        assert rows("Recipes") == recipes


def test_links_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"
