"""Logs with late, missing and bad labels, models that learn them again, and runs in which events never were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from everlearn.feedback.pending import charge
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import rebuild
from everlearn.model import Model, build
from everlearn.records import Event, Example, Label, Payload, Prediction, Preference, Rejected, Reward
from everlearn.schema import shape
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, Spec
from tests.support.loops import FIELDS, spec, table

ROWS, DELAY = 600, 25
Timed = Sequence[tuple[float, Payload]]


def settings(**changes: Any) -> Spec:
    """A loop that learns, and takes no decision but to start."""
    plain = {"mode": "live", "gate": GateSpec(minimum=1_000_000), "drift": DriftSpec(detector="none")}
    return spec(**(plain | {"checkpoint": 100_000} | changes))


def traffic(version: str = "v", bad: bool = True) -> list[tuple[float, Payload]]:
    """Predictions whose labels come late, twice, or never; a third of the labels is from a source "bad", and wrong."""
    columns, draw = table(ROWS), np.random.default_rng(5)
    events: list[tuple[float, Payload]] = []
    for row in range(ROWS + DELAY):
        if row < ROWS:
            features = {name: columns[name][row] for name in FIELDS}
            events.append((row, Prediction(str(row), features, 0, (0.5, 0.5), version)))
        judged, fate = row - DELAY, draw.random()
        if judged >= 0 and fate < 0.9:
            label, wrong = int(columns["label"][judged]), judged % 3 == 2
            if not wrong or bad:
                events.append((row, Label(str(judged), 1 - label if wrong else label, 1.5, "bad" if wrong else "good")))
            if fate < 0.1 and not wrong:
                events.append((row, Label(str(judged), 1 - label, 0.5)))
        if row % 40 == 7:
            events.append((row, Example(f"e{row}", {"a": 1.0 * row, "b": 0.0, "c": "c1"}, row % 2)))
    return events


def fill(loop: Loop, events: Timed) -> Loop:
    """Append the events at their times, and fold them."""
    for moment, payload in events:
        loop.log.append([payload], time=1e6 + moment)
    while loop.catch_up():
        pass
    return loop


def learned_live(loop: Loop, events: Timed) -> Model:
    return fill(loop, events).fold.roster.champion.model


def relearned(loop: Loop, skip: Any, after: int = 0, begin: Model | None = None) -> tuple[Model, int, int]:
    one = begin or build({"seed": loop.spec.seed, **loop.spec.model}, loop.fold.shape)
    return one, *rebuild(one, loop.log, loop.fold.encoder, loop.spec, after, loop.log.end(), skip)


def bytes_of(one: Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in one.arrays.items()}


def from_bad(event: Event) -> bool:
    return isinstance(event.payload, Label) and event.payload.source == "bad"


def nothing(event: Event) -> bool:
    return False


EACH = charge(settings(), shape(settings().schema))
FEEDBACK = [
    pytest.param(FeedbackSpec(), id="for ever"),
    pytest.param(FeedbackSpec(correction="ignore"), id="first only"),
    pytest.param(FeedbackSpec(window=60.0, default=0), id="default"),
    pytest.param(FeedbackSpec(window=10.0, default=0), id="all overdue"),
    pytest.param(FeedbackSpec(window=30.0, correction="ignore"), id="dropped"),
    pytest.param(FeedbackSpec(bytes=9 * EACH, correction="ignore"), id="evicted"),
    pytest.param(FeedbackSpec(window=20.0, default=0, correction="importance"), id="importance"),
]
LIMITS = [
    pytest.param(LimitsSpec(), id="no limits"),
    pytest.param(LimitsSpec(clip=0.01), id="clip"),
    pytest.param(LimitsSpec(weight=0.7, source=0.4, window=50), id="source"),
    pytest.param(LimitsSpec(quarantine=0.9), id="quarantine"),
]


def joined(loop: Loop) -> dict[str, bytes]:
    """The arrays of the join: the parts of a checkpoint that decide which rows are learned next."""
    arrays, _ = loop.fold.state()
    counts = ("waiting/said", "waiting/evicted", "early/dropped")
    return {
        name: array.tobytes()
        for name, array in arrays.items()
        if name.startswith(("waiting/", "early/", "lessons/", "learner/limits/")) and not name.startswith(counts)
    }


def learners(loop: Loop) -> list[dict[str, bytes]]:
    """The bytes of every model that learns."""
    return [bytes_of(one.model) for one in loop.fold.roster.contestants if one.learns]


def hidden(events: Timed, gone: Callable[[Payload], bool]) -> Timed:
    """The same log, with an event that changes nothing in the place of each one that is gone."""
    return [(moment, Rejected("gone", i, "", "") if gone(one) else one) for i, (moment, one) in enumerate(events)]


IDS = [f"{owner}-{number}" for owner in ("ann", "zoe") for number in range(5)]
amounts = st.sampled_from([-50.0, -1.0, -0.25, 0.5, 1.0, 2.0, 1e6])
records = st.fixed_dictionaries({"a": amounts, "b": amounts, "c": st.sampled_from(["c1", "c2"])})
judgements = st.tuples(st.sampled_from(IDS), st.integers(0, 1), st.sampled_from([0.0, 0.5, 1.0, 3.0, 200.0]))
sources = st.sampled_from(["", "good", "bad"])
chances = st.sampled_from([(0.9, 0.1), (0.5, 0.5), (0.2, 0.8)])
steps = st.one_of(
    st.builds(lambda id, held, said: ("predict", id, held, said), st.sampled_from(IDS), records, chances),
    st.builds(lambda judged, source: ("label", judged, source), judgements, sources),
    st.builds(lambda judged, source: ("label", judged, source), judgements, sources),
    st.builds(lambda held, judged, source: ("example", held, judged, source), records, judgements, sources),
)
feedbacks = st.builds(
    FeedbackSpec,
    window=st.sampled_from([0.0, 3.0, 12.0]),
    default=st.sampled_from([None, 0, 1]),
    early=st.sampled_from([0.0, 4.0, 100.0]),
    correction=st.sampled_from(["learn", "ignore"]),
    bytes=st.sampled_from([1, 2 * EACH, 5 * EACH, 1 << 20]),
) | st.builds(
    FeedbackSpec,
    window=st.sampled_from([3.0, 12.0]),
    default=st.sampled_from([0, 1]),
    early=st.sampled_from([0.0, 100.0]),
    correction=st.just("importance"),
    bytes=st.sampled_from([2 * EACH, 1 << 20]),
)
limits = st.builds(
    LimitsSpec,
    clip=st.sampled_from([0.0, 0.05, 0.3]),
    weight=st.sampled_from([1.0, 100.0]),
    source=st.sampled_from([0.2, 0.6, 1.0]),
    window=st.sampled_from([4, 20]),
    quarantine=st.sampled_from([0.6, 0.9, 1.0]),
)
stories = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.5, 9.0]), steps), min_size=12, max_size=60)


def story(drawn: Sequence[tuple[float, Any]]) -> list[tuple[float, Payload]]:
    """A log of the drawn steps: each id is predicted once, each content of a label comes once."""
    events: list[tuple[float, Payload]] = []
    known: set[Any] = set()
    moment = 0.0
    for number, (pause, step) in enumerate(drawn):
        moment += pause
        match step:
            case ("predict", id, held, chance) if id not in known:
                known.add(id)
                payload: Payload = Prediction(id, held, chance[1] > 0.5, chance, "v", subject=id[:3])
            case ("label", (id, value, weight), source) if step[1:] not in known:
                known.add(step[1:])
                payload = Label(id, value, weight, source)
            case ("example", held, (id, value, weight), source):
                payload = Example(f"{id}-e{number}", held, value, weight, source, id[:3])
            case _:
                continue
        events.append((moment, payload))
    return events


def is_bad(payload: Payload) -> bool:
    return isinstance(payload, Label | Reward | Preference | Example) and payload.source == "bad"


def about_zoe(events: Timed) -> Callable[[Payload], bool]:
    """True for what an erasure finds: the predictions and examples of one person, and feedback on these predictions."""
    named = {one.id for _, one in events if isinstance(one, Prediction | Example)}
    kinds = Prediction | Label | Reward | Preference | Example
    return lambda one: isinstance(one, kinds) and one.id.startswith("zoe") and one.id in named


def started(chosen: Spec, home: Path, events: Timed) -> Loop:
    """A loop that began untrained, before the first event."""
    loop = Loop(chosen, home)
    loop.ready()
    return fill(loop, events)


def add(loop: Loop, events: Timed, since: float) -> None:
    """Let the loop go on with events that come `since` seconds after the first ones."""
    fill(loop, [(since + moment, payload) for moment, payload in events])


def same(loop: Loop, undisturbed: Loop, positions: bool) -> None:
    """Both loops have the same models, and will learn the same rows next; `positions`: their logs are aligned, too."""
    assert learners(loop) == learners(undisturbed)
    where = () if positions else ("waiting/position", "early/position", "learner/limits/set_aside")
    mine, theirs = (joined(one) for one in (loop, undisturbed))
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name] and name not in where] == []


def check(
    chosen: Spec,
    drawn: Any,
    more: Any,
    same: Callable[[Loop, Loop, bool], None] = same,
    story: Callable[[Any], Timed] = story,
) -> None:
    """Compare a rollback without labels, then an erasure, with runs in which the events never were."""
    events = story([*drawn, *more])
    first, later, later_at = events[: len(story(drawn))], events[len(story(drawn)) :], 1000.0
    of_zoe, of_zoe_by_then = about_zoe(events), about_zoe(first)
    with TemporaryDirectory() as folder:
        home, erased = Path(folder) / "home", Path(folder) / "erased"
        rolled_back = any(is_bad(one) for _, one in first)
        gone = is_bad if rolled_back else lambda one: False
        with started(chosen, home, first) as loop, started(chosen, Path(folder) / "a", hidden(first, gone)) as never:
            if rolled_back:
                loop.rollback(without={"source": "bad"})
            same(loop, never, True)
            for one in (loop, never):
                add(one, later, later_at)
            same(loop, never, False)
        if not any(of_zoe(one) for _, one in events):
            return
        erase(home, chosen, {"user": "zoe"}, "asked")
        without_both = hidden(first, lambda one: gone(one) or of_zoe(one))
        with Loop(chosen, home) as loop, started(chosen, Path(folder) / "b", without_both) as never:
            add(never, hidden(later, of_zoe), later_at)
            same(loop, never, False)
        with started(chosen, erased, first):
            pass
        if not any(of_zoe_by_then(one) for _, one in first):
            return
        erase(erased, chosen, {"user": "zoe"}, "asked")
        with Loop(chosen, erased) as loop, started(chosen, Path(folder) / "c", hidden(first, of_zoe_by_then)) as never:
            same(loop, never, True)
            for one in (loop, never):
                add(one, later, later_at)
            same(loop, never, False)
