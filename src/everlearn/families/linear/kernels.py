"""The row loops of `rows`, compiled for one kind of optimiser each, when first needed.

The optimiser is a constant in each kernel, so that code of other optimisers is not compiled into it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from everlearn._jit import exact_kernel
from everlearn.families.kernel_parts import compiled, source_hash
from everlearn.families.linear.rows import explain_row, learn_rows, predict_rows
from everlearn.families.linear.settings import BLEND, NORMALIZED, OPTIMIZER, QUICK

Compiled = Callable[..., int]

_BATCH = "float32:2 int64:1 int32:1 float32:1"
_NOT_COMPILED = ("explain.py", "graph.py")
_SCORED = {"blend": BLEND, "normalized": NORMALIZED}  # the optimisers whose scores are not one plain sum
_LEARNED = {**_SCORED, "quick": QUICK}  # the optimisers with a kernel for each


def _sources() -> str:
    """Return a hash of the family's source files, which kernels enclose so that a change compiles them again."""
    return source_hash(Path(__file__).parent, _NOT_COMPILED)


def _predictor(sources: str, kind: int) -> Compiled:
    @exact_kernel
    def predict(settings, weights, table, moments, blend, dense, indptr, indices, values, out):  # type: ignore[no-untyped-def]
        _ = sources
        return predict_rows(kind, settings, weights, table, moments, blend, dense, indptr, indices, values, out)

    return predict


def _learner(sources: str, fixed: int) -> Compiled:
    @exact_kernel
    def learn(settings, weights, table, moments, counts, blend, dense, indptr, indices, values, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        kind = int(settings[OPTIMIZER]) if fixed < 0 else fixed
        return learn_rows(
            kind, settings, weights, table, moments, counts, blend, dense, indptr, indices, values, y, weight, out
        )

    return learn


def _explainer(sources: str, kind: int) -> Compiled:
    @exact_kernel
    def explain(settings, weights, table, moments, blend, dense, indices, values, terms):  # type: ignore[no-untyped-def]
        _ = sources
        return explain_row(kind, settings, weights, table, moments, blend, dense, indices, values, terms)

    return explain


@cache
def predictor(optimizer: str) -> Compiled:
    """Return the kernel that predicts.

    Its arguments are (settings, weights, table, moments, blend, dense, indptr, indices, values, out). It returns a
    fault or 0.
    """
    kernel = _predictor(_sources(), _SCORED.get(optimizer, -1))
    state = "float64:1 float64:3 float32:3 float64:2 float64:1"
    return compiled(kernel, f"{state} {_BATCH} float32:2!")


@cache
def learner(optimizer: str) -> Compiled:
    """Return the kernel that learns: as that of `predictor`, with counts after moments, y and weight before out."""
    kernel = _learner(_sources(), _LEARNED.get(optimizer, -1))
    state = "float64:1 float64:3! float32:3! float64:2! float64:1! float64:1!"
    return compiled(kernel, f"{state} {_BATCH} float64:1 float32:1 float32:2!")


@cache
def explainer(optimizer: str) -> Compiled:
    """Return the kernel that explains row 0.

    Its arguments are (settings, weights, table, moments, blend, dense, indices, values, terms). It returns a fault or
    0.
    """
    kernel = _explainer(_sources(), _SCORED.get(optimizer, -1))
    state = "float64:1 float64:3 float32:3 float64:2 float64:1"
    return compiled(kernel, f"{state} float32:2 int32:1 float32:1 float64:2!")
