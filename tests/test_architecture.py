"""The rules of the tree: who may import whom, how long files and functions may be, and which words stay out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

ROOT = ROOT / "src" / "everlearn"
MODULES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)

# A module imports only from lines above its own. A package stands in one line, and its own modules know each other.
TIERS = (
    "errors records _jit",
    "spec _random _torch model metrics events client report",
    "schema drift replay merge version gate checks config",
    "feedback serve families stream advise scale bridges",
    "predict learn evaluate",
    "loop",
    "app erase",
    "cli",
)
RANK = {name: rank for rank, names in enumerate(TIERS) for name in names.split()}

HEAVY = {"numba", "pyarrow", "pandas", "matplotlib", "torch", "scipy", "sklearn", "river"}
FORBIDDEN = {
    *("manager", "handler", "helper", "helpers", "util", "utils", "base", "core", "engine"),
    *("strategy", "plugin", "experience"),
}
FILE_LINES, FUNCTION_LINES = 500, 60


def top(path: Path) -> str:
    """The module or package right below everlearn that a file belongs to; "" for the package itself."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imported(path: Path) -> set[str]:
    """The everlearn modules that a file imports anywhere in it, for types and inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("everlearn.")}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import; write the whole name"
            if node.module == "everlearn":
                found |= {alias.name for alias in node.names if (ROOT / f"{alias.name}.py").exists()}
                found |= {alias.name for alias in node.names if (ROOT / alias.name / "__init__.py").exists()}
            elif node.module and node.module.startswith("everlearn."):
                found.add(node.module.split(".")[1])
    return found


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_above_its_line(path: Path) -> None:
    name = top(path)
    if not name:
        return  # the doors of the package itself: names loaded lazily, and `python -m everlearn`
    assert name in RANK, f"{name} stands in no line of TIERS: give it its place"
    below = [other for other in imported(path) - {name} if RANK[other] >= RANK[name]]
    assert below == [], f"{name} imports {', '.join(below)}; expected only modules in lines of TIERS above its own"


def test_no_two_modules_import_each_other() -> None:
    known: dict[str, set[str]] = {}
    for path in MODULES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        known[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and not module.endswith("__init__"):
                whole = node.module.removeprefix("everlearn").removeprefix(".")
                names = {f"{whole}.{alias.name}".removeprefix(".") for alias in node.names} | {whole}
                known[module] |= names if node.module.startswith("everlearn") else set()
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"an import loop: {' -> '.join([*trail, module])}"
        if module not in done:
            for other in known[module] & known.keys():
                visit(other, (*trail, module))
            done.add(module)

    for module in known:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES, f"{path.name} has {lines} lines; expected at most {FILE_LINES}: split it"
    for node in functions(path):
        first = node.body[0]
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
        length = (node.end_lineno or 0) - node.lineno + 1 - docstring
        assert length <= FUNCTION_LINES, f"{path.name}: {node.name} has {length} lines; at most {FUNCTION_LINES}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_are_imported_where_they_are_needed(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found = {name.split(".")[0] for name in names} & HEAVY
        allowed = {"numba"} if path.name == "_jit.py" else {"torch"} if path.name == "_torch.py" else set()
        assert found <= allowed, f"{path.name} imports {', '.join(found)} at its top; do it inside the function"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_use_the_fields_own_words(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = [part.removesuffix(".py") for part in path.relative_to(ROOT).parts]
    names += [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names += [node.name for node in functions(path) if not node.name.startswith("_")]
    for name in names:
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
        assert not words & FORBIDDEN, f"{path.name}: {name!r} uses a word that says nothing; name what it does"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_objects_are_not_probed(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    probes = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "hasattr"]
    assert probes == [], f"{path.name}: hasattr at lines {probes}; say what is expected in a type instead"


def test_classes_are_not_deep() -> None:
    parents = {
        node.name: [part.id for part in node.bases if isinstance(part, ast.Name)]
        for path in MODULES
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    deep = [name for name, above in parents.items() if any(parent in parents for parent in above)]
    assert deep == [], f"{deep} inherit from classes of ours; expected depth 1, with protocols and errors aside"


def test_import_is_cheap() -> None:
    code = "import sys, everlearn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "everlearn" in loaded
    assert not loaded & (HEAVY | {"rich", "typer", "msgspec", "numpy"})


def test_every_module_stands_in_one_line() -> None:
    names = [name for names in TIERS for name in names.split()]
    assert len(names) == len(set(names))
