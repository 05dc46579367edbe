"""The row loops of `rows`, compiled once for both families, when first needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from everlearn._jit import exact_kernel
from everlearn.families.trees.class_rows import learn_class_rows, predict_class_rows

_NOT_COMPILED = ("__init__.py", "model.py", "settings.py")
_BATCH = "float32:2 int64:1 int32:1 float32:1"


def _sources() -> str:
    """Return a hash of the family's source files, which kernels enclose so that a change compiles them again."""
    paths = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name not in _NOT_COMPILED)
    texts = [path.read_bytes() for path in paths]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def _predictor(sources: str) -> Callable[..., int]:
    @exact_kernel
    def predict(  # type: ignore[no-untyped-def]
        hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices, values, out
    ):
        _ = sources
        return predict_class_rows(
            hashed, settings, trees, nodes, counts, blocks, choices, windows, moments, drawn, dense, indptr, indices, values, out
        )

    return predict


def _learner(sources: str) -> Callable[..., int]:
    @exact_kernel
    def learn(  # type: ignore[no-untyped-def]
        hashed,
        settings,
        table,
        trees,
        nodes,
        counts,
        blocks,
        choices,
        windows,
        moments,
        clock,
        drawn,
        dense,
        indptr,
        indices,
        values,
        y,
        weight,
        out,
    ):
        _ = sources
        return learn_class_rows(
            hashed, settings, table, trees, nodes, counts, blocks, choices, windows, moments, clock, drawn, dense,
            indptr, indices, values, y, weight, out,
        )  # fmt: skip

    return learn


def _compile(kernel: Any, signature: str) -> Callable[..., int]:
    """Compile a kernel once. A signature has a word for each argument: "int", or dtype, axes, and "!" if written."""
    from numba import types

    def argument(word: str) -> Any:
        if word == "int":
            return types.int64
        kind, axes = word.rstrip("!").split(":")
        return types.Array(getattr(types, kind), int(axes), "C", readonly=not word.endswith("!"))

    kernel.compile(types.int64(*(argument(word) for word in signature.split())))
    kernel.disable_compile()
    return kernel  # type: ignore[no-any-return]


@cache
def predictor() -> Callable[..., int]:
    """Return the kernel that predicts, see `rows.predict_rows`."""
    state = "int float64:1 int64:2 int32:3 float32:3 float32:3 int32:3 float64:2 float64:2 int"
    return _compile(_predictor(_sources()), f"{state} {_BATCH} float32:2!")


@cache
def learner() -> Callable[..., int]:
    """Return the kernel that learns, see `rows.learn_rows`."""
    state = (
        "int float64:1 float64:1 int64:2! int32:3! float32:3! float32:3! int32:3! float64:2! float64:2! int64:1! int"
    )
    return _compile(_learner(_sources()), f"{state} {_BATCH} float64:1 float32:1 float32:2!")
