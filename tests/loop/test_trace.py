"""The trace of a model in a loop: recorded, waiting, handed back, recomputed by rebuilds; no cost without one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from everlearn import checks
from everlearn import model as contract
from everlearn.feedback.pending import charge, trace_charge
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import rebuild
from everlearn.model import build
from everlearn.records import Label, Payload, Prediction
from everlearn.schema import shape
from everlearn.spec import FeedbackSpec, GateSpec, LimitsSpec
from tests.support import rebuilds as story
from tests.support import traced_models as traced
from tests.support.folds import Folded
from tests.support.loops import record, table
from tests.support.orders import LINEAR, quiet, serve
from tests.support.rebuilds import FEEDBACK, LIMITS, bytes_of, fill, learned_live, nothing, relearned, settings
from tests.support.traced_models import FORGETFUL, PLAIN, RATE, STACKER, STALE, WIDE

EACH = charge(settings(), shape(settings().schema))
ROWS, DELAY = 120, 7


def blocks(length: int = 8, count: int = 15) -> list[int]:
    """Labels that change every `length` rows: what came so many rows before is always wrong."""
    return [i // length % 2 for i in range(length * count)]


def late(loop: Loop, labels: Sequence[int], delay: int) -> None:
    """Predict row after row; each label comes `delay` rows later."""
    for row in range(len(labels) + delay):
        if row < len(labels):
            loop.predict({"a": row % 3, "b": 1.0, "c": "x"}, id=str(row))
        if row >= delay:
            loop.feedback(str(row - delay), label=labels[row - delay])


def test_a_stacker_learns_what_its_members_said(tmp_path: Path) -> None:
    """At its prediction the last label is always wrong; when the label comes, it was the label before: nearly right."""
    labels = blocks()
    losses = {}
    for model in (STACKER, FORGETFUL):
        with Loop(settings(model=model), tmp_path / model["family"][-5:]) as loop:
            late(loop, labels, 7)  # row 8 is predicted before label 1 comes
            losses[model["family"]] = loop.fold.roster.champion.model.arrays["losses"].tolist()
    wrong, changes = len(labels) - 8, len(labels) // 8 - 1  # the first 8 rows had no label before them: one half
    assert losses[STACKER["family"]] == [8 * 0.25 + wrong, len(labels) * 0.25]
    assert losses[FORGETFUL["family"]] == [0.25 + changes, len(labels) * 0.25]  # it trusts the wrong member


def test_delayed_steps_are_those_of_the_predictions_that_were_given(tmp_path: Path) -> None:
    """Delayed gradient descent, in closed form: w += rate (y - p(w then)) x."""
    columns = table(ROWS)
    with Loop(settings(model=STALE), tmp_path / "home") as loop:
        serve(loop, columns, 0, ROWS, DELAY)
        encoder, champion = loop.fold.encoder, loop.fold.roster.champion.model
        x = [encoder.record(record(columns, row)).dense[0].astype(float).clip(-2, 2) for row in range(ROWS)]
    inputs = [np.append(row, 1.0) for row in x]
    line, said = np.zeros(len(inputs[0])), []
    for row in range(ROWS + DELAY):
        if row < ROWS:
            said.append(float(np.float32(min(max(0.5 + float(sum(line * inputs[row])), 0.0), 1.0))))
        if row >= DELAY:
            judged = row - DELAY
            line = line + RATE * (columns["label"][judged] - said[judged]) * inputs[judged]
    assert champion.arrays["line"].tolist() == line.tolist()


# ---- recorded ------------------------------------------------------------------------------------------------------


def test_the_answer_in_the_log_holds_the_trace(tmp_path: Path) -> None:
    with Loop(settings(model=STACKER), tmp_path / "home") as loop:
        late(loop, [1, 0, 1], 1)
        found = [event.payload for event in loop.log.read(0, 100) if isinstance(event.payload, Prediction)]
        assert [np.frombuffer(one.trace, "<f4").tolist() for one in found] == [[0.5, 0.5], [0.5, 0.5], [1.0, 0.5]]
    with Loop(settings(model=PLAIN), tmp_path / "plain") as loop:
        loop.predict({"a": 1.0}, id="x")
        assert b"trace" not in (tmp_path / "plain" / "log.sqlite").read_bytes()
        (event,) = [event for event in loop.log.read(0, 9) if isinstance(event.payload, Prediction)]
        assert event.payload.trace == b""


def test_a_rebuild_makes_the_traces_that_were_logged(tmp_path: Path) -> None:
    with Loop(settings(model=STALE), tmp_path / "home") as loop:
        serve(loop, table(40), 0, 40, DELAY)
        logged = [event.payload for event in loop.log.read(0, 900) if isinstance(event.payload, Prediction)]
        again = build({"seed": loop.spec.seed, **loop.spec.model}, loop.fold.shape)
        waiting: dict[str, Any] = {}
        middle = next(event.position for event in loop.log.read(0, 900) if getattr(event.payload, "id", "") == "30")
        rebuild(again, loop.log, loop.fold.encoder, loop.spec, 0, middle, nothing, waiting=waiting)
        assert len(waiting) == DELAY + 1  # rows 23 to 30
        assert all(waiting[one.id].tobytes() == one.trace for one in logged if one.id in waiting)


# ---- waiting -------------------------------------------------------------------------------------------------------

CHOICES = [
    pytest.param({"model": STALE}, id="live"),
    pytest.param({"model": {"family": "mix"}}, id="mix"),
    pytest.param({"model": STALE, "mode": "gated"}, id="gated"),
    pytest.param({"model": STALE, "feedback": FeedbackSpec(window=12.0, default=0, correction="importance")}, id="imp"),
    pytest.param({"model": WIDE, "feedback": FeedbackSpec(bytes=6 * EACH, default=0)}, id="evicted"),
    pytest.param({"model": STACKER, "limits": LimitsSpec(clip=0.05, quarantine=0.8)}, id="quarantine"),
    pytest.param({"model": {"family": "gated", "model": STALE, "validation": 600}}, id="gated family"),
]


def events(rows: int = ROWS) -> list[tuple[float, Payload]]:
    return story.traffic()[: 2 * rows]


@pytest.mark.parametrize("changes", CHOICES)
def test_the_state_does_not_depend_on_how_the_log_is_cut(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, *others = [
        Folded(tmp_path / str(size), settings(**changes)).events(events(), size).bytes() for size in (1000, 1, 7)
    ]
    assert any(name.startswith("waiting/trace_") for name in whole)
    for other in others:
        assert [name for name in whole if whole[name] != other.get(name)] == []


@pytest.mark.parametrize("changes", CHOICES)
def test_traces_that_wait_survive_a_restart(tmp_path: Path, changes: dict[str, Any]) -> None:
    expected = Folded(tmp_path / "whole", settings(**changes)).events(events())
    for stop in (60, 113, 200):
        first = Folded(tmp_path / f"first {stop}", settings(**changes)).events(events()[:stop])
        arrays, header = first.fold.state()
        assert len(arrays["waiting/trace_row"])
        resumed = Folded(tmp_path / f"second {stop}", settings(**changes), first.log)
        resumed.versions = resumed.fold._versions = first.versions
        resumed.fold = type(first.fold)(settings(**changes), first.versions, first.log)
        resumed.fold.load({name: array.copy() for name, array in arrays.items()}, header)
        mine, whole = resumed.events(events()[stop:]).bytes(), expected.bytes()
        assert [name for name in whole if whole[name] != mine.get(name)] == []


def test_waiting_traces_are_paid_for(tmp_path: Path) -> None:
    chosen = settings(model=WIDE, feedback=FeedbackSpec(bytes=10 * EACH))
    with Loop(chosen, tmp_path / "home") as loop:
        each = EACH + trace_charge(chosen, 9)
        for row in range(30):
            loop.predict({"a": 1.0 * row}, id=str(row))
        while loop.catch_up():
            pass
        assert loop.fold.pending.nbytes == len(loop.fold.pending) * each <= 10 * EACH
        assert len(loop.fold.pending) == 10 * EACH // each < 10
        assert loop.fold.pending.evicted == 30 - len(loop.fold.pending)


def unknown(trace: list[float] | None) -> bool:
    return trace is None or bool(np.isnan(trace).all())


def test_a_label_without_a_waiting_prediction_comes_without_a_trace(tmp_path: Path) -> None:
    """In time: the trace. A correction, an evicted prediction, a row with its label: NaN, or none at all."""
    with Loop(settings(model=STALE, feedback=FeedbackSpec(bytes=3 * EACH)), tmp_path / "home") as loop:
        for row in range(4):
            loop.predict({"a": 1.0 * row}, id=str(row))
        traced.SAID.clear()
        loop.feedback("3", label=1)
        loop.feedback("3", label=0)
        loop.feedback("0", label=1)
        loop.learn({"a": 1.0}, 0)
        loop.fold.label_queue.test()
        (first, second, third, fourth) = traced.SAID
    assert first == (1.0, [0.5])
    assert [label for label, _ in (second, third, fourth)] == [0.0, 1.0, 0.0]
    assert all(unknown(trace) for _, trace in (second, third, fourth))


# ---- rebuilt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("feedback", FEEDBACK)
def test_a_rebuild_equals_the_fold(tmp_path: Path, feedback: FeedbackSpec, limits: LimitsSpec) -> None:
    with Loop(settings(feedback=feedback, limits=limits, model=STALE), tmp_path / "home") as loop:
        log = story.traffic()[:500]
        half = learned_live(loop, log[:250])
        begin = build(half.spec)
        begin.arrays = {name: array.copy() for name, array in half.arrays.items()}
        middle = loop.fold.cursor["log"]
        expected = learned_live(loop, log[250:])
        assert bytes_of(relearned(loop, nothing)[0]) == bytes_of(expected)
        assert bytes_of(relearned(loop, nothing, after=middle, begin=begin)[0]) == bytes_of(expected)


def test_a_rebuild_from_arrays_of_another_past_has_no_traces_of_it(tmp_path: Path) -> None:
    with Loop(settings(model=STALE), tmp_path / "home") as loop:
        fill(loop, [(0, Prediction("before", {"a": 1.0}, 0, (0.5, 0.5), "v"))])
        middle = loop.fold.cursor["log"]
        fill(loop, [(1, Prediction("behind", {"a": 1.0}, 0, (0.5, 0.5), "v")), (2, Label("before", 1))])
        fill(loop, [(3, Label("behind", 1))])
        begin = build(loop.fold.roster.champion.model.spec)
        begin.arrays = {"line": np.full_like(begin.arrays["line"], 0.25)}
        traced.SAID.clear()
        relearned(loop, nothing, after=middle, begin=begin)
    (before, behind) = traced.SAID
    assert unknown(before[1])
    assert behind[1] == [1.0]  # as of its prediction: 0.5 + 0.25 * (1 + 1)


def test_a_challenger_has_no_traces_of_before_it_began(tmp_path: Path) -> None:
    """It started before any label came, and the labels of earlier predictions come to it with NaN."""
    columns = table(40)
    with Loop(quiet(mode="live", model=LINEAR), tmp_path / "home") as loop:
        for row in range(12):
            loop.predict(record(columns, row), id=str(row))
        loop.challenge(STALE, warm=False)
        start = loop.fold.cursor["log"]
        serve(loop, columns, 12, 40)
        traced.SAID.clear()
        for row in range(12):
            loop.feedback(str(row), label=int(columns["label"][row]))
        assert len(traced.SAID) == 12
        assert all(unknown(trace) for _, trace in traced.SAID)
        challenger = next(one.model for one in loop.fold.roster.contestants if one.model.spec["family"] != "linear")
        again = build(challenger.spec)
        rebuild(again, loop.log, loop.fold.encoder, loop.spec, start, loop.log.end(), nothing)
        assert bytes_of(again) == bytes_of(challenger)


@pytest.mark.parametrize("mode", ["live", "gated"])
def test_a_challenger_that_a_user_promotes_learns_from_its_own_traces(mode: Any, tmp_path: Path) -> None:
    """Its labels come after the promotion; each brings the trace that the challenger made at the prediction."""
    columns = table(40)
    spec = msgspec.structs.replace(quiet(mode=mode, model=LINEAR, challengers=4), gate=GateSpec(minimum=1_000_000))
    with Loop(spec, tmp_path / "home") as loop:
        version = loop.challenge(STALE, warm=False).id
        other = loop.challenge(STALE, warm=False).id
        for row in range(12):
            loop.predict(record(columns, row), id=str(row))
        learners = {one.version: one.uid for one in loop.fold.roster.challengers}
        made = [loop.fold.pending.traces(learners[name]) for name in (version, other)]
        assert all(len(traces) == 12 for traces in made)
        loop.promote(version)
        learns = [one for one in loop.fold.roster.contestants if one.learns and contract.traced(one.model)]
        kept = [loop.fold.pending.traces(one.uid) for one in learns]
        assert len(kept) == 2
        for row in range(12):
            assert all(traces[str(row)].tolist() == made[0][str(row)].tolist() for traces in kept)
        traced.SAID.clear()
        for row in range(12):
            loop.feedback(str(row), label=int(columns["label"][row]))
        assert traced.SAID
        assert not any(unknown(trace) for _, trace in traced.SAID)


def same(loop: Loop, undisturbed: Loop, positions: bool) -> None:
    """As `test_rebuild.same`, with the traces of learners whose uids differ."""
    assert story.learners(loop) == story.learners(undisturbed)
    where = () if positions else ("waiting/position", "early/position", "learner/limits/set_aside")
    if not positions:
        where += ("waiting/trace_steps",)
    mine, theirs = (story.joined(one) for one in (loop, undisturbed))
    assert mine.keys() == theirs.keys()
    assert [n for n in mine if mine[n] != theirs[n] and n not in (*where, "waiting/trace_uid")] == []


@hypothesis(derandomize=True, deadline=None, max_examples=12)
@given(st.sampled_from(["gated", "live"]), story.feedbacks, story.limits, story.stories, story.stories)
def test_without_events_is_as_if_they_had_never_come(
    mode: Any, feedback: FeedbackSpec, bounds: LimitsSpec, drawn: Any, more: Any
) -> None:
    chosen = settings(mode=mode, feedback=feedback, limits=bounds, subject="user", tick=3, model=STALE)
    story.check(chosen, drawn, more, same)


def test_an_erased_prediction_takes_its_trace_along(tmp_path: Path) -> None:
    chosen = settings(model=STALE, subject="user")
    with Loop(chosen, tmp_path / "home") as loop:
        for row in range(6):
            loop.predict({"a": 1.0 * row, "user": "ann" if row % 2 else "zoe"}, id=str(row))
        loop.feedback("0", label=1)
    erase(tmp_path / "home", chosen, {"user": "zoe"}, "asked")
    with Loop(chosen, tmp_path / "home") as loop:
        held = [event.payload for event in loop.log.read(0, 99) if isinstance(event.payload, Prediction)]
        assert [(one.id, len(one.trace)) for one in held] == [("1", 4), ("3", 4), ("5", 4)]
        assert set(loop.fold.pending.traces(loop.fold.roster.champion.uid)) == {"1", "3", "5"}


# ---- several contestants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["gated", "live"])
@pytest.mark.parametrize(("first", "second"), [(LINEAR, STALE), (STALE, LINEAR), (STALE, WIDE), (STACKER, STALE)])
def test_each_contestant_gets_its_own(tmp_path: Path, mode: Any, first: Any, second: Any) -> None:
    """A challenger learns what it would have learned alone, from where it started."""
    columns = table(90)
    with Loop(quiet(mode=mode, model=first), tmp_path / "home") as loop:
        serve(loop, columns, 0, 30)
        loop.challenge(second, warm=False)
        for row in range(30, 90):
            loop.predict(record(columns, row), id=str(row))
            if row >= 40:
                loop.feedback(str(row - 10), label=int(columns["label"][row - 10]))
        learners = [one for one in loop.fold.roster.contestants if one.learns]
        assert len(learners) == 2
        for one, after in zip(learners, (0, 30), strict=True):
            start = next(event.position for event in loop.log.read(0, 999) if getattr(event.payload, "id", "") == "30")
            again = build(one.model.spec)
            rebuild(again, loop.log, loop.fold.encoder, loop.spec, start - 1 if after else 0, loop.log.end(), nothing)
            assert bytes_of(again) == bytes_of(one.model)
            wide = getattr(one.model, "trace", 0)
            held = loop.fold.pending.traces(one.uid)
            assert {trace.shape for trace in held.values()} == ({(1, wide)} if wide else set())
            assert len(held) == (10 if wide else 0)
        widest = max(getattr(one.model, "trace", 0) for one in learners)
        assert loop.fold.pending.each == EACH + trace_charge(loop.spec, widest)
        assert len(loop.fold.pending.steps) == (2 if second is WIDE else 1)


def test_a_wider_challenger_leaves_rebuilds_exact(tmp_path: Path) -> None:
    """The charge grows where the challenger starts, and evictions of a rebuild are those of the fold."""
    feedback = FeedbackSpec(bytes=12 * EACH, default=0)
    with Loop(quiet(mode="live", model=STALE, feedback=feedback), tmp_path / "home") as loop:
        columns = table(90)
        for row in range(90):
            if row == 40:
                loop.challenge(WIDE, warm=False)
            loop.predict(record(columns, row), id=str(row))
            if row >= 10 and row % 3:
                loop.feedback(str(row - 5), label=int(columns["label"][row - 5]))
        steps, champion = loop.fold.pending.steps, loop.fold.roster.champion.model
        assert [width for _, width in steps] == [1, 9]
        again = build(champion.spec)
        rebuild(again, loop.log, loop.fold.encoder, loop.spec, 0, loop.log.end(), nothing, widths=steps)
        assert bytes_of(again) == bytes_of(champion)
        before = dict(loop.fold.state()[0])
        loop.fold.rejoin(lambda event: False, loop.log.end())
        after = loop.fold.state()[0]
        other = [name for name in before if before[name].tobytes() != after[name].tobytes()]
        assert not set(other) - {"waiting/said_uid", "waiting/said_scores"}  # in another order


def test_a_model_without_a_trace_pays_nothing(tmp_path: Path) -> None:
    """Its learn takes three arguments, it is never asked for a trace, and a checkpoint has no array more."""
    with Loop(settings(model=PLAIN), tmp_path / "home") as loop:
        late(loop, [1, 0, 1, 0], 2)
        loop.learn({"a": 1.0}, 1)
        arrays, _ = loop.fold.state()
        assert not [name for name in arrays if "trace" in name]
        assert (loop.fold.pending.each, loop.fold.pending.steps) == (EACH, [])
        traced.CALLS.clear()
        loop.predict({"a": 1.0}, id="x")
        loop.feedback("x", label=1)
        while loop.catch_up():
            pass
        loop.fold.label_queue.test()
        # the answer, once; in the fold the frozen start and the learner, once each; the label, once
        assert traced.CALLS == ["predict 1", "predict 1", "predict 1", "learn 1"]


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raises", "predict_traced raised ValueError: no trace today"),
        ("single", "expected a pair"),
        ("wide", "expected float32"),
        ("double", "returned a trace of float64"),
        ("list", "returned a list as trace"),
        ("infinite", "not finite"),
        ("scores", "returned shape"),
    ],
)
def test_a_challenger_whose_trace_is_wrong_is_withdrawn(tmp_path: Path, fault: str, reason: str) -> None:
    broken = {"family": "tests.support.traced_models:Broken", "fault": fault}
    with Loop(quiet(mode="live"), tmp_path / "home") as loop:
        loop.challenge(broken, warm=False)
        serve(loop, table(40), 0, 40)
        (expelled,) = [one for one in loop.decisions() if one.action == "reject"]
        assert reason in expelled.reason
        assert [one.model.spec["family"] for one in loop.fold.roster.contestants if one.learns] == ["linear"]


def test_a_live_champion_whose_trace_is_wrong_goes_back_however_the_log_is_cut(tmp_path: Path) -> None:
    broken = {"family": "tests.support.traced_models:Broken", "fault": "infinite"}
    stories = []
    for size in (1, 7, 5000):
        with Loop(quiet(mode="live", model=broken), tmp_path / str(size)) as loop:
            for moment, payload in events(60):
                loop.log.append([payload], time=moment)
            while loop.catch_up(size):
                pass
            back = [one for one in loop.decisions() if one.action == "rollback"]
            assert back
            assert all("predict_traced returned a trace with a number that is not finite" in one.reason for one in back)
            arrays, _ = loop.fold.state()
            stories.append(([one.at for one in back], {name: array.tobytes() for name, array in arrays.items()}))
    assert all(other == stories[0] for other in stories[1:])


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("spec", [STALE, WIDE, STACKER, FORGETFUL, {"family": "gated", "model": STALE}], ids=str)
def test_the_families_of_these_tests_keep_the_contract(spec: dict[str, Any], check: Any) -> None:
    whole = traced.BINARY | spec
    check(lambda: build(whole), checks.sample(whole, 60))
