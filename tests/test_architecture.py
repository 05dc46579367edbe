"""The rules of the tree: who may import whom, how long files and functions may be, and which words stay out."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import ROOT as CHECKOUT

ROOT = CHECKOUT / "src" / "everlearn"
TESTS = CHECKOUT / "tests"
MODULES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)

# A module imports only from lines above its own. A package stands in one line, and its own modules know each other.
TIERS = (
    "errors records _jit _private",
    "spec _random _torch model metrics events client report",
    "schema drift replay merge version gate checks config data",
    "feedback serve families stream advise scale bridges",
    "predict learn evaluate neural export",
    "loop",
    "app erase",
    "cli",
)
RANK = {name: rank for rank, names in enumerate(TIERS) for name in names.split()}

HEAVY = {"numba", "pyarrow", "pandas", "matplotlib", "torch", "scipy", "sklearn", "river"}
HOMES = {
    "_jit.py": {"numba"},
    "_torch.py": {"torch"},
    "bridges/sklearn.py": {"sklearn"},
    "bridges/river.py": {"river"},
}
"""Modules at whose top a heavy library may be imported: they exist for it, and nothing imports them unasked."""

FORBIDDEN = {
    *("manager", "handler", "helper", "helpers", "util", "utils", "base", "core", "engine"),
    *("strategy", "plugin", "experience"),
}
FILE_LINES, FUNCTION_LINES, ATTRIBUTES, SENTENCES = 500, 60, 15, 3

TEST_FILES = sorted(TESTS.rglob("test_*.py"))
WHOLE_SYSTEM = {
    "test_architecture": "the tree itself",
    "scale/test_engines": "one application on several engines",
    "scale/test_followers": "servers of one loop on several machines",
    "scale/test_encrypted_server": "a server whose log encrypts",
    "scale/test_removed_events": "an erasure from a log whose broker has removed events",
    "scale/test_served": "a server whose log is in a database",
    "stream/test_kinds_of_files": "files that people have, from the bytes to the encoded rows",
    "test_architecture_page": "the tree itself, as a page draws it",
    "test_prose": "the words of every module",
    "test_docs": "the documentation",
    "test_docs_neural": "the documentation of one family",
    "test_examples": "the examples",
    "test_deploy": "the files of deployment",
    "test_contract": "every family",
    "loop/test_gated": "a loop in which the gate seats learners, and one that pauses them",
    "loop/test_kill": "a loop and its home while processes are killed",
    "loop/test_faults": "a loop and its home on a disk that fails",
    "loop/test_networks": "a loop with networks as its models",
    "loop/test_trace": "a loop whose models have a trace",
    "app/test_server_traces": "a server whose models have a trace",
    "app/generator/test_kills": "a server of preferences whose processes are killed",
    "cli/test_preference_server": "the served demo of preferences",
    "families/neural/test_lora_buffers": "the buffers of a network in adapters and their export",
    "loop/test_preferences": "a loop that learns pairs of answers",
    "loop/test_bandits": "a loop that chooses actions",
    "app/many/test_server": "a server of many loops",
    "app/many/test_kills": "a server of many loops whose processes are killed",
    "app/test_server_bandits": "a server that chooses actions",
    "loop/test_old_homes": "homes of older releases",
    "app/dashboard/test_bandit_card": "the card of a loop that chooses actions",
    "app/dashboard/test_label_page": "the page on which people judge pairs of answers",
    "app/test_server_faults": "a server whose processes fail",
    "app/test_server_doors": "a server whose clients, home and processes are hostile",
    "app/test_server_network": "a server on a network that fails",
    "app/test_server_poison": "a server that receives bad rows",
    "merge/test_networks": "merging networks of the neural family",
}
SHARED_NAMES = {"Settings": "each family has its own record of settings, which users meet under the family's name"}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def top(path: Path) -> str:
    """The module or package right below everlearn that a file belongs to; "" for the package itself."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imported(path: Path) -> set[str]:
    """The everlearn modules that a file imports anywhere in it, for types and inside functions too."""
    found: set[str] = set()
    for node in ast.walk(parsed(path)):
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
    for node in ast.walk(parsed(path)):
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
        for node in ast.walk(parsed(path)):
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
    for node in parsed(path).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found = {name.split(".")[0] for name in names} & HEAVY
        allowed = HOMES.get(str(path.relative_to(ROOT)), set())
        assert found <= allowed, f"{path.name} imports {', '.join(found)} at its top; do it inside the function"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_use_the_fields_own_words(path: Path) -> None:
    tree = parsed(path)
    names = [part.removesuffix(".py") for part in path.relative_to(ROOT).parts]
    names += [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names += [node.name for node in functions(path) if not node.name.startswith("_")]
    for name in names:
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}
        assert not words & FORBIDDEN, f"{path.name}: {name!r} uses a word that says nothing; name what it does"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_objects_are_not_probed(path: Path) -> None:
    calls = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)]
    probes = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "hasattr"]
    assert probes == [], f"{path.name}: hasattr at lines {probes}; say what is expected in a type instead"


