"""The row loops, compiled when first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from everlearn._jit import exact_kernel
from everlearn.families.anomaly.rows import learn_rows, predict_rows
from everlearn.families.kernel_parts import compiled, source_hash

_NOT_COMPILED = ("__init__.py", "model.py", "explain.py")
_STATE = "int64:1 int64:1 int32:2 float32:2 float32:2 float32:2 int64:1 float64:1 float64:1 int32:3 float32:2"
_STATE += " float64:2 float64:1"
_LEARNING = (
    "int64:1 int64:1! int32:2 float32:2! float32:2! float32:2! int64:1! float64:1 float64:1! int32:3! float32:2!"
)
_LEARNING += " float64:2! float64:1! float64:2 float32:2! float64:1! float64:1! float32:4! int32:2"
_BATCH = "float32:2 int64:1 int32:1 float32:1"


def _predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        hashed, skip, settings, counters, columns, cuts, values, sorted_values, known, logs, rare, nodes, node_cuts,
        moments, ranked, dense, indptr, indices, entries, raw, out,
    ):  # fmt: skip
        _ = sources
        return predict_rows(
            hashed, skip, settings, counters, columns, cuts, values, sorted_values, known, logs, rare, nodes, node_cuts,
            moments, ranked, dense, indptr, indices, entries, raw, out,
        )  # fmt: skip

    return predict


def _learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed, settings, counters, columns, cuts, values, sorted_values, known, logs, rare, nodes, node_cuts, moments,
        ranked, shares, window, latest, limit, boxes, tree_columns, dense, indptr, indices, entries, y, weight, out,
    ):  # fmt: skip
        _ = sources
        return learn_rows(
            hashed, settings, counters, columns, cuts, values, sorted_values, known, logs, rare, nodes, node_cuts,
            moments, ranked, shares, window, latest, limit, boxes, tree_columns, dense, indptr, indices, entries, y,
            weight, out,
        )  # fmt: skip

    return learn


@cache
def predictor() -> Callable[..., int]:
    """Return the kernel that scores rows, see `rows.predict_rows`."""
    kernel = _predictor(source_hash(Path(__file__).parent, _NOT_COMPILED))
    return compiled(kernel, f"int int {_STATE} {_BATCH} float64:1! float32:2!")


@cache
def learner() -> Callable[..., int]:
    """Return the kernel that learns rows, see `rows.learn_rows`."""
    kernel = _learner(source_hash(Path(__file__).parent, _NOT_COMPILED))
    return compiled(kernel, f"int {_LEARNING} {_BATCH} float64:1 float32:1 float32:2!")
