"""Compiled kernels: numba, cached on disk, free of the interpreter lock, and said aloud while they compile.

Only modules that hold kernels import this one, and they are imported when first needed, so that
`import everlearn` does not pay for numba.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Everything but nnan and ninf: kernels test for NaN, and must be believed.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Kernel) -> Kernel:
    """Compile `function` on its first call; sums may be regrouped, NaN and infinity keep their meaning."""
    return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FASTMATH)(function))


def exact_kernel(function: Kernel) -> Kernel:
    """Compile `function` with every operation in the order it is written, for sums that must not regroup."""
    return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


class _Aloud(event.Listener):
    """Tells the user, once a process, that the wait is a compilation."""

    def __init__(self) -> None:
        self.told = False

    def on_start(self, event: Any) -> None:
        if not self.told:
            self.told = True
            print("everlearn: compiling kernels for this machine (once; the result is cached)", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        return


event.register("numba:compile", _Aloud())  # type: ignore[no-untyped-call]
