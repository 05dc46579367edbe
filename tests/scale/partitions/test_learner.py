from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.model import build, copied, cut, select
from everlearn.records import Arrays
from everlearn.scale.partitions.dealing import Dealing
from everlearn.scale.partitions.learner import PartitionLearner, PartitionRows, merged, replayed
from tests.support.partitions import BINARY, dealt, labelled, learner, same

LINEAR: dict[str, Any] = {"family": "linear", **BINARY}
BAYES: dict[str, Any] = {"family": "naive_bayes", **BINARY}
FOREST: dict[str, Any] = {"family": "forest", "trees": 4, "memory": 1 << 18, **BINARY}
MIX: dict[str, Any] = {"family": "mix", "members": [{"family": "linear"}, {"family": "last"}], **BINARY}
DEALING = Dealing(count=3, every=60, opening=40)
EXAMPLES = labelled(230)


def barriers(dealing: Dealing, end: int) -> list[tuple[tuple[int, ...], bool]]:
    """Return the recorded barriers of a run over so many rows: the position of each partition's last row."""
    found, at = [], 0
    while at < end:
        upto = min(dealing.next_barrier(at), end)
        owner = dealing.owners(np.arange(at + 1, upto + 1))
        last = [np.flatnonzero((owner == p) | (owner < 0)) for p in range(dealing.count)]
        cursors = tuple(at + 1 + int(own[-1]) if len(own) else at for own in last)
        found.append((cursors, at < dealing.opening))
        at = upto
    return found


def in_steps(spec: dict[str, Any], order: list[int]) -> Arrays:
    """Learn row by row in an interleaving: `order` names the partition that learns its next row."""
    base = copied(build(spec).arrays)
    learners = [PartitionLearner(spec, p, DEALING.count) for p in range(DEALING.count)]
    at, turn = 0, 0
    while at < len(EXAMPLES.y):
        upto = min(DEALING.next_barrier(at), len(EXAMPLES.y))
        part = cut(EXAMPLES, at, upto)
        owner, opening = DEALING.owners(part.position), at < DEALING.opening
        waiting = [select(part, (owner == p) | (owner < 0)) for p in range(DEALING.count)]
        for one in learners:
            one.begin(base, opening=opening)
        taken = [0] * DEALING.count
        while any(taken[p] < len(waiting[p].y) for p in range(DEALING.count)):
            p = order[turn % len(order)] % DEALING.count
            turn += 1
            p = next(q for q in (p, *range(DEALING.count)) if taken[q] < len(waiting[q].y))
            learners[p].learn(cut(waiting[p], taken[p], taken[p] + 1))
            taken[p] += 1
        base, at = merged(learners, base, opening=opening), upto
    return base


@pytest.mark.parametrize("spec", [LINEAR, BAYES, FOREST, MIX], ids=lambda spec: spec["family"])
@settings(max_examples=8, deadline=None)
@given(order=st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_any_interleaving_of_the_partitions_gives_the_same_bytes(spec: dict[str, Any], order: list[int]) -> None:
    rows = [dealt(EXAMPLES, DEALING, p, 11) for p in range(DEALING.count)]
    expected = replayed(spec, build(spec).arrays, rows, barriers(DEALING, len(EXAMPLES.y)))
    assert same(in_steps(spec, order), expected)


@given(st.integers(1, 40), st.lists(st.integers(0, 230), max_size=8))
def test_rows_do_not_depend_on_how_they_are_cut(size: int, positions: list[int]) -> None:
    rows, found = dealt(EXAMPLES, DEALING, 1, size), []
    for position in [*sorted(positions), len(EXAMPLES.y)]:
        found += [at for piece in rows.upto(position) for at in piece.examples.position.tolist()]
        assert all(at <= position for at in found)
    owner = DEALING.owners(EXAMPLES.position)
    assert found == EXAMPLES.position[(owner == 1) | (owner < 0)].tolist()
    assert not rows.more()


def test_the_opening_is_one_learner() -> None:
    rows = [dealt(EXAMPLES, DEALING, p) for p in range(3)]
    found = replayed(LINEAR, build(LINEAR).arrays, rows, [((40, 40, 40), True)])
    assert same(found, learner(LINEAR, cut(EXAMPLES, 0, 40)).arrays)


def test_one_partition_learns_as_one_learner_does() -> None:
    dealing = Dealing(count=1, every=60, opening=40)
    rows = [dealt(EXAMPLES, dealing, 0)]
    found = replayed(FOREST, build(FOREST).arrays, rows, barriers(dealing, len(EXAMPLES.y)))
    assert same(found, learner(FOREST, EXAMPLES).arrays)


def test_each_row_is_predicted_before_it_is_learned() -> None:
    """A prediction does not depend on the label of its own row, or of a later one."""
    wrong = labelled(230)
    wrong.y[100:] = 1.0 - wrong.y[100:]
    both = []
    for examples in (EXAMPLES, wrong):
        one = PartitionLearner(LINEAR, 0, 1)
        one.begin(build(LINEAR).arrays)
        both.append(one.learn(examples))
    assert both[0][:101].tobytes() == both[1][:101].tobytes()
    assert both[0][101:].tobytes() != both[1][101:].tobytes()


def test_no_rows_end_at_once() -> None:
    rows = PartitionRows([], after=5)
    assert rows.upto(10) == []
    assert rows.ended
    assert rows.last == 5
