from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.errors import EverlearnError, InputError
from everlearn.evaluate import dealt_rows
from everlearn.model import build
from everlearn.records import Arrays, Examples
from everlearn.scale.partitions.dealing import Dealing
from everlearn.scale.partitions.group import Barrier, Group, Position, Reached
from everlearn.scale.partitions.learner import PartitionRows, replayed
from tests.support.partitions import BINARY, labelled, same

LINEAR: dict[str, Any] = {"family": "linear", **BINARY}
DEALING = Dealing(count=2, every=400, opening=300)
EXAMPLES = labelled(1500)


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    return dealt_rows.described(EXAMPLES, DEALING, "", tmp_path / "rows")


def replay(source: dict[str, Any], barriers: list[Barrier], spec: dict[str, Any] = LINEAR) -> Arrays:
    """Return the arrays that one process makes from the recorded cursors."""
    rows = [PartitionRows(dealt_rows.rows_of(source, DEALING, p, 0)) for p in range(DEALING.count)]
    return replayed(spec, build(spec).arrays, rows, [(one.cursors, one.opening) for one in barriers])


def whole(group: Group, killed: dict[int, int] | None = None) -> Iterator[Reached]:
    """Run a group to the end; `killed` maps a barrier to the partition whose process is killed after it."""
    with group:
        for reached in group.run():
            if killed and reached.barrier.number in killed:
                os.kill(group.pids[killed[reached.barrier.number]], signal.SIGKILL)
            yield reached


def test_processes_make_what_the_recorded_cursors_say(source: dict[str, Any]) -> None:
    found = list(whole(Group(build(LINEAR), DEALING, dealt_rows.OPENER, source)))
    barriers = [one.barrier for one in found]
    assert [one.at for one in barriers] == [300, 400, 800, 1200, 1500]
    assert [one.opening for one in barriers] == [True, False, False, False, False]
    assert [one.cursors for one in barriers[1:]] == [(0, 400), (600, 800), (1000, 1200), (1400, 1500)]
    for last, one in enumerate(found, 1):
        assert same(one.arrays, replay(source, barriers[:last]))


@pytest.mark.slow
def test_every_row_is_scored_once_in_the_order_of_the_stream(source: dict[str, Any]) -> None:
    found = [one.scores for one in whole(Group(build(LINEAR), DEALING, dealt_rows.OPENER, source))]
    position = np.concatenate([one.examples.position for one in found])
    assert position.tolist() == list(range(1, 1501))
    assert np.concatenate([one.examples.y for one in found]).tolist() == EXAMPLES.y.tolist()


SLOW = [pytest.param(killed, marks=pytest.mark.slow) for killed in ({1: 0}, {4: 0}, {1: 1, 2: 0, 3: 1})]


@pytest.mark.parametrize("killed", [{2: 1}, *SLOW])
def test_a_killed_learner_begins_again_and_the_arrays_are_the_same(
    source: dict[str, Any], killed: dict[int, int]
) -> None:
    group = Group(build(LINEAR), DEALING, dealt_rows.OPENER, source)
    found = list(whole(group, killed))
    assert group.restarts == len(killed)
    assert same(found[-1].arrays, replay(source, [one.barrier for one in found]))
    assert [len(one.scores.examples.y) for one in found] == [300, 100, 400, 400, 300]
    assert group.pids == []


@pytest.mark.slow
def test_a_group_goes_on_from_a_barrier(source: dict[str, Any]) -> None:
    found = list(whole(Group(build(LINEAR), DEALING, dealt_rows.OPENER, source)))
    model, third = build(LINEAR), found[2]
    model.arrays = third.arrays
    position = Position(third.barrier.number, third.barrier.at)
    rest = list(whole(Group(model, DEALING, dealt_rows.OPENER, source, position, third.local)))
    assert [one.barrier for one in rest] == [one.barrier for one in found[3:]]
    assert same(rest[-1].arrays, found[-1].arrays)


def test_an_error_of_a_learner_is_raised(tmp_path: Path) -> None:
    broken = {"files": [str(tmp_path / "missing.csv")], "schema": {"label": "y", "task": "binary", "fields": {}}}
    group = Group(build(LINEAR), DEALING, dealt_rows.OPENER, broken | {"segment": ""})
    with group, pytest.raises(InputError, match=r"no file .*missing\.csv"):
        list(group.run())
    assert group.pids == []


@pytest.mark.slow
def test_a_learner_that_dies_again_and_again_ends_the_group(source: dict[str, Any]) -> None:
    group = Group(build(LINEAR), DEALING, "tests.support.partitions:deadly_rows", source)
    with group, pytest.raises(EverlearnError, match="ended 3 times with status -9 while it learned the rows after 0"):
        list(group.run())


@pytest.mark.slow
def test_a_group_without_rows_has_no_barrier(tmp_path: Path) -> None:
    nothing = dealt_rows.described(list[Examples](), DEALING, "", tmp_path)
    assert list(whole(Group(build(LINEAR), DEALING, dealt_rows.OPENER, nothing))) == []
