"""Compile parts of the kernels of trees.

LLVM optimises a function again in each function that calls it. A chain of ten functions took 57 s of CPU to compile;
merged into one before typing, it takes a fifth. So functions that one place calls are merged, and small functions that
several places call are not.
"""

from __future__ import annotations

from typing import Any, cast

from everlearn._jit import Kernel


def merged(function: Kernel) -> Kernel:
    """Merge `function` into the function that calls it, before types are inferred."""
    import numba

    options: Any = numba.njit(nogil=True, error_model="numpy", inline="always")
    return cast(Kernel, options(function))
