"""Derive the state of one prediction or example from its events, with an explanation in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from everlearn.client.records import State
from everlearn.records import Event, Example, Payload, Prediction, Preference
from everlearn.spec import FeedbackSpec


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the rest of the log, and the learner, know that concerns one id.

    `quarantined` holds the positions of quarantined labels. `seen` is the time of the newest folded event before the
    first feedback, or of the newest folded event if there is no feedback: time passes for the learner with events only.
    `pauses` are the positions at which learning was paused (True) or went on (False). `left_out(position, payload)` is
    true for a label that a rollback left out. `unusable(payload)` is the reason why no model can use a label, or "".
    All predictions before the position `waiting_from` wait no longer. `capacity` is the number of predictions that may
    wait, where some were evicted; None where none was.
    """

    quarantined: Container[int] = ()
    seen: float = -math.inf
    pauses: Sequence[tuple[int, bool]] = ()
    left_out: Callable[[int, Payload], bool] = lambda position, payload: False
    unusable: Callable[[Payload], str] = lambda payload: ""
    waiting_from: int = 0
    capacity: int | None = None

    def paused(self, position: int) -> bool:
        """Return True if learning was paused at a position."""
        return next((paused for at, paused in reversed(self.pauses) if at < position), False)


class _Sorted(NamedTuple):
    """The feedback of an id that counts, and a state with its explanation for the rest."""

    counts: list[Event]
    other: tuple[State, str] | None


def state(
    events: Sequence[Event], folded: int, now: float, spec: FeedbackSpec, known: Circumstances | None = None
) -> tuple[State, str]:
    """Return the state and an explanation of the id that these events are about, at time `now`.

    The learner has folded the log up to `folded`.

    >>> prediction = Event(7, 100.0, Prediction("a", {"x": 1.0}, True, (0.2, 0.8), "f00"))
    >>> state([prediction], 6, 101.0, FeedbackSpec())[0], state([prediction], 7, 101.0, FeedbackSpec())[0]
    ('queued', 'waiting')
    """
    known = known or Circumstances()
    newest = events[-1]
    if newest.position > folded:
        behind = newest.position - folded
        return "queued", f"event {newest.position} is in the log; the learner is {behind} events before it"
    subject, _ = split(events)
    if subject is None:
        return _without_prediction(events, now, spec, known)
    if any(event.position in known.quarantined for event in events):
        return "quarantined", "its label was set aside: its loss is far above the losses of its class; see limits"
    if isinstance(subject.payload, Example):
        return _example(subject, known)
    sorted_ = _sorted(subject, events, spec, known)
    if not sorted_.counts:
        base = _without_feedback(subject, now, spec, known)
        if sorted_.other is None:
            return base
        return sorted_.other[0], f"{sorted_.other[1]}; {base[1]}"
    return _with_feedback(subject, sorted_.counts, spec, known)


def split(events: Sequence[Event]) -> tuple[Event | None, Event | None]:
    """Return the prediction or example among the events of an id, and the first feedback."""
    subject = next((event for event in events if isinstance(event.payload, Prediction | Example)), None)
    feedback = next((event for event in events if not isinstance(event.payload, Prediction | Example)), None)
    return subject, feedback


def _example(example: Event, known: Circumstances) -> tuple[State, str]:
    if known.left_out(example.position, example.payload):
        return "left_out", "it came with its label, and a rollback has left it out"
    if _weightless(example):
        return "settled", "it came with a label of weight 0: it was neither scored nor learned"
    if known.paused(example.position):
        return (
            "paused",
            "it came with its label while learning was paused: the models were scored on it, and did not learn",
        )
    return "learned", "it came with its label: the models were scored on it, then learned it"


def _without_prediction(
    events: Sequence[Event], now: float, spec: FeedbackSpec, known: Circumstances
) -> tuple[State, str]:
    reasons = [known.unusable(event.payload) for event in events]
    if all(reasons):
        return "refused", f"there is feedback without a prediction, which no model can use: {reasons[0]}"
    first = next(event for event, reason in zip(events, reasons, strict=True) if not reason)
    if now > first.time + spec.early:  # a prediction would have this time, or a later one
        late = f"no prediction came within {spec.early:g} seconds after its feedback"
        return "expired", f"{late}, which counts no more, even if one comes now"
    return "early", f"there is feedback, but no prediction yet; it is kept for {spec.early:g} seconds"


