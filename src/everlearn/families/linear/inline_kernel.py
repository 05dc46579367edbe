"""Compile the parts of kernels: functions that are always inlined into their kernel, and functions for rare work."""

from __future__ import annotations

from typing import Any, cast

from everlearn._jit import Kernel


def inlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels: the same exact arithmetic, without the cost of a call.

    A call that LLVM does not inline passes each array as seven words; ten arrays made a row six times slower. The
    function is not cached: its code is part of the cached kernel.
    """
    import numba

    options: Any = numba.njit(nogil=True, error_model="numpy", forceinline=True)
    return cast(Kernel, options(function))


def outlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels for work that few rows need, which need not be inlined.

    It is not cached: its code is part of the cached kernel.
    """
    import numba

    options: Any = numba.njit(nogil=True, error_model="numpy")
    return cast(Kernel, options(function))
