"""The house rules that can be read from the source: who imports whom, sizes, docstrings, paths."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "deepatlas"
FILES = sorted(PACKAGE.rglob("*.py"))

# Downwards only; those of one line do not import each other (docs/architecture.md says the order).
LAYERS = [
    ["errors"],
    ["parts", "compute", "process"],
    ["kernels"],
    ["spatial"],
    ["losses", "networks", "io"],
    ["classical"],
    ["data"],
    ["evaluation"],
    ["training"],
    ["run"],
    ["inference"],
    ["report"],
    ["api"],
    ["demonstration"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
LATER = {("api", "demonstration")}  # the verb `demo` looks its steps up when it is called
FACADE = {"__init__": {"api", "errors"}}  # the package's own file offers the verbs
PRINTING = {"cli", "demonstration"}

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60
Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
Function = (ast.FunctionDef, ast.AsyncFunctionDef)

per_file = pytest.mark.parametrize(
    "path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix()
)


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: `spatial`, `api`, ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, those inside functions included."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; write the full name"
            if node.module == "deepatlas":
                for alias in node.names:
                    yield node.lineno, f"deepatlas.{alias.name}"
            else:
                assert node.module is not None
                yield node.lineno, node.module


def may_import(importer: str, imported: str) -> bool:
    if importer == imported or (importer, imported) in LATER:
        return True
    if importer in FACADE:
        return imported in FACADE[importer]
    return RANK[imported] < RANK[importer]


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("spatial", "errors", True),
        ("losses", "spatial", True),
        ("losses", "networks", False),
        ("spatial", "losses", False),
        ("evaluation", "training", False),
        ("cli", "api", True),
        ("api", "cli", False),
        ("__init__", "api", True),
        ("__init__", "training", False),
    ],
)
def test_the_rule_itself(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


@per_file
def test_imports_go_downwards(path: Path) -> None:
    importer = part_of(path)
    assert importer in RANK or importer in FACADE, f"{importer} stands in no layer; see LAYERS"
    wrong = []
    for line, module in imported_modules(path):
        if not module.startswith("deepatlas"):
            continue
        imported = module.split(".")[1] if "." in module else "__init__"
        if imported not in RANK:  # `import deepatlas` for its version, or a public name of it
            fine = importer in ("cli", "__main__", "demonstration")
        else:
            fine = may_import(importer, imported)
        if not fine:
            wrong.append(f"{path}:{line}: {importer} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_the_documented_order_is_the_tested_one() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    order = re.search(r"in this order only: ([^.]*)\.", " ".join(text.split()))
    assert order is not None
    documented = [re.findall(r"\w+", layer) for layer in order[1].split(";")]
    for higher, lower in zip(documented[1:], documented, strict=False):
        assert max(RANK[name] for name in lower) < min(RANK[name] for name in higher)


@pytest.mark.parametrize(
    "path", [p for p in FILES if part_of(p) == "spatial"], ids=lambda p: p.name
)
def test_spatial_needs_torch_alone(path: Path) -> None:
    tops = {module.split(".")[0] for _, module in imported_modules(path)}
    assert tops - set(sys.stdlib_module_names) <= {"torch", "deepatlas"}


@pytest.mark.parametrize(
    "path",
    sorted(p for part in ("src", "tests", "benchmarks") for p in (ROOT / part).rglob("*.py")),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_sizes(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES_OF_A_FILE, f"{path} has {lines} lines; split it"
    long = []
    for node in ast.walk(parse(path)):
        if isinstance(node, Function):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            size = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
            if size > LINES_OF_A_FUNCTION:
                long.append(f"{path}:{node.lineno}: {node.name} has {size} lines; split it")
    assert not long, "\n".join(long)


@per_file
def test_only_the_console_prints(path: Path) -> None:
    calls = [
        node.lineno
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id == "print"
    ]
    assert part_of(path) in PRINTING or not calls, f"{path}: print in lines {calls}; log instead"


@per_file
def test_public_names_have_docstrings(path: Path) -> None:
    module = parse(path)
    text = ast.get_docstring(module)
    assert text, f"{path} has no docstring"
    assert not text.startswith("TODO"), f"{path}: its docstring is to be written"
    assert not (bare := list(undocumented(module, ""))), f"{path} lacks docstrings: {bare}"


def undocumented(parent: ast.Module | ast.ClassDef, prefix: str) -> Iterator[str]:
    inherited = promised(parent) if isinstance(parent, ast.ClassDef) else set()
    for node in parent.body:
        if not isinstance(node, Definition) or node.name.startswith("_"):
            continue
        told_elsewhere = node.name in inherited or any(
            ast.unparse(d).endswith((".setter", "overload")) for d in node.decorator_list
        )
        if not (ast.get_docstring(node) or told_elsewhere):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, f"{node.name}.")


def promised(class_: ast.ClassDef) -> set[str]:
    """Methods whose contract stands on an interface: ours, torch's or logging's."""
    methods = {"forward", "emit"}
    for base in class_.bases:
        for parent in classes().get(ast.unparse(base).split("[")[0].split(".")[-1], []):
            methods |= promised(parent) if parent is not class_ else set()
            methods |= {n.name for n in parent.body if isinstance(n, Function) if documented(n)}
    return methods


def documented(node: ast.AST) -> bool:
    return isinstance(node, Definition) and ast.get_docstring(node) is not None


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    found: dict[str, list[ast.ClassDef]] = {}
    for path in FILES:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


def test_no_path_of_a_machine() -> None:
    folders = ["src", "tests", "docs", "benchmarks", ".ci", ".github"]
    files = [p for f in folders for p in (ROOT / f).rglob("*")] + list(ROOT.glob("*"))
    kinds = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".csv", ".html", ""}
    # In pieces, so that this file does not find itself.
    machine = re.compile(
        r"(?<![\w.}~*-])/" + "(?:work|home|root|opt|mnt|tmp|Users|scratch)" + r"/\w"
    )
    found = []
    for path in files:
        if not path.is_file() or path.suffix not in kinds or ".egg-info" in str(path):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if machine.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found, "\n".join(found)