def _sorted(prediction: Event, events: Sequence[Event], spec: FeedbackSpec, known: Circumstances) -> _Sorted:
    """Sort out the feedback that does not count, in the order in which the fold does so."""
    feedback = [event for event in events if not isinstance(event.payload, Prediction | Example) and _judges(event)]
    other: tuple[State, str] | None = None
    usable = [event for event in feedback if not known.unusable(event.payload)]
    if len(usable) < len(feedback):
        reason = next(filter(None, (known.unusable(event.payload) for event in feedback)))
        other = "refused", f"no model can use its feedback: {reason}"
    kept = [event for event in usable if not known.left_out(event.position, event.payload)]
    if len(kept) < len(usable):
        other = "left_out", "a rollback has left its label out"
    early = [event for event in kept if event.position < prediction.position]
    if early and early[0].time + spec.early < prediction.time:
        before = prediction.time - early[0].time
        other = "expired", f"its feedback came {before:.1f} seconds before it, and was kept for {spec.early:g} only"
        kept = [event for event in kept if event.position > prediction.position]
    return _Sorted(kept, other)


def _judges(event: Event) -> bool:
    """Return True for feedback that says something: a skip leaves the pair to others."""
    return not (isinstance(event.payload, Preference) and event.payload.verdict == "skip")


def _weightless(event: Event) -> bool:
    return getattr(event.payload, "weight", 1.0) == 0.0


def _without_feedback(prediction: Event, now: float, spec: FeedbackSpec, known: Circumstances) -> tuple[State, str]:
    age = max(0.0, now - prediction.time)
    over = _expired(prediction, spec, known.seen)
    if not over and prediction.position < known.waiting_from:
        done = "dropped, and not learned" if spec.default is None else f"learned as {spec.default!r}, the default label"
        return "evicted", f"no feedback came before `feedback.bytes` were full: it was {done}"
    if not spec.window:
        return "waiting", f"it has waited for feedback for {age:.0f} seconds; there is no limit"
    if age <= spec.window:
        return "waiting", f"it has waited for feedback for {age:.0f} of {spec.window:g} seconds"
    none = f"no feedback came within {spec.window:g} seconds"
    if spec.default is None:
        return "overdue", f"{none}: it {'was' if over else 'will be'} dropped, and not learned"
    if not over:
        return "overdue", f"{none}: it takes the default label {spec.default!r} with the next event"
    return "overdue", f"{none}: it was learned as {spec.default!r}, the default label"


def _expired(prediction: Event, spec: FeedbackSpec, seen: float) -> bool:
    """Return True if the learner had stopped waiting once it had folded an event of time `seen`."""
    return bool(spec.window) and prediction.time + spec.window <= seen


def _with_feedback(
    prediction: Event, feedback: Sequence[Event], spec: FeedbackSpec, known: Circumstances
) -> tuple[State, str]:
    first, *more = feedback
    delay = first.time - prediction.time
    when = f"{delay:.1f} seconds after it" if delay >= 0 else f"{-delay:.1f} seconds before it"
    ignored = spec.correction == "ignore"
    if _expired(prediction, spec, known.seen):
        before = "it was dropped" if spec.default is None else f"it was learned as {spec.default!r}, the default label"
        late = "is only kept in the log" if ignored else "was learned as a correction"
        result: State = "overdue" if ignored else "corrected"
        return result, f"first, after {spec.window:g} seconds, {before}; its feedback came {when}, and {late}"
    if _weightless(first) and not more:
        return "settled", f"its feedback came {when} with weight 0: it waits no longer, and nothing was learned"
    came, paused = f"its feedback came {when}", known.paused(max(first.position, prediction.position))
    if known.capacity is not None and first.position - prediction.position >= known.capacity:
        came += "; it may have been evicted before, and was then learned without being scored"
    if paused:
        came += " while learning was paused: the models were scored on it, and did not learn it"
    if not more:
        return "paused" if paused else "learned", came
    treatment = "only kept in the log" if ignored else "learned as well"
    return "learned" if ignored else "corrected", f"{came}; {len(more)} later, different feedback was {treatment}"
