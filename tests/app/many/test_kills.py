"""A server of many loops whose processes are killed under load: nothing acknowledged is lost, or learned twice."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.support.loop_folders import POOL, OneOf, PoolProcess, folder_of, template
from tests.support.servers import PATIENCE, ClientLoad, Memory, check_kept, check_learned

SETTINGS = template()
LOOPS = ("a", "b", "c", "d")


ANSWERS = 50  # of each loop at least, however often it was killed


def driven(server: PoolProcess, name: str, over: threading.Event, memory: Memory, broken: list[BaseException]) -> None:
    """Send rows to one loop until it is over, and the loop has given some answers."""
    load = ClientLoad(LOOPS.index(name), OneOf(server, name), itertools.count())  # type: ignore[arg-type]
    until = 0.0
    try:
        while not over.is_set() or len(load.memory.answers) < ANSWERS:
            if over.is_set():
                until = until or time.monotonic() + PATIENCE
                assert time.monotonic() < until, f"the loop {name} gives no answers"
            load.step()
            time.sleep(0.02)
    except BaseException as error:
        broken.append(error)
    finally:
        load.close()
        memory.add(load.memory)


def under_kills(root: Path, pool: object, kills: int, seed: int) -> dict[str, Memory]:
    """Kill a process of a server again and again while clients use four loops; return what each client remembers."""
    memories = {name: Memory() for name in LOOPS}
    broken: list[BaseException] = []
    over, draw = threading.Event(), np.random.default_rng(seed)
    victims = ("learner-0", "learner-1", "worker-0", "worker-1", "admin", "everything")
    with PoolProcess(root, pool) as server:  # type: ignore[arg-type]
        threads = [threading.Thread(target=driven, args=(server, name, over, memories[name], broken)) for name in LOOPS]
        for thread in threads:
            thread.start()
        try:
            for number in range(kills):
                time.sleep(float(draw.uniform(0.2, 1.5)))
                victim = victims[number % len(victims)]
                if victim == "everything":
                    server.kill_everything()
                    server.start()
                else:
                    server.kill(victim)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert broken == []
    return memories


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "seed"), [(12, 1), (48, 2)])
def test_kills_lose_nothing_and_learn_nothing_twice(tmp_path: Path, kills: int, seed: int) -> None:
    root = folder_of(tmp_path / "loops", SETTINGS)
    memories = under_kills(root, msgspec.structs.replace(POOL, processes=2), kills, seed)
    for name, memory in memories.items():
        assert memory.answers, name
        check_learned(root / f"{name}.home", SETTINGS, tmp_path / name)
        check_kept(memory, root / f"{name}.home")


@pytest.mark.slow
def test_kills_while_loops_are_evicted_lose_nothing(tmp_path: Path) -> None:
    """The memory has room for about two of the four loops, so that each is evicted and opened all the time."""
    root = folder_of(tmp_path / "loops", SETTINGS)
    memories = under_kills(root, msgspec.structs.replace(POOL, processes=2, memory=1_600_000), 12, 3)
    for name, memory in memories.items():
        check_learned(root / f"{name}.home", SETTINGS, tmp_path / name)
        check_kept(memory, root / f"{name}.home")
