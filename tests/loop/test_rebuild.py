"""A rebuild learns what the fold of the same log would have taught the model, had the skipped events never come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from everlearn.loop.loop import Loop
from everlearn.model import build
from everlearn.records import Event, Example, Label, Prediction
from everlearn.spec import FeedbackSpec, GateSpec, LimitsSpec
from tests.support.loops import FIELDS, table
from tests.support.rebuilds import (
    FEEDBACK,
    LIMITS,
    bytes_of,
    check,
    feedbacks,
    fill,
    from_bad,
    learned_live,
    limits,
    nothing,
    relearned,
    settings,
    stories,
    traffic,
)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_rebuilding_everything_gives_the_bytes_that_the_loop_learned(
    tmp_path: Path, feedback: FeedbackSpec, limits: LimitsSpec
) -> None:
    with Loop(settings(feedback=feedback, limits=limits), tmp_path / "home") as loop:
        expected = learned_live(loop, traffic())
        again, learned, left_out = relearned(loop, nothing)
        assert bytes_of(again) == bytes_of(expected)
        assert learned >= loop.report()["examples"] > 0
        assert left_out == 0


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_skipped_labels_were_never_learned(tmp_path: Path, feedback: FeedbackSpec) -> None:
    with Loop(settings(feedback=feedback), tmp_path / "home") as loop, Loop(loop.spec, tmp_path / "clean") as clean:
        learned_live(loop, traffic())
        expected = learned_live(clean, traffic(bad=False))
        again, _, left_out = relearned(loop, from_bad)
        assert bytes_of(again) == bytes_of(expected)
        assert left_out == loop.log.count("label") - clean.log.count("label") > 100


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_a_stretch_continues_from_arrays_that_learned_the_log_before_it(
    tmp_path: Path, feedback: FeedbackSpec, limits: LimitsSpec
) -> None:
    events = traffic()
    with Loop(settings(feedback=feedback, limits=limits), tmp_path / "home") as loop:
        half = learned_live(loop, events[: len(events) // 2])
        begin = build(half.spec)
        begin.arrays = {name: array.copy() for name, array in half.arrays.items()}
        middle = loop.fold.cursor["log"]
        expected = learned_live(loop, events[len(events) // 2 :])
        again, _, _ = relearned(loop, nothing, after=middle, begin=begin)
        assert bytes_of(again) == bytes_of(expected)


def test_skipping_a_prediction_leaves_its_labels_out(tmp_path: Path) -> None:
    with Loop(settings(feedback=FeedbackSpec(window=60.0, default=0)), tmp_path / "home") as loop:
        learned_live(loop, traffic())

        def of_one(event: Event) -> bool:
            return isinstance(event.payload, Prediction | Example)

        _, learned, left_out = relearned(loop, of_one)
        assert learned == 0
        assert left_out == loop.log.count("label") + loop.log.count("example")


def test_labels_that_no_model_can_use_are_passed_over(tmp_path: Path) -> None:
    with Loop(settings(), tmp_path / "home") as loop:
        version = loop.ready().version
        odd = [Example("x", {"a": "far"}, 1), Example("y", {"a": 1.0}, "maybe"), Label("unknown", 1)]
        fine = [Prediction("p", {"a": 1.0}, 0, (0.5, 0.5), version), Label("p", 1), Label("p", "maybe")]
        loop.log.append([*odd, *fine])
        one, learned, left_out = relearned(loop, nothing)
        assert (learned, left_out) == (1, 0)
        assert all(np.isfinite(array).all() for array in one.arrays.values() if array.dtype.kind == "f")


def test_early_labels_are_learned_with_the_predictions_they_came_before(tmp_path: Path) -> None:
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


def test_limits_hold_when_learning_again(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("mode", ["gated", "live"])
@pytest.mark.parametrize("limits", LIMITS)
def test_rows_of_a_warm_start_are_learned_again_without_the_limits_on_labels(
    tmp_path: Path, mode: str, limits: LimitsSpec
) -> None:
    with Loop(settings(mode=mode, limits=limits, warm_start=40.0), tmp_path / "home") as loop:
        columns = table(90)
        rows = [(row, {name: columns[name][row] for name in FIELDS}) for row in range(90)]
        fill(loop, [(row, Example(f"e{row}", held, int(columns["label"][row]), 2.0, "one")) for row, held in rows])
        assert bytes_of(relearned(loop, nothing)[0]) == bytes_of(loop.fold.roster.challenger.model)


@pytest.mark.parametrize("promote", ["learner", "snapshot"])
def test_gated_what_served_judges_again(tmp_path: Path, promote: Any) -> None:
    """Quarantine: the untrained learner, then a frozen copy, then the learner that was promoted."""
    gate = GateSpec(minimum=50, promote=promote, alpha=0.2 if promote == "learner" else 1e-300)
    limits = LimitsSpec(quarantine=0.99)
    with Loop(settings(mode="gated", gate=gate, limits=limits), tmp_path / "home") as loop:
        columns = table(1800)
        rows = [(row, {name: columns[name][row] for name in FIELDS}) for row in range(900)]
        fill(loop, [(row, Example(f"e{row}", held, int(columns["label"][row]))) for row, held in rows])
        moved = [(one.action, one.by) for one in loop.decisions() if one.alias == "champion"]
        assert moved[1] == ("promote", "loop")
        assert (("promote", "gate") in moved) == (promote == "learner")
        assert loop.status()["quarantined"] > 2
        assert bytes_of(relearned(loop, nothing)[0]) == bytes_of(loop.fold.roster.challenger.model)


# ---- a rollback without labels, an erasure, and a run in which the events never were --------------------------------


EVERYTHING = given(st.sampled_from(["gated", "live"]), feedbacks, limits, stories, stories)


@hypothesis(derandomize=True, deadline=None, max_examples=20)
@EVERYTHING
def test_without_events_is_as_if_they_had_never_come(
    mode: Any, feedback: FeedbackSpec, bounds: LimitsSpec, drawn: Any, more: Any
) -> None:
    check(settings(mode=mode, feedback=feedback, limits=bounds, subject="user", tick=3), drawn, more)


@pytest.mark.slow
@hypothesis(derandomize=True, deadline=None, max_examples=1500)
@EVERYTHING
def test_without_events_is_as_if_they_had_never_come_in_many_logs(
    mode: Any, feedback: FeedbackSpec, bounds: LimitsSpec, drawn: Any, more: Any
) -> None:
    check(settings(mode=mode, feedback=feedback, limits=bounds, subject="user", tick=3), drawn, more)
