"""The fold without a loop: events and rows in, commits and state out; and how a loop cuts the log for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.feedback.pending import ANSWER, CANARY
from everlearn.loop.fold import Fold
from everlearn.loop.loop import Loop
from everlearn.records import Born, Decision, Example, Examples, Label, Payload, Prediction, Rejected
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, Spec
from tests.support.folds import Folded
from tests.support.loops import FIELDS, record, spec, table
from tests.support.orders import quiet, serve, state


def settings(**changes: Any) -> Spec:
    """A live loop that takes no decision but to start."""
    plain: dict[str, Any] = {"mode": "live", "gate": GateSpec(minimum=1_000_000), "drift": DriftSpec(detector="none")}
    return spec(**(plain | {"checkpoint": 100_000} | changes))


def traffic(rows: int = 120, delay: int = 9) -> list[tuple[float, Payload]]:
    """Predictions whose labels come later, an example now and then."""
    columns = table(rows)
    events: list[tuple[float, Payload]] = []
    for row in range(rows):
        features = {name: columns[name][row] for name in FIELDS}
        events.append((float(row), Prediction(str(row), features, 0, (0.6, 0.4), "v")))
        if row >= delay and row % 4:
            events.append((float(row), Label(str(row - delay), int(columns["label"][row - delay]), 1.0, "web")))
        if row % 10 == 3:
            events.append((float(row), Example(f"e{row}", features, int(columns["label"][row]))))
    return events


CHOICES = [
    pytest.param({}, id="plain"),
    pytest.param({"mode": "gated"}, id="gated"),
    pytest.param({"feedback": FeedbackSpec(window=12.0, default=0, correction="importance")}, id="importance"),
    pytest.param({"limits": LimitsSpec(clip=0.05, source=0.5, window=30, quarantine=0.8)}, id="limits"),
    pytest.param({"drift": DriftSpec(detector="adwin", watch="proba", grace_period=20)}, id="watched"),
    pytest.param({"checkpoint": 7, "tick": 5, "gate": GateSpec(minimum=10)}, id="decisions"),
]


@pytest.mark.parametrize("changes", CHOICES)
def test_the_state_does_not_depend_on_how_the_log_was_cut(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = Folded(tmp_path / "whole", settings(**changes)).events(traffic())
    for size in (1, 7):
        part = Folded(tmp_path / str(size), settings(**changes), whole.log).events([], size)
        assert part.bytes() == whole.bytes()
        assert [commit.at for commit in part.commits] == [commit.at for commit in whole.commits]


@pytest.mark.parametrize("changes", CHOICES)
def test_a_fold_continues_from_its_state(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = Folded(tmp_path / "whole", settings(**changes)).events(traffic())
    half = Folded(tmp_path / "half", settings(**changes), whole.log)
    half.take(half.fold.events(whole.log.read(0, 150)))
    arrays, header = half.fold.state()
    again = Fold(settings(**changes), half.versions, whole.log)
    again.load({name: array.copy() for name, array in arrays.items()}, header)
    half.fold = again
    half.take(half.fold.events(whole.log.read(again.cursor["log"], 1000)))
    assert half.bytes() == whole.bytes()


WEIGHTED = [
    pytest.param({"mode": mode, "tick": 5, "checkpoint": 7, "gate": GateSpec(minimum=10), "drift": drift}, id=mode)
    for mode, drift in (("live", DriftSpec(grace_period=20)), ("gated", DriftSpec(grace_period=30)))
]


def weighted(rows: int = 160) -> list[tuple[float, Payload]]:
    """The same traffic with several weights; every third label and example weighs nothing, and is wrong."""
    events: list[tuple[float, Payload]] = []
    for number, (moment, payload) in enumerate(traffic(rows)):
        weight = (0.0, 1.0, 0.25, 0.0, 3.0, 40.0)[number % 6] if number > 40 else 1.0 - (number % 3 == 0)
        if isinstance(payload, Label):
            label = int(payload.value) if weight else 1 - int(payload.value)
            payload = Label(payload.id, label, weight, payload.source)
        elif isinstance(payload, Example):
            label = int(payload.label) if weight else 1 - int(payload.label)
            payload = Example(payload.id, payload.features, label, weight)
        events.append((moment, payload))
    return events


@pytest.mark.parametrize("changes", WEIGHTED)
def test_weighted_rows_leave_the_same_state_however_the_log_was_cut(tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = Folded(tmp_path / "whole", settings(**changes)).events(weighted())
    assert "learner/weights" in whole.bytes()
    for size in (1, 7):
        part = Folded(tmp_path / str(size), settings(**changes), whole.log).events([], size)
        assert part.bytes() == whole.bytes()


@pytest.mark.parametrize("changes", WEIGHTED)
def test_labels_of_weight_0_leave_the_bytes_and_decisions_of_a_log_without_them(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    given = weighted()
    without: list[tuple[float, Payload]] = [
        (at, Rejected("gone", i, "", "") if isinstance(one, Label | Example) and not one.weight else one)
        for i, (at, one) in enumerate(given)
    ]
    assert given != without
    one, other = Folded(tmp_path / "a", settings(**changes)), Folded(tmp_path / "b", settings(**changes))
    mine, theirs = one.events(given).bytes(), other.events(without).bytes()
    unlike = [name for name in mine if mine[name] != theirs[name] and not name.startswith("waiting/")]
    assert set(unlike) <= {"header"}  # which counts the rows of streams, too
    assert [commit.payloads for commit in one.commits] == [commit.payloads for commit in other.commits]
    assert len(one.fold.pending) < len(other.fold.pending)  # such a label settles its prediction


@pytest.mark.parametrize("delay", [1, 9, 60])
@pytest.mark.parametrize("mode", ["live", "gated"])
def test_baselines_know_the_labels_folded_before_each_prediction(tmp_path: Path, mode: Any, delay: int) -> None:
    events = traffic(400, delay)
    champion = Folded(tmp_path, settings(mode=mode)).events(events).fold.monitor.report()
    known: list[int] = []
    answers: dict[str, tuple[int, int]] = {}
    hits: list[tuple[bool, bool]] = []

    def judge(id: str, label: Any) -> None:
        last, most = answers.pop(id)
        hits.append((last == label, most == label))

    for _, payload in events:
        if isinstance(payload, Prediction | Example):
            answers[payload.id] = known[-1] if known else -1, int(2 * sum(known) > len(known))
        if isinstance(payload, Example):
            judge(payload.id, payload.label)
        if isinstance(payload, Label):
            judge(payload.id, payload.value)
        if isinstance(payload, Label | Example):
            known.append(int(payload.value if isinstance(payload, Label) else payload.label))
    last, most = np.mean(hits, axis=0)
    accuracy = champion["champion"]["accuracy"]
    assert champion["last_label"]["examples"] == champion["champion"]["examples"] == len(hits)
    assert champion["last_label"]["accuracy"] == pytest.approx(last)
    assert champion["majority"]["accuracy"] == pytest.approx(most)
    assert champion["champion"]["kappa_t"] == pytest.approx((accuracy - last) / (1 - last))
    assert champion["champion"]["kappa_m"] == pytest.approx((accuracy - most) / (1 - most))


def test_the_first_prediction_starts_the_loop(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings())
    assert not folded.fold.started
    assert folded.fold.canary is None
    folded.events(traffic(1))
    assert folded.fold.started
    (commit,) = folded.commits
    assert [one.action for one in commit.payloads if isinstance(one, Decision)] == ["start", "start"]
    assert len(folded.fold.pending) == 1


def test_warm_rows_are_learned_before_anything_starts(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings(warm_start=5.0))
    rows = [(float(row), Example(str(row), {"a": 1.0 * row, "b": 0.0, "c": "c1"}, row % 2)) for row in range(5)]
    folded.events(rows)
    assert (folded.fold.started, folded.fold.monitor.scored, folded.commits) == (False, 0, [])
    folded.events([(9.0, Example("next", {"a": 1.0, "b": 0.0, "c": "c1"}, 1))])
    assert (folded.fold.started, folded.fold.monitor.scored) == (True, 1)
    assert "trained offline on 5 rows" in folded.versions.list()[0].reason
    majority = folded.fold.monitor.report()["majority"]  # it knows two labels of 1 among the five
    assert majority["log_loss"] == pytest.approx(-np.log(3 / 7))


def test_rows_and_events_keep_cursors_apart(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings())
    columns = table(30)
    batch, problems = folded.fold.encoder.columns({name: columns[name] for name in FIELDS}, 30)
    assert problems == []
    examples = Examples(batch, columns["label"].astype(float), np.ones(30, np.float32), np.arange(1, 31))
    folded.take(folded.fold.examples(examples, "row"))
    folded.fold.cursor["row"] = 30
    folded.events(traffic(3))
    assert folded.fold.cursor == {"row": 30, "log": folded.log.end()}
    assert folded.fold.monitor.scored == 30


def test_events_that_no_model_can_use_are_counted(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings())
    odd: list[Payload] = [
        Prediction("p", {"a": "far"}, 0, (0.5, 0.5), "v"),
        Example("x", {"a": 1.0}, "maybe"),
        Label("p", "maybe"),
        Prediction("q", {"a": 1.0}, 0, (0.5, 0.5), "v"),
    ]
    folded.events([(0.0, one) for one in odd])
    assert folded.fold.unusable == 3
    assert len(folded.fold.pending) == 1


def test_a_checkpoint_is_due_after_so_many_events(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings(checkpoint=10)).events(traffic(40))
    empty = [commit.at for commit in folded.commits if not commit.payloads]
    counted = sum(isinstance(one, Prediction) for _, one in traffic(40)) + folded.fold.monitor.scored
    assert len(empty) == counted // 10


def test_guards_and_default_labels_must_fit_the_schema(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gate.guards: got 'recall:2'; expected 'recall:CLASS'"):
        Folded(tmp_path, settings(gate=GateSpec(guards={"recall:2": 0.1})))
    with pytest.raises(ConfigError, match="feedback.default: "):
        Folded(tmp_path, settings(feedback=FeedbackSpec(window=1.0, default="maybe")))


def test_a_label_of_a_canarys_answer_is_judged_by_that_answer_and_scored_as_the_champions(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings(mode="gated", limits=LimitsSpec(quarantine=0.9)))
    features = {"a": 1.0, "b": 0.0, "c": "c1"}
    folded.events([(0.0, Prediction("p", features, 1, (0.1, 0.9), "v", canary=True))])
    waiting = folded.fold.pending.take("p")
    assert waiting is not None
    assert waiting.predictions[CANARY].tolist() == np.array([[0.1, 0.9]], np.float32).tolist()
    assert waiting.predictions[ANSWER].tolist() == waiting.predictions[folded.fold.roster.champion.uid].tolist()


def test_labels_that_a_rollback_left_out_stay_absent_after_a_restart(tmp_path: Path) -> None:
    folded = Folded(tmp_path, settings(feedback=FeedbackSpec(window=12.0, default=0, correction="importance")))
    folded.take(folded.fold.start(0))
    folded.events(traffic(40))
    order = Decision(
        "order", 0, "bad", "user", detail={"order": "one", "ask": "rollback", "without": {"source": "web"}}
    )
    assert folded.fold.joiner.correction is not None
    before = folded.fold.joiner.correction.share
    for commit in folded.commits:
        folded.log.append([one for one in commit.payloads if isinstance(one, Born | Decision)])
    folded.events([(50.0, order)])
    assert folded.commits[-1].payloads[-1].action == "rollback"  # type: ignore[union-attr]
    assert folded.fold.joiner.correction.share == 0.5 != before  # no positive label came
    again = Fold(folded.fold.spec, folded.versions, folded.log)
    again.load(*folded.fold.state())
    labels = [event for event in folded.log.read() if isinstance(event.payload, Label)]
    assert labels
    assert all(again.is_left_out(event) for event in labels)


# ---- limits, early labels and corrections, in a loop ---------------------------------------------------------------


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


def test_single_rows_wait_to_be_scored_until_they_are_read(tmp_path: Path) -> None:
    watched = Folded(tmp_path / "watched", settings(tick=50)).events(traffic(), 1)
    quiet = Folded(tmp_path / "quiet", settings(tick=50), watched.log).events([], 1)
    assert quiet.fold.label_queue._learned
    scored = quiet.fold.monitor.scored
    assert not quiet.fold.label_queue._learned
    assert scored == watched.fold.monitor.scored > 0
    assert watched.fold.roster.champion.version == quiet.fold.roster.champion.version
    assert watched.bytes() == quiet.bytes()
