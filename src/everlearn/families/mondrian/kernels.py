"""The row loops of `rows`, compiled when first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from everlearn._jit import exact_kernel
from everlearn.families.kernel_parts import compiled, source_hash
from everlearn.families.mondrian.rows import learn_rows, predict_rows

_NOT_COMPILED = ("__init__.py", "model.py", "settings.py", "freezing.py", "explain.py", "graph.py")
_BATCH = "float32:2 int64:1 int32:1 float32:1"


def _sources() -> str:
    return source_hash(Path(__file__).parent, _NOT_COMPILED)


def _predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        hashed, settings, trees, nodes, beliefs, counts, columns, wide, dense, indptr, indices, values, out
    ):
        _ = sources
        return predict_rows(
            hashed, settings, trees, nodes, beliefs, counts, columns, wide, dense, indptr, indices, values, out
        )

    return predict


def _learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed, settings, trees, nodes, beliefs, counts, columns, boxes, windows, moments, clock, dense, indptr,
        indices, values, y, weight, out,
    ):  # fmt: skip
        _ = sources
        return learn_rows(
            hashed, settings, trees, nodes, beliefs, counts, columns, boxes, windows, moments, clock, dense, indptr,
            indices, values, y, weight, out,
        )  # fmt: skip

    return learn


@cache
def predictor() -> Callable[..., int]:
    """Return the kernel that predicts, see `rows.predict_rows`."""
    state = "int float64:1 int64:2 int32:3 float64:3 float32:3 int32:2 int"
    return compiled(_predictor(_sources()), f"{state} {_BATCH} float32:2!")


@cache
def learner() -> Callable[..., int]:
    """Return the kernel that learns, see `rows.learn_rows`."""
    state = "int float64:1 int64:2! int32:3! float64:3! float32:3! int32:2 float32:4! float64:2! float64:2! int64:1!"
    return compiled(_learner(_sources()), f"{state} {_BATCH} float64:1 float32:1 float32:2!")
