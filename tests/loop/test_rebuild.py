"""Learning a stretch of the log again gives what the loop itself learned from it, less what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import rebuild
from everlearn.model import Model, build
from everlearn.records import Event, Example, Label, Payload, Prediction
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, Spec
from tests.loop.test_kill import FIELDS, spec, table

ROWS, DELAY = 600, 25


def settings(**changes: Any) -> Spec:
    """A loop that learns, and takes no decision but to start."""
    return spec(
        mode="live", gate=GateSpec(minimum=1_000_000), drift=DriftSpec(detector="none"), checkpoint=100_000, **changes
    )


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


def learned_live(loop: Loop, events: list[tuple[float, Payload]]) -> Model:
    for moment, payload in events:
        loop.log.append([payload], time=1e6 + moment)
    while loop.catch_up():
        pass
    return loop.fold.roster.champion.model


def relearned(loop: Loop, skip: Any, after: int = 0, begin: Model | None = None) -> tuple[Model, int, int]:
    one = begin or build({"seed": loop.spec.seed, **loop.spec.model}, loop.fold.shape)
    parts = loop.log, loop.fold.encoder, loop.spec.schema.task
    counts = rebuild(one, *parts, after, loop.log.end(), skip, feedback=loop.spec.feedback, limits=loop.spec.limits)
    return one, *counts


def bytes_of(one: Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in one.arrays.items()}


def from_bad(event: Event) -> bool:
    return isinstance(event.payload, Label) and event.payload.source == "bad"


def nothing(event: Event) -> bool:
    return False


FEEDBACK = [
    pytest.param(FeedbackSpec(), id="for ever"),
    pytest.param(FeedbackSpec(correction="ignore"), id="first only"),
    pytest.param(FeedbackSpec(window=60.0, default=0), id="default"),
    pytest.param(FeedbackSpec(window=10.0, default=0), id="all overdue"),
    pytest.param(FeedbackSpec(window=30.0, correction="ignore"), id="dropped"),
]


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_relearning_everything_gives_the_bytes_that_the_loop_learned(tmp_path: Path, feedback: FeedbackSpec):
    with Loop(settings(feedback=feedback), tmp_path / "home") as loop:
        expected = learned_live(loop, traffic())
        again, learned, left_out = relearned(loop, nothing)
        assert bytes_of(again) == bytes_of(expected)
        assert learned >= loop.report()["examples"]
        assert left_out == 0


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_what_is_left_out_was_never_learned(tmp_path: Path, feedback: FeedbackSpec):
    with Loop(settings(feedback=feedback), tmp_path / "home") as loop, Loop(loop.spec, tmp_path / "clean") as clean:
        learned_live(loop, traffic())
        expected = learned_live(clean, traffic(bad=False))
        again, _, left_out = relearned(loop, from_bad)
        assert bytes_of(again) == bytes_of(expected)
        assert left_out == loop.log.count("label") - clean.log.count("label") > 100


def test_a_stretch_goes_on_from_arrays_that_learned_what_was_before(tmp_path: Path):
    events = traffic()
    with Loop(settings(feedback=FeedbackSpec(window=60.0, default=0)), tmp_path / "home") as loop:
        half = learned_live(loop, events[: len(events) // 2])
        begin = build(half.spec)
        begin.arrays = {name: array.copy() for name, array in half.arrays.items()}
        middle = loop.fold.cursor["log"]
        expected = learned_live(loop, events[len(events) // 2 :])
        again, _, _ = relearned(loop, nothing, after=middle, begin=begin)
        assert bytes_of(again) == bytes_of(expected)


def test_skipping_a_prediction_leaves_its_labels_out(tmp_path: Path):
    with Loop(settings(feedback=FeedbackSpec(window=60.0, default=0)), tmp_path / "home") as loop:
        learned_live(loop, traffic())

        def of_one(event: Event) -> bool:
            return isinstance(event.payload, Prediction | Example)

        _, learned, left_out = relearned(loop, of_one)
        assert learned == 0
        assert left_out == loop.log.count("label") + loop.log.count("example")


def test_labels_that_no_model_can_use_are_passed_over(tmp_path: Path):
    with Loop(settings(), tmp_path / "home") as loop:
        version = loop.ready().version
        odd = [Example("x", {"a": "far"}, 1), Example("y", {"a": 1.0}, "maybe"), Label("unknown", 1)]
        fine = [Prediction("p", {"a": 1.0}, 0, (0.5, 0.5), version), Label("p", 1), Label("p", "maybe")]
        loop.log.append([*odd, *fine])
        one, learned, left_out = relearned(loop, nothing)
        assert (learned, left_out) == (1, 0)
        assert all(np.isfinite(array).all() for array in one.arrays.values() if array.dtype.kind == "f")


def test_early_labels_are_learned_with_the_predictions_they_came_before(tmp_path: Path):
    with Loop(settings(feedback=FeedbackSpec(early=10.0)), tmp_path / "home") as loop:
        version = loop.ready().version
        for moment, payload in (
            (0.0, Label("soon", 1)),
            (1.0, Label("late", 1)),
            (5.0, Prediction("soon", {"a": 1.0}, 0, (0.5, 0.5), version)),
            (50.0, Prediction("late", {"a": 1.0}, 0, (0.5, 0.5), version)),
        ):
            loop.log.append([payload], time=1e6 + moment)
        assert relearned(loop, nothing)[1:] == (1, 0)


def test_limits_hold_when_learning_again(tmp_path: Path):
    heavy = LimitsSpec(weight=1.0, source=0.1, window=100)
    with Loop(settings(limits=heavy), tmp_path / "home") as loop:
        version = loop.ready().version
        for row in range(200):
            loop.log.append([Prediction(str(row), {"a": 1.0}, 0, (0.5, 0.5), version)])
            loop.log.append([Label(str(row), 1, 1e6, "flood")])
        flooded, _, _ = relearned(loop, nothing)
        for row in range(10):
            loop.log.append([Prediction(f"once {row}", {"a": 1.0}, 0, (0.5, 0.5), version), Label(f"once {row}", 1)])
        ten, _, _ = relearned(loop, lambda event: isinstance(event.payload, Label) and event.payload.source == "flood")
        assert bytes_of(flooded) == bytes_of(ten)
