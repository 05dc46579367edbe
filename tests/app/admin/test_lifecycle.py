"""The state of an id, derived from its events."""

from __future__ import annotations

import pytest

from everlearn.app.admin.lifecycle import Circumstances
from everlearn.app.admin.lifecycle import state as state_of
from everlearn.records import Event, Example, Label, Prediction, Preference
from everlearn.spec import FeedbackSpec

PREDICTED = Event(10, 100.0, Prediction("a", {"x": 1.0}, 1, (0.2, 0.8), "f00"))
SKIP, CHOICE = Preference("a", -1, verdict="skip"), Event(12, 140.0, Preference("a", 0))


@pytest.mark.parametrize(
    ("events", "now", "spec", "state", "words"),
    [
        ([PREDICTED], 160.0, FeedbackSpec(), "waiting", "60 seconds; there is no limit"),
        ([PREDICTED], 160.0, FeedbackSpec(window=100), "waiting", "60 of 100 seconds"),
        ([PREDICTED], 260.0, FeedbackSpec(window=100), "overdue", "will be dropped"),
        ([PREDICTED], 260.0, FeedbackSpec(window=100, default=0), "overdue", "label 0 with the next event"),
        ([PREDICTED, Event(11, 130.0, Label("a", 1))], 200.0, FeedbackSpec(), "learned", "30.0 seconds after"),
        ([Event(9, 90.0, Label("a", 1)), PREDICTED], 200.0, FeedbackSpec(early=20), "learned", "10.0 seconds before"),
        ([Event(9, 90.0, Label("a", 1))], 95.0, FeedbackSpec(early=20), "early", "kept for 20 seconds"),
        ([PREDICTED, Event(21, 130.0, Label("a", 1))], 200.0, FeedbackSpec(), "queued", "1 events before"),
        ([Event(3, 9.0, Example("e", {"x": 1.0}, 1))], 10.0, FeedbackSpec(), "learned", "came with its label"),
        ([PREDICTED, Event(11, 130.0, SKIP)], 160.0, FeedbackSpec(), "waiting", "60 seconds; there is no limit"),
        ([PREDICTED, Event(11, 130.0, SKIP), CHOICE], 160.0, FeedbackSpec(), "learned", "40.0 seconds after"),
    ],
)  # fmt: skip
def test_the_state_of_a_prediction(events, now, spec, state, words):
    got, explanation = state_of(events, 20, now, spec)
    assert got == state
    assert words in explanation


@pytest.mark.parametrize(
    ("judged", "spec", "seen", "state", "words"),
    [
        ([], {"default": 0}, 200.0, "overdue", "learned as 0"),
        ([], {"default": 0}, 199.0, "overdue", "with the next event"),
        ([], {}, 200.0, "overdue", "was dropped"),
        ([Event(12, 230.0, Label("a", 1))], {"default": 0}, 210.0, "corrected", "learned as 0, the default label; its"),
        ([Event(12, 230.0, Label("a", 1))], {"default": 0}, 210.0, "corrected", "as a correction"),
        ([Event(12, 230.0, Label("a", 1))], {"default": 0}, 110.0, "learned", "its feedback came 130.0 seconds"),
        ([Event(12, 230.0, Label("a", 1))], {"correction": "ignore"}, 210.0, "overdue", "only kept in the log"),
    ],
)
def test_feedback_after_the_window(judged, spec, seen, state, words):
    """A default is applied when an event shows that the time is over; a label after that is a correction."""
    known = Circumstances(seen=seen)
    got, explanation = state_of([PREDICTED, *judged], 20, 300.0, FeedbackSpec(window=100, **spec), known)
    assert got == state
    assert words in explanation


def test_a_quarantined_label():
    events = [PREDICTED, Event(11, 130.0, Label("a", 1))]
    assert state_of(events, 20, 200.0, FeedbackSpec(), Circumstances({11}))[0] == "quarantined"
    assert state_of(events, 20, 200.0, FeedbackSpec(), Circumstances({12}))[0] == "learned"


LABEL, OTHER = Event(11, 130.0, Label("a", 1)), Event(13, 150.0, Label("a", 0))
EARLY = Event(5, 50.0, Label("a", 1))


@pytest.mark.parametrize(
    ("events", "spec", "known", "state", "words"),
    [
        ([PREDICTED, LABEL, OTHER], {}, {}, "corrected", "1 later, different feedback was learned as well"),
        ([PREDICTED, LABEL, OTHER], {"correction": "ignore"}, {}, "learned", "only kept in the log"),
        ([PREDICTED, LABEL], {}, {"pauses": [(8, True)]}, "paused", "paused: the models were scored"),
        ([PREDICTED, LABEL], {}, {"pauses": [(3, True), (11, False)]}, "paused", "30.0 seconds after"),
        ([PREDICTED, LABEL], {}, {"pauses": [(3, True), (10, False)]}, "learned", "30.0 seconds after"),
        ([PREDICTED], {}, {"waiting_from": 11}, "evicted", "dropped, and not learned"),
        ([PREDICTED], {"default": 0}, {"waiting_from": 11}, "evicted", "learned as 0, the default label"),
        ([PREDICTED], {}, {"waiting_from": 10}, "waiting", "no limit"),
        ([PREDICTED, LABEL], {}, {"capacity": 1}, "learned", "may have been evicted"),
        ([PREDICTED, LABEL], {}, {"capacity": 2}, "learned", "30.0 seconds after it"),
        ([EARLY, PREDICTED], {"early": 40.0}, {}, "expired", "50.0 seconds before it, and was kept for 40 only"),
        ([EARLY, PREDICTED], {"early": 50.0}, {}, "learned", "50.0 seconds before"),
        ([EARLY, PREDICTED, LABEL], {"early": 40.0}, {}, "learned", "30.0 seconds after"),
        ([EARLY], {"early": 150.0}, {}, "early", "no prediction yet"),
        ([EARLY], {"early": 149.0}, {}, "expired", "counts no more"),
        ([EARLY, PREDICTED], {"early": 50.0}, {"pauses": [(3, True), (8, False)]}, "learned", "50.0 seconds before"),
        ([EARLY, PREDICTED], {"early": 50.0}, {"pauses": [(8, True)]}, "paused", "did not learn it"),
        (
            [PREDICTED, LABEL],
            {},
            {"unusable": lambda payload: "no such class"},
            "refused",
            "no such class; it has waited",
        ),
        ([EARLY], {"early": 9e9}, {"unusable": lambda payload: "no such class"}, "refused", "no such class"),
        ([PREDICTED, LABEL], {}, {"left_out": lambda at, payload: at == 11}, "left_out", "rollback"),
        ([PREDICTED, Event(11, 130.0, Label("a", 1, 0.0))], {}, {}, "settled", "weight 0"),
        ([Event(9, 9.0, Example("e", {"x": 1.0}, 1))], {}, {"pauses": [(1, True)]}, "paused", "did not learn"),
    ],
)
def test_every_fate_of_feedback_has_its_state(events, spec, known, state, words):
    got, explanation = state_of(events, 20, 200.0, FeedbackSpec(**spec), Circumstances(**known))
    assert (got, words in explanation) == (state, True), explanation
