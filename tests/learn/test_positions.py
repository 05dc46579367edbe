"""Positions of counted values, against a list of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.learn import positions


@given(n=st.integers(1, 5000), ago=st.integers(1, 6000), key=st.integers(0, 100))
@settings(deadline=None, max_examples=200)
def test_a_value_is_found_by_its_age_to_within_a_share_of_it(n: int, ago: int, key: int) -> None:
    every = np.cumsum(np.random.default_rng(key).integers(1, 9, n))
    arrays = positions.start()
    positions.add(arrays, every)
    found = int(np.flatnonzero(every == positions.at(arrays, ago))[0])
    wanted = max(0, n - ago)
    assert wanted <= found <= wanted + min(ago, n) / 15


@given(cuts=st.lists(st.integers(0, 700), max_size=6))
@settings(deadline=None)
def test_how_the_values_are_cut_makes_no_difference(cuts: list[int]) -> None:
    every, whole, parts = np.arange(3, 703), positions.start(), positions.start()
    positions.add(whole, every)
    for piece in np.split(every, sorted(cuts)):
        positions.add(parts, piece)
    assert {name: array.tobytes() for name, array in whole.items()} == {
        name: array.tobytes() for name, array in parts.items()
    }


def test_the_newest_of_several_drifts_counts_and_of_those_together_the_oldest_change() -> None:
    arrays = positions.start()
    positions.add(arrays, np.arange(10, 110))
    assert positions.changed(arrays) is positions.changed({}) is None
    found = [positions.Change(90, 70), None, positions.Change(99, 95), positions.Change(99, 80)]
    positions.note_change(arrays, found)
    assert positions.changed(arrays) == 90
    positions.note_change(arrays, [None])
    assert positions.changed(arrays) == 90


@pytest.mark.parametrize("ago", [1, 5])
def test_without_values_there_is_no_position(ago: int) -> None:
    assert positions.at(positions.start(), ago) == 0
