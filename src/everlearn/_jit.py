"""Compiled kernels: numba, cached on disk, without the interpreter lock, and with a message while they compile.

Only modules with kernels import this module, and they are imported when first used, so that `import everlearn` does not
load numba.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba.core import event, types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# All flags but nnan and ninf, which would make tests for NaN and infinity meaningless.
_FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Kernel) -> Kernel:
    """Compile `function` on its first call; sums may be regrouped, NaN and infinity keep their meaning."""
    return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=_FASTMATH)(function))


def exact_kernel(function: Kernel) -> Kernel:
    """Compile `function` with every operation in written order, for sums that must not be regrouped."""
    return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy")(function))


def part(function: Kernel, bare: bool = False, **options: Any) -> Kernel:
    """Compile `function` for use in kernels; with `bare`, Python must not call it.

    Numba compiles a function again for each constant that it is called with, and for arrays that may be written. A part
    is compiled once for all numbers of a type, and what was compiled for read-only arrays takes others too. A bare part
    has no wrappers with which Python and C call it: those of a function of twenty arrays cost more than the function.
    Parts are not cached: their code is part of the cached kernel.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        return function
    settings: dict[str, Any] = {"no_cpython_wrapper": bare, "no_cfunc_wrapper": True, **options}
    made: Any = numba.njit(nogil=True, error_model="numpy", **settings)(function)
    template = made.get_call_template

    def shared(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        given = tuple(types.unliteral(one) for one in args)  # type: ignore[no-untyped-call]
        known = (tuple(signature) for signature in made.overloads)
        return template(next((one for one in known if _takes(one, given)), given), kws)

    made.get_call_template = shared
    return cast(Kernel, made)


def _takes(compiled: tuple[Any, ...], given: tuple[Any, ...]) -> bool:
    """Return True if what was compiled for some types takes others, which differ in being read-only at most."""
    return len(compiled) == len(given) and all(
        one == other or (isinstance(other, types.Array) and other.mutable and one == other.copy(readonly=True))
        for one, other in zip(compiled, given, strict=True)
    )


def inlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels: the same exact arithmetic, without the cost of a call.

    A call that LLVM does not inline passes each array as seven words; ten arrays made a row six times slower.
    """
    return part(function, forceinline=True)


def outlined(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels for work that few rows need, which need not be inlined."""
    return part(function)


def bare(function: Kernel) -> Kernel:
    """Compile `function` for use in kernels, to be called; Python cannot call it."""
    return part(function, bare=True)


def merged(function: Kernel) -> Kernel:
    """Merge `function` into the function that calls it, before types are inferred."""
    options: Any = numba.njit(nogil=True, error_model="numpy", inline="always")
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
