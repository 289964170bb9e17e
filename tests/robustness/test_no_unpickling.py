"""No file makes the package run code: checkpoints are safetensors and JSON, settings plain YAML."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "deepatlas"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "eval", "exec",
}  # fmt: skip


def dangers(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [name for name in names if name in CALLS or name.split(".")[0] in MODULES]
        elif isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            pickled = any(word.arg == "allow_pickle" for word in node.keywords)
            found += [call] if call in CALLS or pickled else []
    return found


def test_the_rule_itself() -> None:
    bad = "import pickle\nfrom torch import load\ntorch.load(p)\nnp.load(p, allow_pickle=True)\n"
    assert dangers(bad) == ["pickle", "torch.load", "torch.load", "np.load"]
    assert dangers("'''torch.load(x)'''\nload_file(p)\nmodel.eval()") == []


def test_there_are_files() -> None:
    assert len(FILES) > 80


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_is_unpickled(path: Path) -> None:
    assert dangers(path.read_text(encoding="utf-8")) == []
