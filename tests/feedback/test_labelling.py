"""Reports say how many predictions have a label, and which of the labels behind a metric were only assumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sk

from everlearn.feedback import labelling
from everlearn.feedback.labelling import DefaultLabels
from everlearn.loop.loop import Loop
from everlearn.loop.replay_log import replay_log
from everlearn.records import Label, Payload, Prediction
from everlearn.report import counts
from everlearn.spec import DecisionSpec, DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, Spec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions
from tests.support.loops import bytes_of, record, spec, table

DEFAULT = FeedbackSpec(window=10.0, default=0)


def settings(**changes: Any) -> Spec:
    plain: dict[str, Any] = {"mode": "live", "gate": GateSpec(minimum=1_000_000), "drift": DriftSpec(detector="none")}
    return spec(**(plain | {"checkpoint": 100_000} | changes))


def filled(home: Path, chosen: Spec, rows: int = 200, size: int = 1) -> tuple[Loop, list[tuple[float, float, int]]]:
    """A loop whose positives come 20 to 60 seconds late, or in time; (label, score, value) of each judged row."""
    columns, draw = table(rows), np.random.default_rng(3)
    labels = columns["label"]
    loop, events = Loop(chosen, home, clock=lambda: 1e6), list[tuple[float, Payload]]()
    loop.ready()
    late = np.where(draw.random(rows) < 0.6, 20 + 40 * draw.random(rows), 5.0)
    scores = draw.random(rows).astype(np.float32)
    for row in range(rows):
        proba = (float(1 - scores[row]), float(scores[row]))
        events.append((row, Prediction(str(row), record(columns, row), int(scores[row] > 0.3), proba, "v")))
        if labels[row]:
            events.append((row + float(late[row]), Label(str(row), 1)))
        elif row % 2:
            events.append((row + float(late[row]), Label(str(row), 0)))
    events.append((rows + 500.0, Prediction("last", record(columns, 0), 0, (0.5, 0.5), "v")))
    for moment, payload in sorted(events, key=lambda pair: pair[0]):
        loop.log.append([payload], time=1e6 + moment)
        if size == 1:
            loop.catch_up()
    while loop.catch_up(size):
        pass
    return loop, [(float(y), float(s), int(s > 0.3)) for y, s in zip(labels, scores, strict=True)]


@pytest.mark.parametrize("correction", ["learn", "ignore", "importance"])
def test_the_corrected_metrics_are_those_of_the_true_labels(correction: Any, tmp_path: Path) -> None:
    feedback = FeedbackSpec(window=10.0, default=0, correction=correction)
    costs = DecisionSpec(costs={"1": {"0": 5.0}, "0": {"1": 1.0}})
    loop, rows = filled(tmp_path, settings(feedback=feedback, decision=costs))
    with loop:
        report = loop.report()
    default = report["labelling"]["default"]
    y, scores, values = (np.array(column) for column in zip(*rows, strict=True))
    proba = scores.astype(np.float32).astype(np.float64)
    got, guess = default["metrics"], (proba > 0.5).astype(int)
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, guess))
    assert got["log_loss"] == pytest.approx(sk.log_loss(y, proba), rel=1e-6)
    assert got["brier"] == pytest.approx(sk.brier_score_loss(y, proba), rel=1e-6)
    assert got["precision"] == pytest.approx(sk.precision_score(y, guess))
    assert got["recall"] == pytest.approx(sk.recall_score(y, guess))
    assert got["f1"] == pytest.approx(sk.f1_score(y, guess))
    assert got["kappa"] == pytest.approx(sk.cohen_kappa_score(y, guess))
    assert got["decision_recall"] == pytest.approx(sk.recall_score(y, values))
    assert got["decision_precision"] == pytest.approx(sk.precision_score(y, values))
    assert got["cost"] == pytest.approx(np.where(y == 1, 5.0 * (values == 0), values).mean())
    uncorrected = report["metrics"]["champion"]
    assert abs(uncorrected["recall"] - got["recall"]) > 0.01 or uncorrected["accuracy"] != got["accuracy"]


def test_the_counts_are_those_of_the_stream(tmp_path: Path) -> None:
    loop, rows = filled(tmp_path, settings(feedback=DEFAULT))
    with loop:
        log = [event for event in loop.log.read(0, 10_000) if isinstance(event.payload, Label | Prediction)]
        report, status = loop.report()["labelling"], loop.status()["labelling"]
    began = {event.payload.id: event.time for event in log if isinstance(event.payload, Prediction)}
    labels = [event for event in log if isinstance(event.payload, Label)]
    delays = {event.payload.id: event.time - began[event.payload.id] for event in labels}
    in_time = sum(delay <= 10 for delay in delays.values())
    late = [event for event in labels if delays[event.payload.id] > 10]
    corrected = sum(event.payload.value == 1 for event in late if isinstance(event.payload, Label))
    assert report == status
    assert (report["predictions"], report["labelled"], report["waiting"]) == (len(rows) + 1, in_time, 1)
    assert report["overdue"] == len(rows) - in_time
    assert report["share"] == in_time / (len(rows) + 1)
    default = report["default"]
    assert (default["rows"], default["corrected"]) == (len(rows) - in_time, corrected)
    assert default["confirmed"] == len(late) - corrected
    assert default["delay"] == 64.0  # the power of two above 95 % of 20 to 60 seconds
    assert (default["open"], default["provisional"]) == (0, False)  # the last event came 500 seconds later


def test_metrics_are_provisional_while_a_correction_may_come(tmp_path: Path) -> None:
    columns, now = table(40), [1e6]
    with Loop(settings(feedback=DEFAULT), tmp_path, clock=lambda: now[0]) as loop:

        def default() -> tuple[int, int, int, bool]:
            found = loop.report()["labelling"]["default"]
            return found["rows"], found["corrected"], found["open"], found["provisional"]

        assert default() == (0, 0, 0, False)
        for row in range(10):
            loop.predict(record(columns, row), id=str(row))
        now[0] += 11.0
        loop.predict(record(columns, 11), id="11")
        assert default() == (10, 0, 10, True)  # no correction was seen yet, so any may come
        now[0] += 3.0
        loop.feedback("3", label=1)
        loop.feedback("3", label=0)  # only the first counts
        assert default() == (10, 1, 10, True)
        now[0] += 20.0
        loop.predict(record(columns, 12), id="12")
        assert default() == (11, 1, 1, True)  # 16 seconds cover the only delay seen
        line = counts(loop.report()).plain
        assert "0% of 12 predictions labelled · 11 took the default label, 1 of them corrected; metrics" in line


def test_the_record_of_times_keeps_its_size_and_counts_all() -> None:
    kept = DefaultLabels(settings(feedback=DEFAULT), 0.0)
    size = sum(array.nbytes for array in kept.arrays.values())
    answered = Prediction("a", {}, 0, (0.5, 0.5), "v")
    kept.settle(answered, 1.0, 0, 100.0)  # the delay is 128 seconds
    times = np.cumsum(np.random.default_rng(0).exponential(1.0, 20_000))
    for now in times:
        kept.assume(float(now))
    assert sum(array.nbytes for array in kept.arrays.values()) == size
    assert kept.arrays["default_rows"].sum() == 20_000
    exact = int((times > times[-1] - 128.0).sum())
    cell = 20_000 / (labelling.CELLS / 2)
    assert exact <= kept.open(float(times[-1])) <= exact + cell


@pytest.mark.parametrize("feedback", [DEFAULT, FeedbackSpec(window=10.0, default=0, correction="ignore")])
def test_events_together_and_one_by_one_leave_the_same_bytes(feedback: FeedbackSpec, tmp_path: Path) -> None:
    loop, _ = filled(tmp_path, settings(feedback=feedback), rows=120)
    with loop:
        again = replay_log(loop.log, Versions(Blobs(tmp_path / "blobs")))
        assert {name: array.tobytes() for name, array in again.state()[0].items()} == bytes_of(loop)
        before = bytes_of(loop)
    with Loop(settings(feedback=feedback), tmp_path, clock=lambda: 1e6) as loop:
        assert bytes_of(loop) == before


def test_feedback_that_is_not_scored_is_no_coverage(tmp_path: Path) -> None:
    columns, limits = table(30), LimitsSpec(source=0.001, window=1000)
    with Loop(settings(limits=limits), tmp_path) as loop:
        assert loop.report()["labelling"]["share"] is None
        for row in range(10):
            loop.predict(record(columns, row), id=str(row))
        loop.feedback("0", label=1)
        loop.feedback("1", label=1, weight=0.0)
        loop.feedback("2", label=1, source="key")
        loop.feedback("3", label=1, source="key")  # its source has its share
        found = loop.report()["labelling"]
        assert (found["labelled"], found["refused"], found["waiting"], found["predictions"]) == (2, 2, 6, 10)
        assert (found["share"], found["default"]) == (0.2, None)


def test_a_regression_counts_its_default_labels() -> None:
    kept = DefaultLabels(settings(feedback=DEFAULT), None)
    assert not kept
    assert kept.arrays == {}
