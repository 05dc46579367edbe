"""Request rates from samples of the workers' counters."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.admin import rates
from everlearn.app.admin.rates import CounterSample
from everlearn.app.counters import BOUNDS, Counters, read


def counted(**buckets: list[int]) -> rates.Counts:
    return {"counts": {}, "seconds": {route: {"sum": 1.0, "buckets": taken} for route, taken in buckets.items()}}


def histogram(bucket: int, number: int) -> list[int]:
    return [number if place == bucket else 0 for place in range(len(BOUNDS) + 1)]


def test_rates_are_those_of_the_last_samples():
    old = counted(predict=histogram(3, 1000))
    now = counted(predict=[a + b for a, b in zip(histogram(3, 1000), histogram(10, 50), strict=True)])
    samples = [CounterSample(0.0, [old]), CounterSample(9.0, [old]), CounterSample(10.0, [now])]
    assert rates.rates(samples, 1).requests_per_second == 50
    assert rates.rates(samples, 2).requests_per_second == 5
    assert BOUNDS[9] < (rates.rates(samples, 2).p50 or 0) <= BOUNDS[10]
    assert rates.rates(samples[:2], 1).p50 is None
    assert rates.rates(samples[:1], 1).requests_per_second == 0


def test_a_restarted_worker_counts_from_zero():
    samples = [
        CounterSample(0.0, [counted(predict=histogram(3, 1000))]),
        CounterSample(1.0, [counted(predict=histogram(5, 7))]),
    ]
    assert rates.rates(samples, 1).requests_per_second == 7


def test_rates_of_each_worker():
    before = [counted(predict=histogram(3, 10)), counted(learn=histogram(3, 10))]
    after = [counted(predict=histogram(3, 30)), counted(learn=histogram(3, 15))]
    samples = [CounterSample(0.0, before), CounterSample(1.0, after)]
    assert [rates.rates(samples, 1, worker).requests_per_second for worker in (0, 1)] == [20, 5]
    assert rates.rates(samples, 1).requests_per_second == 25


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
