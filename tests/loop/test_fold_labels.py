"""Limits, early labels and corrections in the fold: the result does not depend on how the log was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.loop.loop import Loop
from everlearn.records import Example, Label, Payload, Prediction
from everlearn.spec import DriftSpec, FeedbackSpec, LimitsSpec
from tests.support.loops import record, spec, table
from tests.support.orders import quiet, serve, state

# ---- limits, early labels and corrections, in the loop -------------------------------------------------------------


def test_a_flood_from_one_source_moves_little_and_is_not_counted(tmp_path: Path):
    settings = quiet(mode="live", limits=LimitsSpec(source=0.1, window=200))
    columns = table(300)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 100)
        before = loop.report()["examples"]
        for row in range(500):
            loop.predict({"a": 3.0, "b": 0.0, "c": "c1"}, id=f"flood {row}")
            loop.feedback(f"flood {row}", label=0, source="key")
        assert loop.report()["examples"] == before + 20  # a tenth of the window
        assert loop.fold.monitor.limits["counters"].sum() > 0
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected


@pytest.mark.parametrize("mode", ["gated", "live"])
@pytest.mark.parametrize(
    "limits", [LimitsSpec(clip=0.01), LimitsSpec(quarantine=0.95), LimitsSpec(source=0.3, window=50)]
)
def test_limits_do_not_depend_on_how_the_log_is_cut(tmp_path: Path, mode: str, limits: LimitsSpec):
    settings = quiet(mode=mode, limits=limits, tick=7, checkpoint=1000, feedback=FeedbackSpec(window=40.0, default=0))
    columns, states = table(400), []
    columns["a"][50::97] = 1e6
    for size in (1, 13, 5000):
        with Loop(settings, tmp_path / f"{size}") as loop:
            version = loop.ready().version
            at = loop.log.end()
            for row in range(400):
                events: list[Payload] = [Prediction(str(row), record(columns, row), 0, (0.5, 0.5), version)]
                if row >= 20 and row % 4:
                    events.append(Label(str(row - 20), int(columns["label"][row - 20]), source=f"s{row % 3}"))
                if row % 10 == 3:
                    events.append(Example(f"e{row}", record(columns, row), row % 2, 500.0, source="s1"))
                loop.log.append(events, time=float(row))
            assert loop.position == at
            while loop.catch_up(size):
                pass
            arrays, _ = loop.fold.state()
            states.append({name: array.tobytes() for name, array in arrays.items() if not name.endswith("position")})
            counters = loop.fold.monitor.limits["counters"]
            assert counters.sum() > 0
    assert states[0] == states[1] == states[2]


@pytest.mark.parametrize("mode", ["gated", "live"])
@pytest.mark.parametrize(
    "changes",
    [
        {"limits": LimitsSpec(clip=0.02), "feedback": FeedbackSpec(early=30.0)},
        {"drift": DriftSpec(watch="inputs", reaction="rate", grace_period=50)},
        {"drift": DriftSpec(watch="proba", reaction="challenger", grace_period=50), "limits": LimitsSpec(clip=0.02)},
        {
            "drift": DriftSpec(watch="inputs", reaction="reset", grace_period=50),
            "feedback": FeedbackSpec(window=40.0, default=0),
        },
    ],
)
def test_features_that_are_clipped_or_watched_do_not_depend_on_how_the_log_is_cut(
    tmp_path: Path, mode: str, changes: Any
):
    """With corrections, which are clipped to what was known when they came, and inputs that drift."""
    settings, columns, states = spec(**{"mode": mode, "tick": 7, "checkpoint": 100} | changes), table(500), []
    columns["a"][50::97] = 1e6
    columns["b"][250:] += 5.0
    for size in (1, 13, 5000):
        with Loop(settings, tmp_path / f"{size}") as loop:
            version = loop.ready().version
            for row in range(500):
                p = 0.9 if row < 250 else 0.2
                events: list[Payload] = [Prediction(str(row), record(columns, row), 0, (1.0 - p, p), version)]
                if row >= 20 and row % 4:
                    events.append(Label(str(row - 20), int(columns["label"][row - 20])))
                if row >= 40 and row % 5 == 0:  # some are corrections
                    events.append(Label(str(row - 40), 1 - int(columns["label"][row - 40])))
                loop.log.append(events, time=float(row))
            while loop.catch_up(size):
                pass
            told = [event.payload for event in loop.log.read(0, 5000, kinds=("decision", "version"))]
            states.append((state(loop), told))
            assert settings.limits.clip == 0.0 or loop.fold.bounds["high"][0] < 1e6
            assert "drift" not in changes or loop.report()["drifts"] > 0
    assert states[0] == states[1] == states[2]


def test_features_out_of_range_are_clipped_when_served_and_when_learned(tmp_path: Path):
    settings, columns = quiet(mode="live", limits=LimitsSpec(clip=0.05)), table(400)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 300)
        low, high = loop.fold.bounds["low"], loop.fold.bounds["high"]
        assert np.isfinite([low, high]).all()
        far = loop.predict({"a": 1e9, "b": 0.0, "c": "c1"})
        edge = loop.predict({"a": float(loop.fold.bounds["high"][0]), "b": 0.0, "c": "c1"})
        assert far.proba == pytest.approx(edge.proba, abs=1e-3)


def test_feedback_that_comes_early_waits_for_its_prediction(tmp_path: Path):
    settings = quiet(feedback=FeedbackSpec(early=60.0))
    with Loop(settings, tmp_path / "home") as loop:
        loop.feedback("soon", label=1)
        loop.feedback("soon", label=0)  # a correction, early as well
        assert (len(loop.fold.early), loop.report()["examples"]) == (2, 0)
        before = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == before
        loop.predict({"a": 1.0, "b": 1.0, "c": "c1"}, id="soon")
        assert (len(loop.fold.early), loop.report()["examples"], len(loop.fold.pending)) == (0, 1, 0)


def test_a_label_from_before_its_prediction_is_no_correction_of_it(tmp_path: Path):
    with Loop(quiet(mode="live"), tmp_path / "home") as loop:
        version = loop.ready().version
        loop.log.append([Label("x", 1), Prediction("x", {"a": 1.0}, 0, (0.5, 0.5), version)])
        while loop.catch_up():
            pass
        assert (loop.report()["examples"], loop.report()["waiting"]) == (0, 1)
        assert not loop.fold.roster.champion.model.arrays["weights"].any()


def test_events_that_no_model_can_use_are_counted_and_passed_over(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        version = loop.ready().version
        odd = [Prediction("p", {"a": "far"}, 0, (0.5, 0.5), version), Example("e", {"a": "far"}, 1)]
        odd += [Prediction("q", {"a": 1.0}, 0, (0.5, 0.5), version), Label("q", "maybe"), Example("f", {"a": 1.0}, "x")]
        loop.log.append(odd)
        while loop.catch_up():
            pass
        assert loop.fold.unusable == 4
        assert loop.report()["waiting"] == 1
        serve(loop, table(30), 0, 20)
        assert loop.report()["examples"] == 20


def test_late_positives_weigh_so_that_probabilities_stay_right(tmp_path: Path):
    """Half of all rows are positive, and half of the positives come after the default label was learned."""
    draw = np.random.default_rng(3)
    shares = {}
    for correction in ("learn", "importance"):
        feedback = FeedbackSpec(window=20.0, default=0, correction=correction)
        with Loop(quiet(mode="live", feedback=feedback, checkpoint=100_000), tmp_path / correction) as loop:
            version = loop.ready().version
            events: list[tuple[float, Payload]] = []
            for row in range(6000):
                events.append((row, Prediction(str(row), {"b": 0.0}, 0, (0.5, 0.5), version)))
                if draw.random() < 0.5:
                    events.append((row + (5 if draw.random() < 0.5 else 60), Label(str(row), 1)))
            for moment, payload in sorted(events, key=lambda one: one[0]):
                if moment < 6000:
                    loop.log.append([payload], time=moment)
            row, said = loop.fold.encoder.record({"b": 0.0}), []
            while loop.catch_up(50):
                said.append(float(loop.fold.roster.champion.model.predict(row)[0, 1]))
            shares[correction] = float(np.mean(said[-60:]))
    assert shares["importance"] == pytest.approx(0.5, abs=0.02)
    assert shares["learn"] == pytest.approx(0.5 / (1 + 0.25), abs=0.02)  # a quarter of the rows is shown twice
