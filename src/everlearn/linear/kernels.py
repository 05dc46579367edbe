"""What `model` calls: the row loops of `rows`, compiled for one kind of optimiser each, when first asked for.

The optimiser is a constant in each kernel, so that what the others need is not compiled into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import types

from everlearn._jit import exact_kernel
from everlearn.linear.rows import learn_rows, predict_rows
from everlearn.linear.settings import AUTO, NORMALIZED

Compiled = Callable[..., int]


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


def _array(kind: types.Type, axes: int, written: bool = False) -> types.Array:
    return types.Array(kind, axes, "C", readonly=not written)


def _state(written: bool) -> tuple[types.Array, ...]:
    return (_array(types.float64, 3, written), _array(types.float32, 3, written), _array(types.float64, 2, written))


_DIALS = _array(types.float64, 1)
_BATCH = (_array(types.float32, 2), _array(types.int64, 1), _array(types.int32, 1), _array(types.float32, 1))
_OUT = _array(types.float32, 2, written=True)


def _compiled(kernel: Any, *arguments: types.Type) -> Compiled:
    """Compile once, for arrays that may be written and that may not alike (served snapshots are read-only)."""
    kernel.compile(types.int64(*arguments))
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]


@cache
def predictor(optimizer: str) -> Compiled:
    """The kernel that predicts: (dials, weights, table, moments, dense, indptr, indices, values, out) -> refusal."""
    return _compiled(_predictor(_sources(), optimizer == "normalized"), _DIALS, *_state(False), *_BATCH, _OUT)


@cache
def learner(optimizer: str) -> Compiled:
    """The kernel that learns: as `predictor`'s, with counts after moments, and y and weight before out."""
    fixed = {"auto": AUTO, "normalized": NORMALIZED}.get(optimizer, -1)
    counts = _array(types.float64, 1, written=True)
    labels = (_array(types.float64, 1), _array(types.float32, 1))
    return _compiled(_learner(_sources(), fixed), _DIALS, *_state(True), counts, *_BATCH, *labels, _OUT)
