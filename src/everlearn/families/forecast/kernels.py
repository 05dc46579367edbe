"""The row loops, compiled when first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from everlearn._jit import exact_kernel
from everlearn.families.forecast.periods import FIRST, LONGEST, SECOND, SMOOTHED, choose, fix
from everlearn.families.forecast.rows import learn_rows, predict_rows
from everlearn.families.kernel_parts import source_hash

_NOT_COMPILED = ("__init__.py", "model.py")
_STATE = "int64:1 int64:1 int64:2 float64:2 uint8:2 float64:2 float64:3 float64:2 float64:2 float64:2 float64:2 int64:1"


def _predictor(sources: str) -> Any:
    @exact_kernel
    def predict(hashed, state, when, indptr, indices, entries, out):  # type: ignore[no-untyped-def]
        _ = sources
        return predict_rows(hashed, state, when, indptr, indices, entries, out)

    return predict


def _learner(sources: str) -> Any:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed, settings, state, gaps, inverses, pending, due, served, losses, when, indptr, indices, entries, y,
        weight, trace, out,
    ):  # fmt: skip
        _ = sources
        return learn_rows(
            hashed, settings, state, gaps, inverses, pending, due, served, losses, when, indptr, indices, entries, y,
            weight, trace, out,
        )  # fmt: skip

    return learn


def _arrays(words: str, readonly: bool) -> Any:
    """Return the types of arrays: dtype and number of axes."""
    from numba import types

    pairs = [word.split(":") for word in words.split()]
    return [types.Array(getattr(types, kind), int(axes), "C", readonly=readonly) for kind, axes in pairs]


@cache
def predictor() -> Callable[..., int]:
    """Return the kernel that forecasts rows, see `rows.predict_rows`."""
    from numba import types

    kernel = _predictor(source_hash(Path(__file__).parent, _NOT_COMPILED))
    batch = _arrays("int64:1 int64:1 int32:1 float32:1", True)
    state = types.Tuple(_arrays(_STATE, True))  # type: ignore[no-untyped-call]
    kernel.compile(types.int64(types.int64, state, *batch, *_arrays("float32:2", False)))
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]


@cache
def learner() -> Callable[..., int]:
    """Return the kernel that learns rows, see `rows.learn_rows`."""
    from numba import types

    kernel = _learner(source_hash(Path(__file__).parent, _NOT_COMPILED))
    state = types.Tuple(_arrays(_STATE, False))  # type: ignore[no-untyped-call]
    written = _arrays("int64:1 float64:3 float64:3 int64:2 float64:2 float64:2", False)
    batch = _arrays("int64:1 int64:1 int32:1 float32:1 float64:1 float32:1 float32:2", True)
    settings = _arrays("float64:1", True)
    kernel.compile(types.int64(types.int64, *settings, state, *written, *batch, *_arrays("float32:2", False)))
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]


@exact_kernel
def begin(period: int, season: int, history: int, timed: bool, clock: Any) -> None:
    """Start with a known period, in minutes; rows without a time are one period apart, and have `season` alone."""
    fix(period, clock)
    choose(clock, season, history)
    if not timed:
        clock[FIRST] = clock[SECOND] = max(season, 1)
        clock[SMOOTHED] = clock[FIRST] if clock[FIRST] <= LONGEST else 1
