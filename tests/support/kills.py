"""Kill a child process at random moments or after each commit, and compare its home with an undisturbed one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everlearn.loop.journal import Journal
from everlearn.loop.loop import Loop
from everlearn.loop.stretch import Commit
from everlearn.spec import Spec
from everlearn.stream import read

Work = Callable[[Path], None]


def content(home: Path, settings: Spec) -> dict[str, Any]:
    """Return all that a loop holds: every array's bytes, every event, every version and alias."""
    with Loop(settings, home) as loop:
        arrays, header = loop.fold.state()
        events = [msgspec.to_builtins(event.payload) for event in loop.log.read(0, 1_000_000)]
        versions = [msgspec.to_builtins(one) for one in loop.versions()]
        blobs = {one["id"]: loop.home.versions.load(one["id"]) for one in versions}
        return {
            "arrays": {name: array.tobytes() for name, array in arrays.items()},
            "header": header,
            "events": events,
            "versions": versions,
            "blobs": {id: {name: array.tobytes() for name, array in held.items()} for id, held in blobs.items()},
            "aliases": loop.aliases(),
        }


def child(work: Work, home: Path) -> int:
    """Do `work` in a forked process, which has the compiled kernels already; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(home)
        status = 0
    finally:
        os._exit(status)


def disturbed(work: Work, folder: Path, kills: int, seconds: float) -> list[Path]:
    """Do `work` as often as it takes to kill it `kills` times; return the homes in which it came to its end."""
    draw = np.random.default_rng(11)
    homes: list[Path] = []
    while kills > 0:
        home = folder / f"disturbed-{len(homes)}"
        done = False
        while not done:
            pid = child(work, home)
            if kills > 0:
                time.sleep(draw.uniform(0.0, 0.5) * seconds)
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                kills -= 1
            else:
                assert os.WEXITSTATUS(status) == 0
                done = True
        homes.append(home)
    return homes


def without_times(one: dict[str, Any]) -> None:
    """Remove the times of live events from a content, and so the hashes of the checkpoints that hold them."""
    one["header"]["now"] = 0
    one["arrays"]["waiting/time"] = b""
    one["arrays"].pop("waiting/lag", None)
    one["events"] = [event | {"blob": ""} if event["kind"] == "checkpoint" else event for event in one["events"]]


def check(work: Work, folder: Path, settings: Spec, kills: int, clocked: bool = False) -> None:
    """Compare homes in which `work` was killed at random moments with an undisturbed one, byte for byte.

    `clocked` is true for work whose events get their times from the clock.
    """
    undisturbed = folder / "undisturbed"
    work(undisturbed)  # compiles the kernels
    before = time.perf_counter()
    work(folder / "timed")
    seconds = time.perf_counter() - before
    expected = content(undisturbed, settings)
    assert any(event.get("action") == "promote" for event in expected["events"]), "nothing happened: a weak test"
    for home in disturbed(work, folder, kills, seconds):
        got = content(home, settings)
        if clocked:
            for one in (expected, got):
                without_times(one)
        assert got["header"] == expected["header"]
        assert got["arrays"] == expected["arrays"]
        assert got["events"] == expected["events"]
        assert got["versions"] == expected["versions"]
        assert got["blobs"] == expected["blobs"]
        assert got["aliases"] == expected["aliases"]


def rows_work(settings: Spec, columns: dict[str, Any]) -> Work:
    """Learn the rows of a stream that is itself the log."""

    def work(home: Path) -> None:
        with Loop(settings, home) as loop:
            loop.run(read(columns, schema=settings.schema))

    return work


def killed_after_each_commit(work: Work, home: Path, commits: int) -> None:
    """Do `work` in children that die right after their next commit, and then to its end in this process."""

    def dying(home: Path) -> None:
        commit = Journal.commit

        def last(self: Loop, due: Commit) -> None:
            commit(self, due)
            os._exit(0)

        Journal.commit = last  # type: ignore[method-assign]
        work(home)

    for _ in range(commits + 1):
        os.waitpid(child(dying, home), 0)
    work(home)


def commits_of(content: dict[str, Any]) -> int:
    return sum(event["kind"] == "checkpoint" for event in content["events"])
