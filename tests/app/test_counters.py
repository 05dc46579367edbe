"""Counts in a mapped file: exact, kept over restarts, read while they are written, never by two writers at once."""

from __future__ import annotations

import os
import signal
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.counters import BOUNDS, Counters, quantile, read
from everlearn.errors import ConfigError, LogError


def forked(work):
    """Run `work` in a child that ends with it; return its id."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def test_nothing_was_counted_where_there_is_no_file(tmp_path):
    assert read(tmp_path / "none") == {"counts": {}, "seconds": {}}


def test_counts_are_exact_and_go_on_after_a_restart(tmp_path):
    path = tmp_path / "worker-0.counters"
    for _ in range(3):
        counters = Counters(path)
        counters.add("predict_2xx")
        counters.add("bytes", 1 << 40)
        counters.observe("predict", 0.0001)
        counters.close()
        counters.close()
    found = read(path)
    assert found["counts"] == {"predict_2xx": 3, "bytes": 3 << 40}
    assert found["seconds"]["predict"]["count"] == 3
    assert found["seconds"]["predict"]["sum"] == pytest.approx(0.0003)
    assert not path.with_name(f"{path.name}.1").exists()


def test_a_bucket_takes_what_is_not_above_its_bound(tmp_path):
    counters = Counters(tmp_path / "a")
    for seconds in (0.0, *BOUNDS, 11.0, 1e9):
        counters.observe("learn", seconds)
    buckets = read(tmp_path / "a")["seconds"]["learn"]["buckets"]
    assert buckets == [2, *[1] * (len(BOUNDS) - 1), 2]


def test_bounds_are_five_to_a_decade_from_50_microseconds_to_10_seconds():
    assert (BOUNDS[0], BOUNDS[-1]) == (5e-5, 10.0)
    assert list(BOUNDS) == sorted(set(BOUNDS))
    assert all(1.2 < high / low < 1.7 for low, high in pairwise(BOUNDS))


@given(st.lists(st.floats(0, 20), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, q):
    buckets = np.bincount(np.searchsorted(BOUNDS, values), minlength=len(BOUNDS) + 1)
    true = float(np.quantile(values, q, method="inverted_cdf"))
    found = quantile(buckets.tolist(), q)
    assert found is not None
    ends = (0.0, *BOUNDS)
    at = int(np.searchsorted(BOUNDS, true))
    assert min(ends[at], BOUNDS[-1]) <= found <= BOUNDS[min(at, len(BOUNDS) - 1)]


def test_no_answers_have_no_quantile():
    assert quantile([0] * (len(BOUNDS) + 1), 0.5) is None


def test_a_second_process_counts_beside_the_first_and_both_are_read(tmp_path):
    path = tmp_path / "worker-0.counters"
    old, new = Counters(path), Counters(path)  # a worker, and the one that replaces it
    for counters, n in ((old, 1), (new, 10), (old, 100)):
        counters.add("answers", n)
        counters.observe("predict", 0.001 * n)
    assert read(path)["counts"] == {"answers": 111}
    assert read(path)["seconds"]["predict"]["count"] == 3
    old.close()
    new.close()
    with_room = Counters(path)
    with_room.add("answers", 1000)
    assert read(path)["counts"] == {"answers": 1111}


def test_too_many_at_one_path_are_refused(tmp_path):
    held = [Counters(tmp_path / "a") for _ in range(4)]
    with pytest.raises(LogError, match="are all in use; end the processes that count there"):
        Counters(tmp_path / "a")
    for counters in held:
        counters.close()


def test_counts_of_a_killed_process_are_there_and_its_place_is_free(tmp_path):
    path = tmp_path / "a"

    def work():
        counters = Counters(path)
        while True:
            counters.add("x")
            counters.observe("predict", 0.0001)

    pid = forked(work)
    before = 0
    while before < 1000:
        found = read(path)
        now = found["counts"].get("x", 0)
        assert now >= before  # counters never go back
        before = now
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    last = read(path)["counts"]["x"]
    counters = Counters(path)
    counters.add("x")
    assert read(path)["counts"]["x"] == last + 1
    assert not path.with_name("a.1").exists()


def test_no_number_is_read_half_written(tmp_path):
    path, step = tmp_path / "a", (1 << 32) + 1  # both halves of the number change together

    def work():
        counters = Counters(path)
        for _ in range(200_000):
            counters.add("x", step)

    Counters(path).close()
    pid = forked(work)
    done = 0
    while done == 0:
        number = read(path)["counts"].get("x", 0)
        assert number % step == 0
        done, _ = os.waitpid(pid, os.WNOHANG)
    assert read(path)["counts"]["x"] == 200_000 * step


@pytest.mark.parametrize("content", [b"", b"other", b"\xff" * 9_000, b"\xff" * 10_624])
def test_a_file_of_something_else_is_begun_anew(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    assert read(path)["counts"] == {}
    counters = Counters(path)
    counters.add("x")
    assert read(path)["counts"] == {"x": 1}


@pytest.mark.parametrize("name", ["", "x" * 57, "a\0b", "\ud800" * 57])
def test_a_name_that_does_not_fit_is_counted_with_all_others(tmp_path, name):
    counters = Counters(tmp_path / "a")
    counters.add(name, 2)
    counters.add("other")
    assert read(tmp_path / "a")["counts"] == {"other": 3}


def test_names_are_bounded_and_further_ones_are_counted_together(tmp_path):
    for _ in range(2):
        counters = Counters(tmp_path / "a")
        for number in range(200):
            counters.add(f"n{number}", number)
        counters.close()
    expected = {f"n{number}": 2 * number for number in range(127)} | {"other": 2 * sum(range(127, 200))}
    assert read(tmp_path / "a")["counts"] == expected


def test_routes_are_bounded(tmp_path):
    counters = Counters(tmp_path / "a")
    for number in range(8):
        counters.observe(f"r{number}", 0.1)
    with pytest.raises(ConfigError, match="at most 8 of them; there are 8"):
        counters.observe("r8", 0.1)


def test_the_file_has_a_fixed_size_and_is_for_its_user_alone(tmp_path):
    path = Path(tmp_path / "a")
    counters = Counters(path)
    size = path.stat().st_size
    for route in ("predict", "feedback", "learn"):
        counters.observe(route, 0.1)
    assert path.stat().st_size == size < 20_000
    assert path.stat().st_mode & 0o777 == 0o600
