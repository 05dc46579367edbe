"""Turns and residents: no loop waits for more than one turn of each other one, and memory has a bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everlearn.app.many.turns import Residents, Turns

NAMES = st.sampled_from("abcdef")


@given(st.lists(NAMES, min_size=1, max_size=60), st.sets(NAMES))
def test_a_loop_that_waits_gets_its_turn_after_at_most_one_of_each_other(events: list[str], busy: set[str]) -> None:
    """Busy loops want another turn at once; nevertheless each loop waits for at most the others that were before it."""
    turns = Turns()
    waits: dict[str, int] = {}
    for name in [*events, *[""] * 12]:
        if name:
            turns.add(name)
            waits.setdefault(name, 0)
        found = turns.next()
        if found is None:
            continue
        assert waits.pop(found) <= 5
        waits = {other: number + 1 for other, number in waits.items()}
        if found in busy:
            turns.add(found)
            waits[found] = 0


def test_a_dropped_loop_has_no_turn() -> None:
    turns = Turns()
    turns.add("a")
    turns.add("b")
    turns.drop("a")
    turns.drop("c")
    assert ("a" in turns, "b" in turns, len(turns), [*turns]) == (False, True, 1, ["b"])


@given(st.lists(st.tuples(NAMES, st.integers(1, 50)), max_size=40), st.sets(NAMES), st.integers(1, 4))
def test_residents_stay_within_both_bounds_unless_the_others_are_busy(
    uses: list[tuple[str, int]], busy: set[str], most: int
) -> None:
    residents = Residents(most_bytes=90, most=most)
    model: dict[str, int] = {}  # the order of use, kept independently
    for name, size in uses:
        for gone in residents.surplus(lambda other: other not in busy, size, name not in model):
            assert gone not in busy
            earlier = [other for other in model if other not in busy]
            assert gone == earlier[0]
            del model[gone]
            residents.drop(gone)
        model.pop(name, None)
        model[name] = size
        residents.use(name, size)
        assert residents.total == sum(model.values())
        assert len(residents) == len(model)
        if not busy:
            assert len(model) <= max(most, 1)
            assert residents.total <= 90 + size
