"""What became of one prediction, in a word and in a sentence."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

from everlearn.app.admin.responses import State
from everlearn.records import Event, Example, Prediction
from everlearn.spec import FeedbackSpec


def told(
    events: Sequence[Event],
    folded: int,
    now: float,
    spec: FeedbackSpec,
    aside: Container[int] = (),
    seen: float = -math.inf,
) -> tuple[State, str]:
    """The state of an id whose events these are, once the learner has folded the log up to `folded`, at time `now`.

    `aside` are positions of labels that were quarantined. `seen` is the time of the newest folded event before the
    first feedback (of the newest at all if there is none): time passes for the learner with events only.

    >>> prediction = Event(7, 100.0, Prediction("a", {"x": 1.0}, True, (0.2, 0.8), "f00"))
    >>> told([prediction], 6, 101.0, FeedbackSpec())[0], told([prediction], 7, 101.0, FeedbackSpec())[0]
    ('queued', 'waiting')
    """
    newest = events[-1]
    if newest.position > folded:
        behind = newest.position - folded
        return "queued", f"event {newest.position} is in the log; the learner is {behind} events before it"
    given, _ = parted(events)
    if given is None:
        return "early", f"there is feedback, but no prediction yet; it is kept for {spec.early:g} seconds"
    if any(one.position in aside for one in events):
        return "quarantined", "its label was set aside, because its loss is far above those of its class; see limits"
    if isinstance(given.payload, Example):
        return "learned", "it came with its label: the models were tested on it, then learned it"
    judgements = [one for one in events if not isinstance(one.payload, Prediction | Example)]
    if not judgements:
        return _unanswered(given, now, spec, seen)
    return _answered(given, judgements, spec, seen)


def parted(events: Sequence[Event]) -> tuple[Event | None, Event | None]:
    """The prediction or example among the events of an id, and the first feedback."""
    given = next((one for one in events if isinstance(one.payload, Prediction | Example)), None)
    return given, next((one for one in events if not isinstance(one.payload, Prediction | Example)), None)


def _unanswered(given: Event, now: float, spec: FeedbackSpec, seen: float) -> tuple[State, str]:
    age = max(0.0, now - given.time)
    if not spec.window:
        return "waiting", f"it has waited for feedback for {age:.0f} seconds, and may for ever"
    if age <= spec.window:
        return "waiting", f"it has waited for feedback for {age:.0f} of {spec.window:g} seconds"
    none = f"no feedback came within {spec.window:g} seconds"
    over = _over(given, spec, seen)
    if spec.default is None:
        return "overdue", f"{none}: it {'was' if over else 'will be'} dropped, and not learned"
    if not over:
        return "overdue", f"{none}: it takes the default label {spec.default!r} with the next event"
    return "overdue", f"{none}: it was learned as {spec.default!r}, the default label"


def _over(given: Event, spec: FeedbackSpec, seen: float) -> bool:
    """Whether the learner had stopped waiting when it had seen an event of that time."""
    return bool(spec.window) and given.time + spec.window <= seen


def _answered(given: Event, judgements: Sequence[Event], spec: FeedbackSpec, seen: float) -> tuple[State, str]:
    first, *more = judgements
    delay = first.time - given.time
    when = f"{delay:.1f} seconds after it" if delay >= 0 else f"{-delay:.1f} seconds before it"
    ignored = spec.correction == "ignore"
    if _over(given, spec, seen):
        before = "it was dropped" if spec.default is None else f"it was learned as {spec.default!r}, the default label"
        late = "is only kept in the log" if ignored else "was learned as a correction"
        learned: State = "overdue" if ignored else "learned"
        return learned, f"first, after {spec.window:g} seconds, {before}; its feedback came {when}, and {late}"
    if not more:
        return "learned", f"its feedback came {when}"
    done = "only kept in the log" if ignored else "learned as well"
    return "learned", f"its feedback came {when}; {len(more)} later, different judgements were {done}"
