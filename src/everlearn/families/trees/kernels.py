"""The row loops of trees, compiled once for classes and once for numbers, when first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from everlearn._jit import exact_kernel
from everlearn.families.kernel_parts import compiled, source_hash
from everlearn.families.trees.class_rows import (
    learn_class_rows,
    learn_scored_rows,
    predict_class_rows,
    predict_scored_rows,
)
from everlearn.families.trees.number_rows import learn_number_rows, predict_number_rows

_NOT_COMPILED = ("__init__.py", "model.py", "settings.py", "freezing.py", "explain.py", "graph.py")
_OF_NUMBERS = "number_"  # files that kernels of classes do not use begin so
_BATCH = "float32:2 int64:1 int32:1 float32:1"


def _sources(numbers: bool) -> str:
    """Return a hash of the family's source files, which kernels enclose so that a change compiles them again."""
    folder = Path(__file__).parent
    others = () if numbers else tuple(path.name for path in folder.glob(f"{_OF_NUMBERS}*.py"))
    return source_hash(folder, (*_NOT_COMPILED, *others))


def _class_predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices,
        values, out,
    ):  # fmt: skip
        _ = sources
        return predict_class_rows(
            hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices,
            values, out,
        )  # fmt: skip

    return predict


def _scored_predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices,
        values, out,
    ):  # fmt: skip
        _ = sources
        return predict_scored_rows(
            hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices,
            values, out,
        )  # fmt: skip

    return predict


def _number_predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices,
        values, out,
    ):  # fmt: skip
        _ = sources
        return predict_number_rows(
            hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices,
            values, out,
        )  # fmt: skip

    return predict


def _class_learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense, indptr,
        indices, values, y, weight, out,
    ):  # fmt: skip
        _ = sources
        return learn_class_rows(
            hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense,
            indptr, indices, values, y, weight, out,
        )  # fmt: skip

    return learn


def _scored_learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense, indptr,
        indices, values, y, weight, out,
    ):  # fmt: skip
        _ = sources
        return learn_scored_rows(
            hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense,
            indptr, indices, values, y, weight, out,
        )  # fmt: skip

    return learn


def _number_learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense, indptr,
        indices, values, y, weight, out,
    ):  # fmt: skip
        _ = sources
        return learn_number_rows(
            hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense,
            indptr, indices, values, y, weight, out,
        )  # fmt: skip

    return learn


@cache
def predictor(numbers: bool, scored: bool) -> Callable[..., int]:
    """Return the kernel that predicts numbers, or classes with or without kept scores, see `rows.predicting`."""
    kernel = (_number_predictor if numbers else _scored_predictor if scored else _class_predictor)(_sources(numbers))
    pool = f"int64:2 int32:3 {_counts(numbers)}:3 float32:3 int32:3 float64:2"
    return compiled(kernel, f"int float64:1 {pool} float64:2 int {_BATCH} float32:2!")


@cache
def learner(numbers: bool, scored: bool) -> Callable[..., int]:
    """Return the kernel that learns numbers, or classes with or without kept scores, see `rows.learning`."""
    kernel = (_number_learner if numbers else _scored_learner if scored else _class_learner)(_sources(numbers))
    pool = f"int64:2! int32:3! {_counts(numbers)}:3! float32:3! int32:3! float64:2!"
    state = f"int float64:1 float64:1 {pool} float64:2! int64:1! int"
    return compiled(kernel, f"{state} {_BATCH} float64:1 float32:1 float32:2!")


def _counts(numbers: bool) -> str:
    return "float64" if numbers else "float32"
