"""Parts of kernels are compiled once, for constants and for arrays that may be written, and give the same numbers."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np

import everlearn
from everlearn._jit import exact_kernel, inlined, outlined


def parts() -> tuple[Any, Any, Any]:
    @outlined
    def weighted(values, place, by):  # type: ignore[no-untyped-def]
        return values[place] * by

    @inlined
    def write(values, place, by):  # type: ignore[no-untyped-def]
        values[place] += by

    @exact_kernel
    def use(known, changed):  # type: ignore[no-untyped-def]
        total = weighted(known, 0, 1) + weighted(known, 1, 2) + weighted(changed, 2, 3)
        for place in range(len(changed)):
            write(changed, place, 1.0)
        write(changed, 0, 10.0)
        return total

    return weighted, write, use


def test_a_part_is_compiled_once_for_constants_and_for_read_only_arrays() -> None:
    weighted, write, use = parts()
    known, changed = np.array([2.0, 3.0, 5.0]), np.array([7.0, 11.0, 13.0])
    known.flags.writeable = False
    assert use(known, changed) == 2.0 + 6.0 + 39.0
    assert changed.tolist() == [18.0, 12.0, 14.0]
    assert len(weighted.overloads) == 1
    assert len(write.overloads) == 1


def test_arrays_that_may_be_written_are_not_compiled_as_read_only() -> None:
    """A part that writes is compiled for what it gets first, and again only for other types."""
    weighted, write, use = parts()
    first, second = np.arange(3.0), np.arange(3, dtype=np.float32)
    assert use(first, np.zeros(3)) == 2.0
    assert use(second, np.zeros(3)) == 2.0
    assert len(weighted.overloads) == 2
    assert len(write.overloads) == 1


COMPILED = {"bare", "exact_kernel", "inlined", "kernel", "merged", "outlined", "uncounted"}


def decorators(node: ast.FunctionDef) -> set[str]:
    return {ast.unparse(one) for one in node.decorator_list}


def bare_names(tree: ast.Module) -> set[str]:
    """Return the decorators of a file that make functions without wrappers."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    families = {one.name for node in imports for one in node.names if node.module == "everlearn.families.kernel_parts"}
    return {"bare"} | families & COMPILED


def calls(node: ast.AST) -> list[str]:
    """Return the names that Python calls in a function, without what its kernels call."""
    found = list[str]()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and decorators(child) & COMPILED:
            continue
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Name):
            found.append(child.func.id)
        found += calls(child)
    return found


def test_python_calls_no_function_without_wrappers() -> None:
    """It ends with a segmentation fault where it does; an example is a call, too."""
    parts, called = 0, list[str]()
    for path in Path(everlearn.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        bare = {node.name: node for node in functions if decorators(node) & bare_names(tree)}
        parts += len(bare)
        called += [f"{path.name}: {name}" for name, node in bare.items() if ">>>" in (ast.get_docstring(node) or "")]
        called += [f"{path.name}: {name}" for name in calls(tree) if name in bare and name not in COMPILED]
    assert parts > 100
    assert called == []
