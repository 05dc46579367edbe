"""The pool of threads: every piece once, errors, interruptions, and processes that are forked."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from everlearn.families import threads


@pytest.mark.parametrize("count", [1, 2, 7])
def test_each_piece_runs_once(count: int) -> None:
    runs = [0] * 100

    def work(piece: int) -> None:
        runs[piece] += 1

    threads.spread(work, 100, count)
    assert runs == [1] * 100


def test_pieces_run_side_by_side() -> None:
    """Each of two pieces waits for the other."""
    meeting = threading.Barrier(2, timeout=30)
    threads.spread(lambda _: meeting.wait() and None, 2, 2)


@pytest.mark.parametrize("faulty", [0, 1, 5])
def test_an_error_of_a_piece_is_raised_when_all_have_ended(faulty: int) -> None:
    running: list[int] = []

    def work(piece: int) -> None:
        running.append(piece)
        try:
            if piece == faulty:
                raise ValueError(f"piece {piece}")
            time.sleep(0.01)
        finally:
            running.remove(piece)

    with pytest.raises(ValueError, match=f"piece {faulty}"):
        threads.spread(work, 6, 3)
    assert not running


def test_calls_within_the_pool_do_not_wait_for_each_other() -> None:
    """More calls at once than the pool has threads."""
    done: list[int] = []

    def call() -> None:
        threads.uninterrupted(lambda: threads.spread(done.append, 5, 8))

    callers = [threading.Thread(target=call) for _ in range(100)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert len(done) == 500


def test_an_interruption_waits_for_the_work() -> None:
    done = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        done.append(True)

    with pytest.raises(KeyboardInterrupt):
        threads.uninterrupted(work)
    assert done


def test_a_forked_process_makes_its_own_threads() -> None:
    threads.spread(lambda _: None, 4, 2)
    child = os.fork()
    if child == 0:
        runs: list[int] = []
        signal.alarm(20)
        threads.spread(runs.append, 50, 2)
        os._exit(0 if sorted(runs) == list(range(50)) else 1)
    assert os.waitpid(child, 0)[1] == 0
