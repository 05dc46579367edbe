"""Labelled rows are learned in order, and every contestant is scored on what it predicted before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn.feedback.pending import ANSWER
from everlearn.learn import label_queue
from everlearn.learn.label_queue import LabelledRow, LabelQueue
from everlearn.learn.monitor import Monitor
from everlearn.records import Examples
from everlearn.schema import shape
from everlearn.serve.roster import Roster
from everlearn.spec import GateSpec, LimitsSpec
from tests.support.loops import spec
from tests.support.models import Mean, examples, part


def queue(mode: str = "live", **changes: Any) -> tuple[LabelQueue, Monitor, Roster]:
    chosen = spec(mode=mode, **changes)
    monitor = Monitor(chosen, shape(chosen.schema) | {"dense": 3, "hashed": 0})
    roster = Roster(mode == "live", 2, snapshots=mode == "gated")
    roster.start("v1", Mean())
    return LabelQueue(monitor.spec.gate, {}, monitor, roster), monitor, roster


def labelled(rows: Examples, row: int, roster: Roster, **changes: Any) -> LabelledRow:
    answer = np.array([[0.25, 0.75]], np.float32)
    predictions = {ANSWER: answer} | {one.uid: answer for one in roster.contestants}
    plain = {"weight": 1.0, "learned": 1.0, "position": row + 1, "predictions": predictions}
    return LabelledRow(part(rows.batch, row), float(rows.y[row]), **(plain | changes))


def learned(roster: Roster) -> list[int]:
    return [int(one.model.arrays["count"]) for one in roster.contestants if one.learns]


def test_a_queued_row_is_learned_by_teach_and_scored_by_test() -> None:
    labels, monitor, roster = queue()
    rows = examples(3)
    assert all(labels.add(labelled(rows, row, roster)) for row in range(3))
    assert (len(labels), learned(roster), monitor.scored) == (3, [0], 0)
    assert labels.teach()
    assert not labels.teach()
    assert (len(labels), learned(roster), monitor.scored) == (3, [3], 0)
    labels.test()
    assert (len(labels), learned(roster), monitor.scored) == (0, [3], 3)
    assert monitor.remembered().position.tolist() == [1, 2, 3]


def test_a_correction_is_learned_and_not_scored() -> None:
    labels, monitor, roster = queue()
    assert not labels.add(labelled(examples(1), 0, roster, predictions=None))
    labels.test()
    assert (learned(roster), monitor.scored, len(monitor.remembered().y)) == ([1], 0, 0)


def test_a_quarantined_row_is_scored_and_not_remembered() -> None:
    labels, monitor, roster = queue()
    labels.add(labelled(examples(1), 0, roster, learned=0.0))
    labels.test()
    assert (monitor.scored, len(monitor.remembered().y)) == (1, 0)


def test_a_contestant_is_scored_only_on_rows_that_it_predicted() -> None:
    labels, monitor, roster = queue("gated")
    rows = examples(4)
    for row in range(4):
        whole = labelled(rows, row, roster)
        known = whole.predictions or {}
        some = {uid: scores for uid, scores in known.items() if row > 1 or uid == ANSWER}
        labels.add(labelled(rows, row, roster, predictions=some))
    labels.test()
    report = monitor.report()
    assert (report["champion"]["examples"], report["challenger"]["examples"]) == (4, 2)


def test_rows_with_labels_are_scored_before_they_are_learned() -> None:
    labels, monitor, roster = queue()
    rows = examples(1)
    rows.y[:] = 1.0
    assert labels.rows(rows, ()) == 1
    assert learned(roster) == [1]
    assert monitor.report()["champion"]["brier"] == 0.25  # of the untrained model


def test_rows_that_their_source_may_not_give_count_nowhere() -> None:
    labels, monitor, roster = queue(limits=LimitsSpec(source=0.1, window=20))
    rows = examples(10)
    assert labels.rows(rows, ["flood"] * 10) == 2
    assert (learned(roster), monitor.scored, len(monitor.remembered().y)) == ([2], 2, 2)


def test_rows_of_weight_0_count_nowhere() -> None:
    plain, mixed = examples(10), examples(20)
    plain.weight[:] = 2.0
    mixed.weight[:] = np.tile([2.0, 0.0], 10)
    mixed.batch.dense[::2] = plain.batch.dense
    mixed.y[::2], mixed.position[::2] = plain.y, plain.position
    states = []
    for rows, sources in ((plain, ["a"] * 10), (mixed, ["a", "b"] * 10)):
        labels, monitor, roster = queue(limits=LimitsSpec(source=0.9, window=40, clip=0.01))
        assert labels.rows(rows, sources) == 10
        arrays, clock = monitor.state()
        states.append((learned(roster), clock, {name: array.tobytes() for name, array in arrays.items()}))
    assert states[0] == states[1]
    mixed.weight[:] = 0.0
    assert labels.rows(mixed, ()) == 0


def test_weights_reach_the_evidence_the_guards_and_the_metrics_of_a_trial() -> None:
    chosen = {"gate": GateSpec(minimum=10, guards={"recall:1": 0.1})}
    labels, _, roster = queue("gated", **chosen)
    labels._guards = {"recall:1": 1.0}
    roster.nominate()
    rows = examples(40)
    rows.weight[:] = np.tile([1.0, 5.0], 20)
    labels.rows(rows, ())
    (trial,) = [one.trial for one in roster.contestants if one.trial is not None]
    assert trial.evidence["weights"][0, 0] == 40.0
    assert trial.evidence["weights"][2, 0] == (rows.y == 1.0).sum()
    assert trial.evidence["weights"][0, 1] == rows.weight.sum()
    assert trial.metrics["sums"][0] == rows.weight.sum()


def test_learned_rows_rest_until_they_are_read_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, monitor, roster = queue()
    rows = examples(8)
    monkeypatch.setattr(label_queue, "_MOST", 6)
    for row in range(4):
        labels.add(labelled(rows, row, roster))
        labels.rest()
    assert (len(labels), learned(roster), monitor.scored) == (4, [4], 0)
    labels.add(labelled(rows, 4, roster))
    labels.settle()  # scores what was learned, and leaves the row that was not
    assert (len(labels), learned(roster), monitor.scored) == (1, [4], 4)
    labels.add(labelled(rows, 5, roster, predictions=None))  # a correction is not scored
    for row in (6, 7, 0, 1):
        labels.add(labelled(rows, row, roster))
        labels.rest()
    assert (len(labels), learned(roster), monitor.scored) == (5, [10], 4)
    labels.add(labelled(rows, 2, roster))
    labels.rest()
    assert (len(labels), learned(roster), monitor.scored) == (0, [11], 10)
