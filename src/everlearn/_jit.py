"""Compiled kernels: numba, cached on disk, without the interpreter lock, and with a message while they compile.

Only modules with kernels import this module, and they are imported when first used, so that `import everlearn` does not
load numba.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# All flags but nnan and ninf, which would make tests for NaN and infinity meaningless.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Kernel) -> Kernel:
    """Compile `function` on its first call; sums may be regrouped, NaN and infinity keep their meaning."""
    return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FASTMATH)(function))


def exact_kernel(function: Kernel) -> Kernel:
    """Compile `function` with every operation in written order, for sums that must not be regrouped."""
    return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def inlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels: the same exact arithmetic, without the cost of a call.

    A call that LLVM does not inline passes each array as seven words; ten arrays made a row six times slower. The
    function is not cached: its code is part of the cached kernel.
    """
    options: Any = numba.njit(nogil=True, error_model="numpy", forceinline=True)
    return cast(Kernel, options(function))


def outlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels for work that few rows need, which need not be inlined.

    It is not cached: its code is part of the cached kernel.
    """
    options: Any = numba.njit(nogil=True, error_model="numpy")
    return cast(Kernel, options(function))


class _CompileNotice(event.Listener):
    """Listener that reports, once a process, that the wait is a compilation."""

    def __init__(self) -> None:
        self.reported = False

    def on_start(self, event: Any) -> None:
        """Report the first compilation of this process."""
        if not self.reported:
            self.reported = True
            print("everlearn: compiling kernels for this machine (once; the result is cached)", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        """Do nothing."""
        return


event.register("numba:compile", _CompileNotice())  # type: ignore[no-untyped-call]
