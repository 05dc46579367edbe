"""Each label finds its prediction, whether it comes in time, late, early, or never; no model takes part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.events import Log, connect
from everlearn.feedback.correction import Arrival
from everlearn.feedback.pending import ANSWER, charge
from everlearn.learn.label_queue import LabelledRow
from everlearn.learn.limiter import Limiter
from everlearn.loop.join import Joiner, Skip
from everlearn.records import Event, Label, Payload, Prediction
from everlearn.schema import Encoder, shape
from everlearn.spec import FeedbackSpec, LimitsSpec, Spec
from tests.support.loops import spec

ENCODER = Encoder(spec().schema)
EACH = charge(spec(), shape(spec().schema))
EVENTS: list[tuple[float, Payload]] = [
    (0.0, Label("four", 1)),
    (1.0, Prediction("one", {"a": 1.0}, 0, (0.5, 0.5), "v")),
    (1.5, Label("one", 1)),
    (2.0, Prediction("two", {"a": 2.0}, 0, (0.5, 0.5), "v")),
    (3.5, Prediction("three", {"a": 3.0}, 0, (0.5, 0.5), "v")),
    (4.0, Label("two", 1)),
    (9.0, Prediction("four", {"a": 4.0}, 0, (0.5, 0.5), "v")),
    (9.5, Label("one", 0)),
]
IN_TIME = {3: [(1.0, 1.0, 3)], 6: [(2.0, 1.0, 6)]}
CORRECTED = {8: [(1.0, 0.0, 8)]}
ASSUMED = {5: [(2.0, 0.0, 5)], 7: [(3.0, 0.0, 7)]}


def present(event: Event) -> bool:
    return False


def joiner(log: Log, chosen: Spec, absent: Skip = present) -> Joiner:
    return Joiner(chosen, ENCODER, Limiter(chosen, ENCODER.shape), log, absent)


def join(one: Joiner, event: Event) -> list[LabelledRow]:
    one.advance(event.time)
    payload = event.payload
    if isinstance(payload, Prediction):
        row, answer = ENCODER.record(payload.features), np.array([payload.proba], np.float32)
        rows = one.predict(payload, event.position, row, {ANSWER: answer}, lambda batch: batch)
    else:
        assert isinstance(payload, Label)
        rows = one.judge(payload, event.position, lambda batch: batch)
    return [*rows, *one.overdue(event.position)]


def logged(folder: Path, events: list[tuple[float, Payload]]) -> Log:
    log = connect(str(folder / "log.sqlite"))
    for moment, payload in events:
        log.append([payload], time=moment)
    return log


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        pytest.param(FeedbackSpec(), IN_TIME | CORRECTED, id="for ever"),
        pytest.param(FeedbackSpec(correction="ignore"), IN_TIME, id="first only"),
        pytest.param(FeedbackSpec(window=1.0, default=0), IN_TIME | CORRECTED | ASSUMED, id="overdue"),
        pytest.param(FeedbackSpec(window=1.0, default=0, correction="ignore"), {3: IN_TIME[3]} | ASSUMED, id="final"),
        pytest.param(FeedbackSpec(window=1.0), IN_TIME | CORRECTED, id="dropped"),
        pytest.param(FeedbackSpec(bytes=EACH, default=0), IN_TIME | CORRECTED | ASSUMED, id="evicted"),
        pytest.param(FeedbackSpec(early=60.0), IN_TIME | CORRECTED | {7: [(4.0, 1.0, 1)]}, id="early"),
        pytest.param(FeedbackSpec(early=5.0), IN_TIME | CORRECTED, id="too early"),
    ],
)
def test_each_label_finds_its_prediction(tmp_path: Path, feedback: FeedbackSpec, expected: object) -> None:
    with logged(tmp_path, EVENTS) as log:
        one = joiner(log, spec(feedback=feedback))
        rows = {event.position: join(one, event) for event in log.read()}
    found = {at: [(float(row.row.dense[0, 0]), row.y, row.position) for row in held] for at, held in rows.items()}
    assert {at: held for at, held in found.items() if held} == expected


def test_a_correction_is_not_scored_and_a_first_label_is(tmp_path: Path) -> None:
    with logged(tmp_path, EVENTS) as log:
        one = joiner(log, spec())
        rows = {event.position: join(one, event) for event in log.read()}
    assert rows[3][0].predictions is not None
    assert rows[8][0].predictions is None


def test_only_the_first_label_after_the_default_counts_as_late(tmp_path: Path) -> None:
    feedback = FeedbackSpec(window=1.0, default=0, correction="importance")
    with logged(tmp_path, [*EVENTS, (10.0, Label("two", 1, 2.0))]) as log:
        one = joiner(log, spec(feedback=feedback))
        arrivals = {event.position: [row.arrival for row in join(one, event)] for event in log.read()}
    assert arrivals[3] == [Arrival(positive=True, late=False, share=1 / 3)]
    assert arrivals[5] == [Arrival(positive=False, late=False, share=1 / 3)]
    assert arrivals[6] == [Arrival(positive=True, late=True, share=0.5)]
    assert arrivals[9] == [None, Arrival(positive=False, late=False, share=0.5)]  # and "four" is overdue


def test_an_absent_label_is_no_first_label(tmp_path: Path) -> None:
    feedback = FeedbackSpec(window=1.0, default=0, correction="importance")
    with logged(tmp_path, [*EVENTS, (10.0, Label("two", 1, 2.0))]) as log:
        one = joiner(log, spec(feedback=feedback), absent=lambda event: event.position == 6)
        arrivals = {e.position: [row.arrival for row in join(one, e)] for e in log.read() if e.position != 6}
    assert arrivals[9][0] == Arrival(positive=True, late=True, share=0.5)


def test_a_label_from_a_source_that_gave_its_share_is_dropped(tmp_path: Path) -> None:
    predictions: list[tuple[float, Payload]] = [
        (float(row), Prediction(str(row), {"a": 1.0 * row}, 0, (0.5, 0.5), "v")) for row in range(30)
    ]
    labels: list[tuple[float, Payload]] = [(40.0, Label(str(row), 1, 1.0, "flood")) for row in range(30)]
    with logged(tmp_path, [*predictions, *labels]) as log:
        one = joiner(log, spec(limits=LimitsSpec(source=0.1, window=100)))
        assert sum(len(join(one, event)) for event in log.read()) == 10


def test_a_label_of_weight_0_settles_its_prediction_and_labels_nothing(tmp_path: Path) -> None:
    feedback = FeedbackSpec(window=60.0, default=0, correction="importance")
    events: list[tuple[float, Payload]] = [
        (1.0, Prediction("one", {"a": 1.0}, 0, (0.5, 0.5), "v")),
        (2.0, Label("one", 1, 0.0, "web")),
        (3.0, Label("one", 0, 0.0, "web")),
    ]
    with logged(tmp_path, events) as log:
        one = joiner(log, spec(feedback=feedback, limits=LimitsSpec(source=0.5, window=20, quarantine=0.9)))
        limits = {name: array.tobytes() for name, array in one._limiter.arrays.items()}
        counts = one.state()[2]["positives"].tolist()
        assert [join(one, event) for event in log.read()] == [[], [], []]
    assert len(one.pending) == 0
    assert one.state()[2]["positives"].tolist() == counts
    assert {name: array.tobytes() for name, array in one._limiter.arrays.items()} == limits


def test_the_state_continues_where_it_was_left(tmp_path: Path) -> None:
    chosen = spec(feedback=FeedbackSpec(window=1.0, default=0, early=60.0, correction="importance"))
    with logged(tmp_path, EVENTS) as log:
        whole, half, again = (joiner(log, chosen) for _ in range(3))
        events = log.read()
        expected = [(row.y, row.position, row.arrival) for event in events for row in join(whole, event)]
        found = [(row.y, row.position, row.arrival) for event in events[:4] for row in join(half, event)]
        again.load(*half.state())
        again.now = half.now
        found += [(row.y, row.position, row.arrival) for event in events[4:] for row in join(again, event)]
    assert found == expected


def test_a_default_label_must_be_one_of_the_schema(tmp_path: Path) -> None:
    with connect(str(tmp_path / "log.sqlite")) as log, pytest.raises(ConfigError, match=r"feedback\.default: "):
        joiner(log, spec(feedback=FeedbackSpec(window=1.0, default="maybe")))
