"""Threads for work that is cut into pieces: one pool for each process, made when it is first needed.

In come a function and a number of pieces; out goes nothing, since pieces write to arrays that the caller made. Kernels
release the interpreter lock, so threads run them side by side. The pool belongs to the process and to no model: models
are copied, pickled and forked without it. A process that was forked makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from typing import TypeVar

MOST_THREADS = 64
_WAITING = 64  # calls that may wait at once; a thread begins when it is needed
_pools: dict[int, ThreadPoolExecutor] = {}  # of this process, by its id

Found = TypeVar("Found")


def uninterrupted(work: Callable[[], Found]) -> Found:
    """Return what `work` returns, run in a thread of the pool. Raises what it raises.

    Handlers of signals run in the main thread. What they raise meanwhile, such as `KeyboardInterrupt`, is raised when
    the work is done, as after a call of a kernel.

    >>> uninterrupted(lambda: 6 * 7)
    42
    """
    future = _pool().submit(work)
    raised: BaseException | None = None
    while not future.done():
        try:
            wait([future])
        except BaseException as error:  # of a handler; the work goes on
            raised = error
    if raised is not None:
        raise raised
    return future.result()


def spread(work: Callable[[int], None], pieces: int, threads: int) -> None:
    """Call `work` with each number below `pieces`, in any order, in this thread and up to `threads` - 1 others.

    Returns when all calls have ended. Raises what a call raises; pieces that have not begun are then left out.

    >>> found = [0] * 5
    >>> spread(lambda i: found.__setitem__(i, i * i), 5, 2)
    >>> found
    [0, 1, 4, 9, 16]
    """
    numbers = count()

    def take() -> None:
        while (number := next(numbers)) < pieces:
            try:
                work(number)
            except BaseException:
                for _ in range(pieces):  # leave the others out
                    next(numbers)
                raise

    others = [_pool().submit(take) for _ in range(min(threads, pieces) - 1)]
    try:
        take()
    finally:
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    for other in begun:
        other.result()


def _pool() -> ThreadPoolExecutor:
    """Return the pool of this process."""
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools.setdefault(os.getpid(), ThreadPoolExecutor(MOST_THREADS + _WAITING, "everlearn"))
    return pool


os.register_at_fork(after_in_child=_pools.clear)
