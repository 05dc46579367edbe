"""Derive the state of one prediction or example from its events, with an explanation in one sentence."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from everlearn.client.records import State
from everlearn.records import Event, Example, Prediction, Preference
from everlearn.spec import FeedbackSpec


def state(
    events: Sequence[Event],
    folded: int,
    now: float,
    spec: FeedbackSpec,
    quarantined: Container[int] = (),
    seen: float = -math.inf,
) -> tuple[State, str]:
    """Return the state and an explanation of the id that these events are about, at time `now`.

    The learner has folded the log up to `folded`. `quarantined` holds the positions of quarantined labels. `seen` is
    the time of the newest folded event before the first feedback, or of the newest folded event if there is no
    feedback: time passes for the learner with events only.

    >>> prediction = Event(7, 100.0, Prediction("a", {"x": 1.0}, True, (0.2, 0.8), "f00"))
    >>> state([prediction], 6, 101.0, FeedbackSpec())[0], state([prediction], 7, 101.0, FeedbackSpec())[0]
    ('queued', 'waiting')
    """
    newest = events[-1]
    if newest.position > folded:
        behind = newest.position - folded
        return "queued", f"event {newest.position} is in the log; the learner is {behind} events before it"
    subject, _ = split(events)
    if subject is None:
        return "early", f"there is feedback, but no prediction yet; it is kept for {spec.early:g} seconds"
    if any(event.position in quarantined for event in events):
        return "quarantined", "its label was set aside: its loss is far above the losses of its class; see limits"
    if isinstance(subject.payload, Example):
        return "learned", "it came with its label: the models were scored on it, then learned it"
    feedback = [event for event in events if not isinstance(event.payload, Prediction | Example) and _judges(event)]
    if not feedback:
        return _without_feedback(subject, now, spec, seen)
    return _with_feedback(subject, feedback, spec, seen)


def split(events: Sequence[Event]) -> tuple[Event | None, Event | None]:
    """Return the prediction or example among the events of an id, and the first feedback."""
    subject = next((event for event in events if isinstance(event.payload, Prediction | Example)), None)
    feedback = next((event for event in events if not isinstance(event.payload, Prediction | Example)), None)
    return subject, feedback


def _judges(event: Event) -> bool:
    """Return True for feedback that says something: a skip leaves the pair to others."""
    return not (isinstance(event.payload, Preference) and event.payload.verdict == "skip")


def _without_feedback(prediction: Event, now: float, spec: FeedbackSpec, seen: float) -> tuple[State, str]:
    age = max(0.0, now - prediction.time)
    if not spec.window:
        return "waiting", f"it has waited for feedback for {age:.0f} seconds; there is no limit"
    if age <= spec.window:
        return "waiting", f"it has waited for feedback for {age:.0f} of {spec.window:g} seconds"
    none = f"no feedback came within {spec.window:g} seconds"
    over = _expired(prediction, spec, seen)
    if spec.default is None:
        return "overdue", f"{none}: it {'was' if over else 'will be'} dropped, and not learned"
    if not over:
        return "overdue", f"{none}: it takes the default label {spec.default!r} with the next event"
    return "overdue", f"{none}: it was learned as {spec.default!r}, the default label"


def _expired(prediction: Event, spec: FeedbackSpec, seen: float) -> bool:
    """Return True if the learner had stopped waiting once it had folded an event of time `seen`."""
    return bool(spec.window) and prediction.time + spec.window <= seen


def _with_feedback(prediction: Event, feedback: Sequence[Event], spec: FeedbackSpec, seen: float) -> tuple[State, str]:
    first, *more = feedback
    delay = first.time - prediction.time
    when = f"{delay:.1f} seconds after it" if delay >= 0 else f"{-delay:.1f} seconds before it"
    ignored = spec.correction == "ignore"
    if _expired(prediction, spec, seen):
        before = "it was dropped" if spec.default is None else f"it was learned as {spec.default!r}, the default label"
        late = "is only kept in the log" if ignored else "was learned as a correction"
        result: State = "overdue" if ignored else "learned"
        return result, f"first, after {spec.window:g} seconds, {before}; its feedback came {when}, and {late}"
    if not more:
        return "learned", f"its feedback came {when}"
    treatment = "only kept in the log" if ignored else "learned as well"
    return "learned", f"its feedback came {when}; {len(more)} later, different feedback was {treatment}"
