"""Which slots rows take: bounded work for each row, directions of gradients, draws as by a whole shuffle."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from everlearn._random import uniform
from everlearn.families.neural import buffer_policy

KINDS = ("window", "reservoir", "balanced", "loss", "gradient")


WORK = """
import json, random, sys
import numpy as np
from everlearn import replay
from everlearn.families.neural import buffer_policy
from everlearn.families.neural.memory import KINDS
# Compiled, the hash wraps around; interpreted, it does not.
replay.uniform = buffer_policy.uniform = lambda *key: random.Random(str(key)).random()
room, n, lines, none = 16, 6_000, 0, np.zeros(0, np.int64)
def count(frame, event, _):
    global lines
    lines += event == "line"
    return count if frame.f_code.co_filename.endswith(("buffer_policy.py", "replay.py")) else None
def table_of(kind):
    counters = np.zeros(replay.COUNTERS, np.int64)
    counters[replay.KIND] = kind
    balanced, loss, gradient = (kind == one for one in (replay.BALANCED, buffer_policy.LOSS, buffer_policy.GRADIENT))
    begins = np.zeros(7 * balanced, np.int64)
    begins[-1:] = room
    return buffer_policy.SlotTable(counters, np.zeros(5, np.int64), begins, np.arange(room * balanced, dtype=np.int32),
        np.zeros(room, np.int64), np.zeros(5 * loss, np.int64), np.zeros(room * loss, np.int32),
        np.zeros(room * loss, np.float32), np.zeros(room * gradient, np.float32),
        np.zeros((room * gradient, 4), np.int8))
def work(table, begin, end, counted):
    global lines
    lines = 0
    sys.settrace(count if counted else None)
    for at in range(begin, end, 10):
        y, sketches = rng.integers(0, 5, 10), rng.integers(-127, 128, (10, 4)).astype(np.int8)
        buffer_policy.offer(table, y, rng.random(10).astype(np.float32), sketches, none, at)
        buffer_policy.draw(table.counters, table.order, at, 5)
    sys.settrace(None)
    return lines
found = {}
for name, kind in KINDS.items():
    rng, table = np.random.default_rng(0), table_of(kind)
    found[name] = [work(table, begin, begin + 1_000, begin in (1_000, n - 1_000)) for begin in range(0, n, 1_000)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def lines_run() -> dict[str, list[int]]:
    """Lines of the kernels that are run, not compiled, for each thousand rows that are added and drawn from."""
    environment = {"NUMBA_DISABLE_JIT": "1", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True, env=environment)
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_work_of_a_row_does_not_grow_with_the_stream(kind: str, lines_run: dict[str, list[int]]) -> None:
    """The second thousand rows against the sixth."""
    _, early, *_, late = lines_run[kind]
    assert early > 10_000
    assert late <= 1.02 * early


def test_a_sketch_keeps_directions() -> None:
    """Exact but for rounding up to 64 numbers; above, right on average, with a deviation of 1/8."""
    rng = np.random.default_rng(0)
    small = rng.standard_normal((2, 60)).astype(np.float32)
    truth = small[0] @ small[1] / np.linalg.norm(small[0]) / np.linalg.norm(small[1])
    one, other = buffer_policy.sketched(small, 0)
    assert buffer_policy.cosine(one, other) == pytest.approx(truth, abs=0.01)
    errors = []
    for _ in range(400):
        shared, rest = rng.standard_normal(3000), rng.standard_normal((2, 3000))
        pair = (rng.choice([-1, 1]) * shared + rest).astype(np.float32)
        truth = pair[0] @ pair[1] / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1])
        one, other = buffer_policy.sketched(pair, int(rng.integers(1 << 30)))
        errors.append(buffer_policy.cosine(one, other) - truth)
    assert abs(np.mean(errors)) < 4 * 0.125 / np.sqrt(400)
    assert 0.06 < np.std(errors) < 0.16
    assert not buffer_policy.sketched(np.array([[0.0, 0.0], [np.nan, np.inf]], np.float32), 0).any()


def shuffled(seed: int, key: int, held: int, n: int) -> list[int]:
    numbers = list(range(held))
    for i in range(n):
        j = i + int(uniform(seed, key, i) * (held - i))
        numbers[i], numbers[j] = numbers[j], numbers[i]
    return numbers[:n]


@settings(deadline=None)
@given(held=st.integers(1, 300), n=st.integers(0, 60), seed=st.integers(0, 2**40), key=st.integers(0, 2**50))
def test_few_of_many_are_picked_as_by_a_whole_shuffle(held: int, n: int, seed: int, key: int) -> None:
    n = min(n, held)
    assert buffer_policy.picked(seed, key, 0, held, n).tolist() == shuffled(seed, key, held, n)


def test_places_that_a_shuffle_moves_twice_are_picked_right() -> None:
    """The most rows that are picked without a list of all, so often that they meet each other."""
    for key in range(2000):
        assert buffer_policy.picked(1, key, 0, 101, 10).tolist() == shuffled(1, key, 101, 10)