def test_classes_are_not_deep() -> None:
    parents = {
        node.name: [part.id for part in node.bases if isinstance(part, ast.Name)]
        for path in MODULES
        if path.name != "errors.py"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ClassDef)
        and "Protocol" not in [part.id for part in node.bases if isinstance(part, ast.Name)]
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


# ---- classes -------------------------------------------------------------------------------------------------------


def classes(path: Path) -> Iterator[ast.ClassDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ClassDef):
            yield node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_class_has_few_attributes(path: Path) -> None:
    for node in classes(path):
        attributes = {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute)
            and isinstance(part.ctx, ast.Store)
            and isinstance(part.value, ast.Name)
            and part.value.id == "self"
        }
        found = f"{node.name} assigns {len(attributes)} attributes of self: {', '.join(sorted(attributes))}"
        assert len(attributes) <= ATTRIBUTES, f"{found}; expected at most {ATTRIBUTES}: give a part of them a class"


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in classes(path):
            places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert twice.keys() <= SHARED_NAMES.keys(), "\n".join(
        f"{name} is a class in {' and '.join(found)}; name each for what it is"
        for name, found in twice.items()
        if name not in SHARED_NAMES
    )
    assert twice.keys() == SHARED_NAMES.keys(), "a name of SHARED_NAMES is no longer shared: remove it from there"


# ---- packages ------------------------------------------------------------------------------------------------------


def sentences(docstring: str) -> int:
    """Count the sentences of a docstring, without indented blocks and examples."""
    prose = " ".join(line for line in docstring.splitlines() if not line.startswith((" ", ">>>", "...")))
    return len(re.findall(r"[.!?](?=\s|$)", prose))


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.name == "__init__.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_package_says_what_comes_in_what_goes_out_and_what_lives_elsewhere(path: Path) -> None:
    found = sentences(ast.get_docstring(parsed(path)) or "")
    assert found >= SENTENCES, f"{path} opens with {found} sentences; see gate/__init__.py for what they should say"


def test_every_folder_with_modules_is_a_package() -> None:
    assert all((path.parent / "__init__.py").exists() for path in MODULES)


# ---- tests ---------------------------------------------------------------------------------------------------------

TEST_MODULE = re.compile(r"\btests\.(?:\w+\.)*test_\w+|\bfrom tests\.?[\w.]* import test_\w+")


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_file_is_imported_by_another(path: Path) -> None:
    """In code, in code that a test runs in another process, and in specs that name a family; its own name may stand."""
    own = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
    found = {match[0] for match in TEST_MODULE.finditer(path.read_text(encoding="utf-8"))} - {own}
    assert not found, f"{path.name} names {', '.join(sorted(found))}; move what they share to tests/support/"


@pytest.mark.parametrize("path", sorted((TESTS / "support").rglob("*.py")), ids=lambda path: path.name)
def test_shared_parts_hold_no_tests(path: Path) -> None:
    assert not path.name.startswith("test_")
    assert [node.name for node in functions(path) if node.name.startswith("test_")] == []


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_file_is_named_after_its_module(path: Path) -> None:
    """`tests/<room>/test_<name>.py` tests the module, the private module or the package of that name, or the room."""
    relative = path.relative_to(TESTS)
    if str(relative.with_suffix("")) in WHOLE_SYSTEM:
        return
    name, room = path.stem.removeprefix("test_"), ROOT / relative.parent
    possible = [room / f"{name}.py", room / f"_{name}.py", room / name / "__init__.py"]
    if room.name == name:
        possible.append(room / "__init__.py")
    assert any(module.exists() for module in possible), (
        f"tests/{relative} tests no module {name} in src/everlearn/{relative.parent}: name it after one"
    )


def test_no_exception_outlives_its_file() -> None:
    assert WHOLE_SYSTEM.keys() <= {str(path.relative_to(TESTS).with_suffix("")) for path in TEST_FILES}
