from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlearn.errors import EverlearnError, InputError
from everlearn.evaluate import dealt_rows
from everlearn.evaluate.partitioned import SCORER
from everlearn.model import build
from everlearn.records import Arrays, Examples
from everlearn.scale.partitions.dealing import Dealing
from everlearn.scale.partitions.group import Barrier, Group, Saved
from everlearn.scale.partitions.learner import PartitionRows, replayed
from tests.support.partitions import BINARY, labelled, same

LINEAR: dict[str, Any] = {"family": "linear", **BINARY}
DEALING = Dealing(count=2, every=400, opening=300)
EXAMPLES = labelled(6000)
SCORING = SCORER, {"task": "binary", "classes": 2}
DYING = "tests.support.partitions:dying_rows"


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    return dealt_rows.described(EXAMPLES, DEALING, "", tmp_path / "rows")


def replay(source: dict[str, Any], barriers: list[Barrier], spec: dict[str, Any] = LINEAR) -> Arrays:
    """Return the arrays that one process makes from the recorded cursors."""
    rows = [PartitionRows(dealt_rows.rows_of(source, DEALING, p, 0)) for p in range(DEALING.count)]
    return replayed(spec, build(spec).arrays, rows, [(one.cursors, one.opening) for one in barriers])


def group(source: dict[str, Any], rows: str = dealt_rows.OPENER, saved: Saved | None = None, keep: int = 0) -> Group:
    model = build(LINEAR)
    if saved is not None:
        model.arrays = saved.arrays
    return Group(model, DEALING, (rows, source), SCORING, saved, keep)


def finished(made: Group) -> tuple[list[Barrier], list[Saved]]:
    """Run a group to the end."""
    with made:
        found = list(made.run())
    return [one for one in found if isinstance(one, Barrier)], [one for one in found if isinstance(one, Saved)]


def alike(first: Saved, second: Saved) -> bool:
    """Return True if two states have the same bytes."""
    return (
        first.position == second.position
        and same(first.arrays, second.arrays)
        and same(first.local, second.local)
        and same(first.scores.arrays, second.scores.arrays)
        and first.scores.header == second.scores.header
    )


def test_processes_make_what_the_recorded_cursors_say(source: dict[str, Any]) -> None:
    barriers, kept = finished(group(source, keep=500))
    assert [one.at for one in barriers[:4]] == [300, 400, 800, 1200]
    assert [one.number for one in barriers] == list(range(1, 17))
    assert [one.opening for one in barriers[:3]] == [True, False, False]
    assert [one.cursors for one in barriers[1:4]] == [(0, 400), (600, 800), (1000, 1200)]
    assert [one.position.at for one in kept] == [800, 1600, 2400, 3200, 4000, 4800, 5600, 6000]
    for one in kept[::3]:
        assert same(one.arrays, replay(source, barriers[: one.position.number]))


def test_every_row_is_scored_once_wherever_the_state_is_kept(source: dict[str, Any]) -> None:
    kept = finished(group(source, keep=500))[1]
    assert [one.scores.header["events"] for one in kept] == [one.position.at for one in kept]
    assert alike(kept[-1], finished(group(source))[1][-1])


PLACES = [[1, 350], [0, 2500], [0, 250, 420, 2450, 4250, 5990]]


@pytest.mark.parametrize("places", [PLACES[1], *(pytest.param(one, marks=pytest.mark.slow) for one in PLACES[::2])])
def test_a_learner_that_is_killed_begins_again_and_all_is_the_same(
    source: dict[str, Any], tmp_path: Path, places: list[int]
) -> None:
    """The process of the partition that comes first in `places` kills itself when it has read so many rows."""
    dying = group({**source, "dying": places[0], "places": places[1:], "marks": str(tmp_path)}, DYING)
    barriers, kept = finished(dying)
    assert dying.restarts == len(places) - 1
    whole = finished(group(source))
    assert barriers == whole[0]
    assert alike(kept[-1], whole[1][-1])
    assert dying.pids == []


@pytest.mark.slow
def test_a_group_goes_on_from_a_state_that_was_kept(source: dict[str, Any]) -> None:
    barriers, kept = finished(group(source, keep=500))
    rest, last = finished(group(source, saved=kept[2]))
    assert rest == barriers[kept[2].position.number :]
    assert alike(last[-1], kept[-1])


def test_an_error_of_a_learner_is_raised(tmp_path: Path) -> None:
    broken = {"files": [str(tmp_path / "missing.csv")], "schema": {"label": "y", "task": "binary", "fields": {}}}
    made = group(broken | {"segment": ""})
    with made, pytest.raises(InputError, match=r"no file .*missing\.csv"):
        list(made.run())
    assert made.pids == []


@pytest.mark.slow
def test_a_learner_that_dies_again_and_again_ends_the_group(source: dict[str, Any]) -> None:
    made = group(source, "tests.support.partitions:deadly_rows")
    with made, pytest.raises(EverlearnError, match="ended 3 times with status -9 while it learned the rows after 0"):
        list(made.run())


@pytest.mark.slow
def test_a_group_without_rows_has_no_barrier(tmp_path: Path) -> None:
    nothing = dealt_rows.described(list[Examples](), DEALING, "", tmp_path)
    assert finished(group(nothing)) == ([], [])
