"""Metrics, detectors and memory of a loop: the same bytes whether rows come one by one or together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import drift
from everlearn.errors import ConfigError
from everlearn.feedback.pending import decision
from everlearn.learn.drift_watch import DRIFT, STABLE
from everlearn.learn.monitor import BOOST, Monitor
from everlearn.model import cut, row_slice
from everlearn.records import Examples
from everlearn.schema import shape
from everlearn.spec import DecisionSpec, DriftSpec, GateSpec, LimitsSpec, ReplaySpec
from tests.support.loops import spec
from tests.support.models import examples

ROLES = {"champion": 1, "frozen": 2}


def monitor(**changes: Any) -> Monitor:
    chosen = spec(**({"tick": 20, "replay": ReplaySpec(bytes=8_000, width=4)} | changes))
    return Monitor(chosen, shape(chosen.schema) | {"dense": 3, "hashed": 0})


def predictions(rows: Examples, wrong: bool = False) -> dict[int, np.ndarray]:
    right = np.where(rows.y == 1, 0.9, 0.1)
    p = 1 - right if wrong else right
    champion = np.stack([1 - p, p], axis=1).astype(np.float32)
    return {1: champion, 2: np.full((len(rows.y), 2), 0.5, np.float32)}


def state(one: Monitor) -> dict[str, bytes]:
    arrays, clock = one.state()
    return {name: array.tobytes() for name, array in arrays.items()} | {"clock": repr(clock).encode()}


def test_the_cost_of_a_decision_can_be_the_headline() -> None:
    costs = {str(true): {str(decided): 3.0} for true, decided in ((0, 1), (1, 0))}
    measured = monitor(metric="cost", decision=DecisionSpec(costs=costs))
    rows = examples(50)
    made = predictions(rows, wrong=True)
    measured.test(rows, made | {decision(1): made[1]}, ROLES)
    assert measured.headline == "cost"
    assert measured.report()["champion"]["cost"] == 3.0
    with pytest.raises(ConfigError, match="State the costs"):
        monitor(metric="cost")


def test_rows_one_by_one_and_together_leave_the_same_state() -> None:
    rows, whole, single = examples(100), monitor(), monitor()
    whole.test(rows, predictions(rows), ROLES)
    whole.remember(rows)
    for row in range(100):
        one = cut(rows, row, row + 1)
        single.test(one, predictions(one), ROLES)
        single.remember(one)
    assert state(whole) == state(single)
    assert whole.report()["champion"]["accuracy"] == 1.0
    assert whole.report()["challenger"]["examples"] == 0


def mixed(n: int, first: int) -> Examples:
    """Rows of weight 1, and from `first` on of several weights."""
    rows = examples(n)
    rows.weight[:] = np.where(np.arange(n) < first, 1.0, np.resize(np.array([1.0, 0.25, 4.0, 50.0]), n))
    return rows


@pytest.mark.parametrize("first", [0, 1, 30, 77])
def test_weighted_rows_one_by_one_and_together_leave_the_same_state(first: int) -> None:
    rows, settings = mixed(100, first), DriftSpec(grace_period=20)
    whole, single, again = (monitor(drift=settings) for _ in range(3))
    said = predictions(rows)
    said[1][::3] = 0.5
    whole.test(rows, said, ROLES)
    for row in range(100):
        single.test(cut(rows, row, row + 1), {uid: scores[row : row + 1] for uid, scores in said.items()}, ROLES)
    assert state(whole) == state(single)
    assert "weights" in state(whole)
    again.load(*whole.state())
    assert state(again) == state(whole)


def test_weights_of_1_add_no_array() -> None:
    one, rows = monitor(), examples(50)
    rows.weight[:] = 1.0
    one.test(rows, predictions(rows), ROLES)
    assert "weights" not in state(one)


@pytest.mark.parametrize(("weight", "alarmed"), [(1e-6, False), (1.0, True)])
def test_wrong_labels_of_hardly_any_weight_are_no_drift(weight: float, alarmed: bool) -> None:
    one, rows = monitor(drift=DriftSpec(grace_period=50)), examples(800)
    rows.weight[:] = np.where(np.arange(800) < 400, 1.0, weight)
    rows.y[::7] = 1.0 - rows.y[::7]  # some losses differ, or any change would be a drift
    for start in range(0, 800, 20):
        piece = cut(rows, start, start + 20)
        said = predictions(piece, wrong=start >= 400)
        said[1][::7] = said[1][::7, ::-1]
        one.test(piece, said, ROLES)
    assert (one.alarm() == DRIFT) == alarmed


def test_losses_are_returned_by_uid() -> None:
    rows = examples(10)
    losses = monitor().test(rows, predictions(rows), ROLES)
    assert losses[1] == pytest.approx(np.full(10, 0.01), rel=1e-5)
    assert losses[2] == pytest.approx(np.full(10, 0.25))


def test_pieces_end_where_decisions_fall() -> None:
    one, rows = monitor(), examples(50)
    sizes = []
    for piece in one.pieces(rows, most=15):
        one.test(piece, predictions(piece), ROLES)
        sizes.append((len(piece.y), one.due()))
    assert sizes == [(15, False), (5, True), (15, False), (5, True), (10, False)]


@pytest.mark.parametrize("watch", ["loss", "proba", "inputs"])
def test_an_alarm_is_reported_once(watch: Any) -> None:
    one = monitor(drift=DriftSpec(watch=watch, grace_period=50))
    rows = examples(800)
    rows.batch.dense[:, 0] += np.where(np.arange(800) < 400, 0.0, 9.0)
    levels = []
    for start in range(0, 800, 20):
        piece = cut(rows, start, start + 20)
        said = predictions(piece, wrong=start >= 400)
        said[1] = np.full((20, 2), 0.9 if start >= 400 else 0.1, np.float32) if watch == "proba" else said[1]
        one.test(piece, said, ROLES)
        one.look(row_slice(rows.batch, start, start + 20), said[1], piece.position)
        levels.append(one.alarm())
    assert DRIFT not in levels[:20]
    assert DRIFT in levels[20:]
    assert one.alarm() == STABLE


def test_rows_weigh_more_for_a_grace_period_after_a_boost() -> None:
    one, rows = monitor(drift=DriftSpec(grace_period=30)), examples(25)
    one.boost()
    assert one.boosting
    assert one.strengthened(np.ones(2, np.float32), ahead=29).tolist() == [BOOST, 1.0]
    one.test(rows, predictions(rows), ROLES)
    one.test(rows, predictions(rows), ROLES)
    assert not one.boosting
    assert one.strengthened(np.ones(2, np.float32)).tolist() == [1.0, 1.0]


def test_forgotten_rows_leave_the_memory() -> None:
    one, rows = monitor(), examples(30)
    one.remember(rows)
    assert one.forget(lambda position, y: position % 3 == 0) == 10
    assert one.forget(lambda position, y: position % 3 == 0) == 0
    assert one.remembered().position.tolist() == [at for at in range(1, 31) if at % 3]
    assert one.composition()["rows"] == 20


def test_a_monitor_continues_from_its_state() -> None:
    rows, whole, half = examples(60), monitor(), monitor()
    for piece in (cut(rows, 0, 40), cut(rows, 40, 60)):
        whole.test(piece, predictions(piece), ROLES)
        whole.remember(piece)
    first = cut(rows, 0, 40)
    half.test(first, predictions(first), ROLES)
    half.remember(first)
    again = monitor()
    again.load(*half.state())
    rest = cut(rows, 40, 60)
    again.test(rest, predictions(rest), ROLES)
    again.remember(rest)
    assert state(again) == state(whole)


def test_limits_of_other_settings_start_again() -> None:
    before = monitor(limits=LimitsSpec(clip=0.1))
    before.limiter.bound(examples(200).batch)
    after = monitor()
    arrays, clock = before.state()
    after.load(arrays, clock)
    assert sorted(after.limits) == ["counters"]


def losing(
    n: int, change: int, kind: str, room: int = 12_000, **changes: Any
) -> tuple[Monitor, Examples, dict[int, np.ndarray]]:
    """Return a monitor, rows with gaps between positions, and predictions that turn bad at row `change`."""
    one = monitor(drift=DriftSpec(grace_period=100, **changes), replay=ReplaySpec(kind=kind, bytes=room, width=4))
    rows = examples(n)
    rows.position[:] = np.cumsum(np.random.default_rng(1).integers(1, 4, n))
    said = predictions(rows)
    wrong = np.random.default_rng(2).random(n) < np.where(np.arange(n) < change, 0.1, 0.9)
    said[1][wrong] = said[1][wrong, ::-1]
    return one, rows, said


def shown(one: Monitor, rows: Examples, said: dict[int, np.ndarray], size: int) -> int:
    """Show rows to a monitor up to its first drift, `size` at a time; return the number of rows shown."""
    for start in range(0, len(rows.y), size):
        piece = cut(rows, start, start + size)
        part = {uid: scores[start : start + size] for uid, scores in said.items()}
        one.test(piece, part, ROLES)
        one.remember(piece)
        one.look(piece.batch, part[1], piece.position)
        if one.alarm() == DRIFT:
            return start + size
    raise AssertionError("no drift was reported")


@pytest.mark.parametrize("watch", ["loss", "proba"])
@pytest.mark.parametrize("kind", ["window", "reservoir", "balanced"])
def test_remembered_rows_since_drift_are_those_behind_the_change(kind: str, watch: Any) -> None:
    one, rows, said = losing(3000, 2000, kind, watch=watch)
    if watch == "proba":
        said[1][:] = 0.2
        said[1][2000:] = 0.8
        said[1] += np.random.default_rng(3).normal(0, 0.05, (3000, 1)).astype(np.float32)
    assert one.remembered_since_drift()[1] is False
    stop = shown(one, rows, said, 20)
    held, is_part = one.remembered_since_drift()
    assert is_part
    wanted = [at for at in one.remembered().position.tolist() if rows.position[1950] <= at]
    assert 0 < len(held.y) <= len(wanted)
    assert set(held.position) <= set(wanted)
    assert held.position.min() <= rows.position[min(2050, stop - 1)]
    newest = [at for at in one.remembered().position.tolist() if at >= held.position.min()]
    assert held.position.tolist() == newest


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("watch", ["loss", "inputs"])
def test_where_the_change_was_does_not_depend_on_how_rows_are_cut(watch: Any, weighted: bool) -> None:
    """Missing inputs are not counted by detectors, and light rows are counted all the same."""
    states = []
    for size in (1, 7, 3000):
        one, rows, said = losing(3000, 2000, "window", 200_000, watch=watch)
        rows.batch.dense[2000:, 1] += 3.0
        rows.batch.dense[::3, 1] = np.nan
        if weighted:
            rows.weight[1000::5] = 0.5
        for start in range(0, 3000, size):
            piece = cut(rows, start, start + size)
            one.test(piece, {uid: scores[start : start + size] for uid, scores in said.items()}, ROLES)
            one.look(piece.batch, said[1][start : start + size], piece.position)
        one.remember(rows)
        states.append(state(one))
        assert one.clock["drifts"] >= 1
        held, is_part = one.remembered_since_drift()
        assert is_part
        assert rows.position[1900] <= held.position[0] <= rows.position[2100]
    assert states[0] == states[1] == states[2]


def test_a_home_of_before_the_change_was_kept_remembers_all_rows_after_drift() -> None:
    one, rows, said = losing(3000, 2000, "window")
    arrays, clock = one.state()
    old = {name: array for name, array in arrays.items() if "counted" not in name and "change" not in name}
    one.load(old, clock)
    shown(one, rows, said, 20)
    held, is_part = one.remembered_since_drift()
    assert not is_part
    assert held.position.tolist() == one.remembered().position.tolist()
    assert one.state()[0].keys() == old.keys()


@pytest.mark.parametrize(("layout", "parts"), [(1, 1), (2, 3)])
def test_columns_share_the_sensitivity_except_in_homes_of_release_0_1_0(layout: int, parts: int) -> None:
    settings = DriftSpec(watch="inputs", detector="page_hinkley", grace_period=100)
    one, rows = monitor(drift=settings, gate=GateSpec(layout=layout)), examples(3000)
    rows.batch.dense[:] = np.random.default_rng(5).normal(size=(3000, 3))
    one.look(rows.batch, np.zeros((3000, 2), np.float32), rows.position)
    alone = drift.start(settings)
    shared = DriftSpec(watch="inputs", detector="page_hinkley", grace_period=100, sensitivity=0.002 / parts)
    drift.update(alone, shared, rows.batch.dense[:, 0].astype(np.float64))
    assert {name: array.tobytes() for name, array in alone.items()} == {
        name: array.tobytes() for name, array in one.drift.detectors[0].items()
    }
