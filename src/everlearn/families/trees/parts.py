"""Compile parts of the kernels of trees, in less time than functions that Python may call.

A function that numba compiles gets wrappers, with which Python and C call it; those of a function of twenty arrays cost
more than the function. And LLVM optimises a function again in each function that calls it, so that a chain of ten is
compiled ten times. Parts have no wrappers, and functions that one place calls are merged into it.
"""

from __future__ import annotations

from typing import Any, cast

from everlearn._jit import Kernel

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def outlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels, to be called; Python cannot call it."""
    import numba

    return cast(Kernel, numba.njit(**_OPTIONS)(function))


def inlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels, inlined by LLVM; Python cannot call it."""
    import numba

    return cast(Kernel, numba.njit(**_OPTIONS, forceinline=True)(function))


def merged(function: Kernel) -> Kernel:
    """Merge `function` into the function that calls it, before types are inferred."""
    import numba

    options: Any = numba.njit(nogil=True, error_model="numpy", inline="always")
    return cast(Kernel, options(function))
