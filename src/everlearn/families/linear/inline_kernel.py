"""Parts of a kernel: compiled functions that are always inlined into the kernel that calls them."""

from __future__ import annotations

from typing import Any, cast

from everlearn._jit import Kernel


def part(function: Kernel) -> Kernel:
    """Compile `function` as a piece of a kernel: same exact arithmetic, and no cost for the call.

    A call that LLVM does not inline passes each array as seven words; ten arrays a row made rows six times
    slower. Parts are not cached: their code is in the cached kernel.
    """
    import numba

    options: Any = numba.njit(nogil=True, error_model="numpy", forceinline=True)
    return cast(Kernel, options(function))
