"""What goes on: rates from counters, series that are bounded, processes as the system tells them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.admin import rates
from everlearn.app.admin.processes import memory, running
from everlearn.app.admin.rates import Reading
from everlearn.app.admin.series import CLASSES, KEPT, Series
from everlearn.app.counters import BOUNDS, Counters, read
from everlearn.app.process import Setup
from everlearn.config import convert
from tests.support.admin import SPEC, desk, grown, learning, set_up, until


def counted(**buckets: list[int]) -> rates.Counts:
    return {"counts": {}, "seconds": {route: {"sum": 1.0, "buckets": taken} for route, taken in buckets.items()}}


def histogram(bucket: int, number: int) -> list[int]:
    return [number if place == bucket else 0 for place in range(len(BOUNDS) + 1)]


def test_rates_are_those_of_the_last_readings():
    old = counted(predict=histogram(3, 1000))
    now = counted(predict=[a + b for a, b in zip(histogram(3, 1000), histogram(10, 50), strict=True)])
    readings = [Reading(0.0, [old]), Reading(9.0, [old]), Reading(10.0, [now])]
    assert rates.rates(readings, 1).requests_per_second == 50
    assert rates.rates(readings, 2).requests_per_second == 5
    assert BOUNDS[9] < (rates.rates(readings, 2).p50 or 0) <= BOUNDS[10]
    assert rates.rates(readings[:2], 1).p50 is None
    assert rates.rates(readings[:1], 1).requests_per_second == 0


def test_a_worker_that_began_anew_counts_from_zero():
    readings = [Reading(0.0, [counted(predict=histogram(3, 1000))]), Reading(1.0, [counted(predict=histogram(5, 7))])]
    assert rates.rates(readings, 1).requests_per_second == 7


def test_workers_are_told_apart():
    before = [counted(predict=histogram(3, 10)), counted(learn=histogram(3, 10))]
    after = [counted(predict=histogram(3, 30)), counted(learn=histogram(3, 15))]
    readings = [Reading(0.0, before), Reading(1.0, after)]
    assert [rates.rates(readings, 1, worker).requests_per_second for worker in (0, 1)] == [20, 5]
    assert rates.rates(readings, 1).requests_per_second == 25


@given(st.lists(st.tuples(st.sampled_from(["predict", "learn"]), st.floats(0, 12)), max_size=40), st.integers(1, 3))
def test_sums_are_those_of_one_worker_that_did_it_all(taken, workers):
    """Compared with the histogram that one tally keeps of the same answers."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / str(number) for number in range(workers)]
        tallies, whole = [Counters(path) for path in paths], Counters(Path(folder) / "whole")
        for number, (route, seconds) in enumerate(taken):
            for one in (tallies[number % workers], whole):
                one.observe(route, seconds)
                one.add(f"{route}_2xx")
        found, expected = rates.summed([read(path) for path in paths]), read(Path(folder) / "whole")
        for one in (*tallies, whole):
            one.close()
    assert found["counts"] == expected["counts"]
    assert rates.requests(found) == len(taken)
    for route, held in expected["seconds"].items():
        assert found["seconds"][route]["buckets"] == held["buckets"]
        assert found["seconds"][route]["sum"] == pytest.approx(held["sum"])


def test_series_never_grow_beyond_ten_minutes():
    series = Series()
    gate = {"candidate": "a", "difference": 0.1, "low": 0.0, "high": 0.2, "log_e_better": 1.0, "log_e_worse": -1.0}
    for second in range(KEPT + 100):
        series.add(float(second), {"requests": 1.0}, {f"class {second % 40}": 1.0}, gate)
    shown = series.shown()
    assert len(shown["replay"]) == CLASSES
    for line in (shown["time"], shown["p99"], *shown["replay"].values(), shown["gate"]["low"]):
        assert len(line) == KEPT
    assert shown["time"][-1] == KEPT + 99


def test_another_candidate_begins_another_line():
    series = Series()
    gate = {"candidate": "a", "difference": 0.1, "low": 0.0, "high": 0.2, "log_e_better": 1.0, "log_e_worse": -1.0}
    series.add(1.0, {}, {}, gate)
    series.add(2.0, {}, {}, gate | {"candidate": "b"})
    series.add(3.0, {}, {}, None)
    shown = series.shown()["gate"]
    assert shown["candidate"] == ""
    assert shown["difference"] == [None, None, None]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_processes_are_found_by_what_they_were_told(tmp_path):
    setup = Setup(spec=convert(SPEC), home=str(tmp_path), serving=str(tmp_path / "serving"), index=3)
    waits = "import sys; sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", waits, "everlearn.app.worker"],
        env={**os.environ, **setup.environment()},
        stdin=subprocess.PIPE,
    )
    try:
        until(lambda: running(os.getpid(), setup.serving))
        found = running(os.getpid(), setup.serving)
        assert found["worker-3"].pid == child.pid
        assert found["worker-3"].memory == pytest.approx(memory(child.pid), rel=0.5)
        assert running(os.getpid(), "/elsewhere") == {}
        assert running(child.pid, setup.serving) == {}
    finally:
        assert child.stdin is not None
        child.stdin.close()
        child.wait()
    assert running(os.getpid(), setup.serving) == {}


def test_what_cannot_be_read_is_told_and_passes(tmp_path, caplog):
    """A status that is no JSON does not end the watching: the next one counts."""
    home = tmp_path / "home"
    with set_up(home, grown(home, examples=700)) as setup, desk(setup) as opened:
        setup.status.write_bytes(b"{")
        until(lambda: "cannot look" in caplog.text)
        setup.status.write_bytes(msgspec.json.encode({"time": 1.0}))
        until(lambda: opened.parts.traffic.status == {"time": 1.0})
        with learning(setup):
            until(lambda: opened.parts.traffic.status is not None and "counts" in opened.parts.traffic.status)


def test_the_desk_holds_ten_seconds_of_counts(tmp_path):
    home = tmp_path / "home"
    with set_up(home, grown(home, examples=700)) as setup, learning(setup), desk(setup) as opened:
        for _ in range(50):
            opened.parts.traffic.sample()
        readings = opened.parts.traffic._readings
        assert isinstance(readings, deque)
        assert len(readings) == readings.maxlen == 11
