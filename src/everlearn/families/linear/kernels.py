"""What `model` calls: the row loops of `rows`, compiled for one kind of optimiser each, when first asked for.

The optimiser is a constant in each kernel, so that what the others need is not compiled into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from everlearn._jit import exact_kernel
from everlearn.families.linear.rows import explain_row, learn_rows, predict_rows
from everlearn.families.linear.settings import AUTO, NORMALIZED

Compiled = Callable[..., int]

_BATCH = "float32:2 int64:1 int32:1 float32:1"


def _sources() -> str:
    """A hash of the family's source files.

    Numba's cache looks at the file of the kernel alone, and at what the kernel encloses; so kernels enclose this,
    lest a changed part in another file run as its old machine code.
    """
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def _predictor(sources: str, normalized: bool) -> Compiled:
    @exact_kernel
    def predict(dials, weights, table, moments, dense, indptr, indices, values, out):  # type: ignore[no-untyped-def]
        _ = sources
        return predict_rows(normalized, dials, weights, table, moments, dense, indptr, indices, values, out)

    return predict


def _learner(sources: str, fixed: int) -> Compiled:
    @exact_kernel
    def learn(dials, weights, table, moments, counts, dense, indptr, indices, values, y, weight, out):  # type: ignore[no-untyped-def]
        _ = sources
        kind = int(dials[1]) if fixed < 0 else fixed
        return learn_rows(kind, dials, weights, table, moments, counts, dense, indptr, indices, values, y, weight, out)

    return learn


def _explainer(sources: str, normalized: bool) -> Compiled:
    @exact_kernel
    def explain(dials, weights, table, moments, dense, indices, values, terms):  # type: ignore[no-untyped-def]
        _ = sources
        return explain_row(normalized, dials, weights, table, moments, dense, indices, values, terms)

    return explain


def _compiled(kernel: Any, signature: str) -> Compiled:
    """Compile once, for arrays that may be written and that may not alike (served snapshots are read-only).

    A signature is a word for each argument: its dtype, its axes, and "!" if the kernel writes it.
    """
    from numba import types

    def array(word: str) -> Any:
        kind, axes = word.rstrip("!").split(":")
        return types.Array(getattr(types, kind), int(axes), "C", readonly=not word.endswith("!"))

    kernel.compile(types.int64(*(array(word) for word in signature.split())))
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]


@cache
def predictor(optimizer: str) -> Compiled:
    """The kernel that predicts: (dials, weights, table, moments, dense, indptr, indices, values, out) -> refusal."""
    kernel = _predictor(_sources(), optimizer == "normalized")
    state = "float64:1 float64:3 float32:3 float64:2"
    return _compiled(kernel, f"{state} {_BATCH} float32:2!")


@cache
def learner(optimizer: str) -> Compiled:
    """The kernel that learns: as `predictor`'s, with counts after moments, and y and weight before out."""
    kernel = _learner(_sources(), {"auto": AUTO, "normalized": NORMALIZED}.get(optimizer, -1))
    state = "float64:1 float64:3! float32:3! float64:2! float64:1!"
    return _compiled(kernel, f"{state} {_BATCH} float64:1 float32:1 float32:2!")


@cache
def explainer(optimizer: str) -> Compiled:
    """The kernel that explains row 0: (dials, weights, table, moments, dense, indices, values, terms) -> refusal."""
    kernel = _explainer(_sources(), optimizer == "normalized")
    state = "float64:1 float64:3 float32:3 float64:2"
    return _compiled(kernel, f"{state} float32:2 int32:1 float32:1 float64:2!")
