"""A loop decides by a rule: what was decided is judged, thresholds travel, and state does not depend on the pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn.errors import ConfigError
from everlearn.feedback.pending import ANSWER, CANARY, charge, decision
from everlearn.gate.policy import Restart
from everlearn.learn.decision_rules import DecisionRules
from everlearn.learn.thresholds import THRESHOLD
from everlearn.loop.erase import erase
from everlearn.loop.fold import Fold
from everlearn.loop.loop import Loop
from everlearn.loop.replay_log import replay_log
from everlearn.loop.transitions import apply
from everlearn.loop.versioning import Moment
from everlearn.records import Example, Examples, Label, Payload, Prediction
from everlearn.schema import shape
from everlearn.serve.contestant import Contestant, Progress
from everlearn.spec import DecisionSpec, FeedbackSpec, GateSpec, Schema, Spec
from everlearn.stream import read
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions
from tests.support.loops import FIELDS, bytes_of, record, spec, table
from tests.support.models import Mean, examples

COSTS = {"1": {"0": 10.0}, "0": {"1": 1.0}}
RULES = {"costs": DecisionSpec(costs=COSTS), "rate": DecisionSpec(rate=0.2), "recall": DecisionSpec(recall=0.9)}
ROWS = 300


def chosen(rule: DecisionSpec, mode: str = "gated", **changes: Any) -> Spec:
    return spec(mode=mode, decision=rule, **changes)


def filled(home: Path, settings: Spec, rows: int = ROWS, delay: int = 30, size: int = 1) -> Loop:
    """Predictions, labels that come `delay` later, and examples; folded in reads of `size` events."""
    columns, events = table(rows), list[Payload]()
    for row in range(rows):
        features = record(columns, row)
        value, proba = int(row % 3 == 0), (0.7, 0.3)
        events.append(Prediction(str(row), features, value, proba, "v", canary=row % 50 == 9))
        if row >= delay and row % 5:
            events.append(Label(str(row - delay), int(columns["label"][row - delay])))
        if row % 10 == 3:
            events.append(Example(f"e{row}", features, int(columns["label"][row])))
    loop = Loop(settings, home, clock=lambda: 1e6)
    loop.ready()
    for moment, payload in enumerate(events):
        loop.log.append([payload], time=1e6 + moment)
        if size == 1:
            loop.catch_up()
    while loop.catch_up(size):
        pass
    return loop


def threshold(loop: Loop, contestant: Contestant) -> float:
    return loop.fold.monitor.rules.stored(contestant)["threshold"]


@pytest.mark.parametrize("mode", ["live", "gated"])
@pytest.mark.parametrize("name", RULES)
def test_events_one_by_one_and_together_leave_the_same_bytes(name: str, mode: str, tmp_path: Path) -> None:
    with filled(tmp_path / "a", chosen(RULES[name], mode)) as one:
        again = replay_log(one.log, Versions(Blobs(tmp_path / "blobs")))
        found = {key: array.tobytes() for key, array in again.state()[0].items()}
        assert found == bytes_of(one)
        assert {int(key.split("/")[3]) for key in found if key.endswith("/rule")} == {
            contestant.uid for contestant in one.fold.roster.contestants
        }
        assert sum(key.startswith("learner/decisions/table/") for key in found) == 5


@pytest.mark.parametrize("name", RULES)
def test_a_loop_that_is_closed_now_and_then_goes_on_with_the_same_bytes(name: str, tmp_path: Path) -> None:
    columns, settings = table(250), chosen(RULES[name])

    def serve(loop: Loop, first: int, last: int) -> None:
        for row in range(first, last):
            loop.predict(record(columns, row), id=str(row))
            if row >= 25:
                loop.feedback(str(row - 25), label=int(columns["label"][row - 25]))

    with Loop(settings, tmp_path / "a", clock=lambda: 1e6) as whole:
        serve(whole, 0, 250)
        expected = bytes_of(whole)
    for first in range(0, 250, 57):
        with Loop(settings, tmp_path / "b", clock=lambda: 1e6) as loop:
            serve(loop, first, min(first + 57, 250))
            got = bytes_of(loop)
    unlike = {key for key in expected if got[key] != expected[key]}
    assert unlike <= {
        "learner/memory/counters",
        "learner/counted/positions",
        "learner/decisions/versions",  # ids, which name positions
        "learner/memory/position",
        "waiting/position",
    }  # checkpoints are events


@pytest.mark.parametrize("name", RULES)
def test_rows_of_a_file_in_pieces_leave_the_same_bytes(name: str, tmp_path: Path) -> None:
    columns, settings = table(500), chosen(RULES[name], "live")
    with Loop(settings, tmp_path / "a") as whole:
        whole.run(read(columns, schema=settings.schema))
        expected, report = bytes_of(whole), whole.report()["metrics"]["champion"]
    with Loop(settings, tmp_path / "b") as loop:
        for row in range(500):
            loop.learn(record(columns, row), int(columns["label"][row]))
        got, singly = bytes_of(loop), loop.report()["metrics"]["champion"]
    assert singly == report
    unlike = {key for key in expected if key.startswith("learner/decisions/") and got[key] != expected[key]}
    assert unlike <= {"learner/decisions/versions"}  # ids hold positions


def test_a_late_label_judges_what_was_decided_at_the_prediction(tmp_path: Path) -> None:
    """The logged value counts for the champion, whatever the threshold is by now; a canary's does not."""
    with filled(tmp_path, chosen(RULES["costs"], "live")) as loop:
        log = loop.log.read(0, 10_000)
        given = {event.payload.id: event.payload for event in log if isinstance(event.payload, Prediction)}
        labels = [event.payload for event in log if isinstance(event.payload, Label)]
        table_of = np.zeros((2, 2))
        for label in labels:
            if not given[label.id].canary:
                table_of[int(label.value), int(given[label.id].value)] += 1
        judged = loop.fold.monitor.rules.tables["champion"]
        canaries = sum(given[label.id].canary for label in labels)
        examples_ = loop.log.count("example")
        assert judged.sum() == len(labels) + examples_
        assert (judged - table_of >= 0).all()
        assert judged.sum() - table_of.sum() == canaries + examples_


def test_every_naive_baseline_has_a_cost(tmp_path: Path) -> None:
    times = ["2026-01-01T00:00:00", "2026-01-02T00:00:00", "2026-01-03T00:00:00"] * 40
    columns = {"x": [0.0, 1.0] * 60, "when": times, "y": [0, 1, 1] * 40}
    schema = Schema(label="y", task="binary", classes=(0, 1), fields={"x": "numeric", "when": "datetime"})
    with Loop(Spec(schema=schema, model={"family": "linear"}, decision=RULES["costs"]), tmp_path) as loop:
        loop.run(read(columns, schema=schema))
        found = loop.report()["metrics"]
    assert {"last_label", "majority", "seasonal"} < found.keys()
    assert all("cost" in found[name] for name in found if name != "frozen"), found


def test_the_decision_of_each_contestant_waits_with_its_scores(tmp_path: Path) -> None:
    with filled(tmp_path, chosen(RULES["recall"]), rows=120, delay=100) as loop:
        waiting = loop.fold.pending.take("119")
        assert waiting is not None
        scores = waiting.predictions
        assert scores[decision(ANSWER)].tolist() == [[1.0, 0.0]]  # 119 % 3 is not 0
        for contestant in loop.fold.roster.contestants:
            least = threshold(loop, contestant)
            assert scores[decision(contestant.uid)][0].argmax() == int(scores[contestant.uid][0, 1] >= least)
        other = loop.fold.pending.take("109")
        assert other is not None
        assert CANARY in other.predictions
        assert other.predictions[decision(CANARY)].tolist() == [[1.0, 0.0]]
        champion = loop.fold.roster.champion.uid
        assert other.predictions[decision(ANSWER)].tolist() == other.predictions[decision(champion)].tolist()


def test_a_version_carries_its_threshold_and_takes_it_back(tmp_path: Path) -> None:
    with filled(tmp_path, chosen(RULES["recall"], "live", gate=GateSpec(minimum=10_000))) as loop:
        began, roster, rules = loop.versions()[0], loop.fold.roster, loop.fold.monitor.rules
        now = threshold(loop, roster.champion)
        assert now != 0.5
        loop.rollback(to=began.id)
        left = loop.versions()[-1]
        assert left.metrics["threshold"] == now
        assert left.metrics["threshold_for_recall"] == 0.9
        assert threshold(loop, roster.champion) != now
        loop.promote(left.id)
        assert threshold(loop, roster.champion) == now
        served = loop.ready()
        assert served.rule is not None
        assert served.rule.tolist() == [now]
        given = loop.predict(record(table(50), 3))
        assert given.value == int(given.proba[1] >= now)
        stored = rules.rule(roster.champion)
        assert stored is not None
        stored[0] = 9.0  # a copy
        assert threshold(loop, roster.champion) == now


def test_new_contestants_take_over_the_rule_of_their_version() -> None:
    found = {"threshold": 0.3, "threshold_for_rate": 0.2}
    other = {"threshold": 0.3, "threshold_for_rate": 0.5}

    def find(id: str) -> Any:
        return type("Stored", (), {"metrics": {"a": found, "b": other}.get(id, {})})

    rules = DecisionRules(chosen(RULES["rate"]), 2, [], find)

    def starts(contestant: Contestant) -> float:
        held = rules.rule(contestant)
        assert held is not None
        return float(held[0])

    frozen, learner = Contestant(1, "c", Mean(), False), Contestant(2, "c", Mean(), True)
    scores = np.random.default_rng(0).dirichlet([1, 1], 200).astype(np.float32)
    rules.decide([frozen, learner], {1: scores, 2: scores**2 / (scores**2).sum(1, keepdims=True)})
    assert starts(frozen) != starts(learner) != 0.5
    assert starts(Contestant(3, "a", Mean(), False)) == 0.3  # stored with its version
    assert starts(Contestant(4, "b", Mean(), False)) == 0.5  # stored for another rate
    assert starts(Contestant(5, "c", Mean(), True)) == starts(frozen)  # revived as that version
    snapshot = Contestant(6, "c", Mean(), False, learned=Progress(9, 0))
    assert starts(snapshot) == starts(learner)
    rules.begin_again(learner)
    assert starts(learner) == 0.5


def test_the_gate_guards_the_recall_of_decisions() -> None:
    rules = DecisionRules(chosen(RULES["costs"]), 2, [])
    rows, one = examples(4), Contestant(1, "v", Mean(), False)
    scores = np.array([[0.95, 0.05], [0.8, 0.2], [0.6, 0.4], [0.1, 0.9]], np.float32)
    predictions = {1: scores} | rules.decide([one], {1: scores})
    assert rules.judged(predictions, 1).argmax(1).tolist() == [0, 1, 1, 1]  # 1 / 11, not one half
    assert rules.judged({1: scores}, 1) is scores  # predictions from before there was a rule
    assert isinstance(rows, Examples)


def test_costs_of_more_classes_are_decided_without_a_threshold(tmp_path: Path) -> None:
    schema = Schema(label="label", task="multiclass", classes=(0, 1, 2), fields=FIELDS, bits=10)
    costs = {"2": {"0": 30.0, "1": 10.0}, "1": {"0": 2.0}, "0": {"1": 1.0, "2": 1.0}}
    columns, draw = table(400), np.random.default_rng(0)
    labels = columns["label"] + (draw.random(400) < 0.1)
    with Loop(chosen(DecisionSpec(costs=costs), "live", schema=schema), tmp_path) as loop:
        paid, table_of = 0.0, np.array([[0, 1, 1], [2, 0, 0], [30, 10, 0.0]])
        for row in range(400):
            given = loop.predict(record(columns, row), id=str(row))
            assert given.value == int(np.argmin(np.array(given.proba, np.float64) @ table_of))
            paid += table_of[labels[row], int(given.value)]
            loop.feedback(str(row), label=int(labels[row]))
        report = loop.report()["metrics"]
        assert report["champion"]["cost"] == pytest.approx(paid / 400)
        assert report["majority"]["cost"] > report["champion"]["cost"] > 0
        assert not any(name.endswith("/rule") for name in bytes_of(loop))


def test_costs_lower_what_the_likeliest_class_costs(tmp_path: Path) -> None:
    columns = table(2000)
    with Loop(chosen(RULES["costs"], "live"), tmp_path) as loop:
        report = loop.run(read(columns, schema=loop.spec.schema))["metrics"]
    rate = report["champion"]["decided_positive"]
    assert report["champion"]["cost"] < min(report["majority"]["cost"], report["last_label"]["cost"])
    assert report["champion"]["decision_recall"] > report["champion"]["recall"]
    assert 0 < rate < 1


def test_a_rate_is_kept_without_any_labels(tmp_path: Path) -> None:
    columns = table(1500)
    with Loop(chosen(RULES["rate"], "live"), tmp_path) as loop:
        loop.run(read({name: column[:300] for name, column in columns.items()}, schema=loop.spec.schema))
        values = [loop.predict(record(columns, row)).value for row in range(300, 1500)]
    assert np.mean(values) == pytest.approx(0.2, abs=0.04)


def test_changed_costs_count_at_once_and_for_the_past(tmp_path: Path) -> None:
    filled(tmp_path, chosen(RULES["costs"], "live")).close()
    dear = DecisionSpec(costs={"1": {"0": 100.0}, "0": {"1": 1.0}})
    with Loop(chosen(dear, "live"), tmp_path) as loop:
        rules = loop.fold.monitor.rules
        assert threshold(loop, loop.fold.roster.champion) < 1 / 11
        counts = rules.tables["champion"]
        cost = loop.report()["metrics"]["champion"]["cost"]
        assert cost == pytest.approx((counts * [[0, 1], [100, 0]]).sum() / counts.sum())
    with Loop(chosen(RULES["rate"], "live"), tmp_path) as loop:  # another rule starts again
        assert threshold(loop, loop.fold.roster.champion) == 0.5
    with Loop(chosen(DecisionSpec(), "live"), tmp_path) as loop:
        assert "cost" not in loop.report()["metrics"]["champion"]
        assert loop.ready().rule is None
        assert not any("decisions/" in name for name in bytes_of(loop))


def test_predictions_from_before_the_rule_are_not_judged_by_it(tmp_path: Path) -> None:
    columns = table(200)
    with Loop(chosen(DecisionSpec(), "live"), tmp_path) as loop:
        for row in range(100):
            loop.predict(record(columns, row), id=str(row))
    with Loop(chosen(RULES["costs"], "live"), tmp_path) as loop:
        for row in range(100):
            loop.feedback(str(row), label=int(columns["label"][row]))
        assert loop.fold.monitor.scored == 100
        assert loop.fold.monitor.rules.tables["champion"].sum() == 0
        loop.predict(record(columns, 150), id="150")
        loop.feedback("150", label=1)
        assert loop.fold.monitor.rules.tables["champion"].sum() == 1


def test_decisions_that_wait_are_charged() -> None:
    plain, ruled = spec(), chosen(RULES["rate"])
    more = charge(ruled, shape(ruled.schema)) - charge(plain, shape(plain.schema))
    contestants = 3 + 2 * plain.challengers + 2
    assert more == contestants * (200 + 4 * 2)


def test_a_default_loop_keeps_nothing_of_it(tmp_path: Path) -> None:
    with filled(tmp_path, spec()) as loop:
        assert not loop.fold.monitor.rules
        assert loop.ready().rule is None
        assert not any("decisions/" in name for name in bytes_of(loop))
        assert not any("threshold" in version.metrics for version in loop.versions())
        assert "decided_positive" not in loop.report()["metrics"]["champion"]


def test_a_rule_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"decision.costs: got the class 'fraud'; expected one of 0, 1"):
        Loop(chosen(DecisionSpec(costs={"fraud": {"0": 1.0}})), tmp_path)


def test_decisions_that_wait_survive_an_erasure(tmp_path: Path) -> None:
    settings = chosen(RULES["recall"], "live", subject="who")
    columns = table(200)
    with Loop(settings, tmp_path, clock=lambda: 1e6) as loop:
        for row in range(200):
            loop.predict(record(columns, row) | {"who": f"p{row % 20}"}, id=str(row))
            if row >= 40:
                loop.feedback(str(row - 40), label=int(columns["label"][row - 40]))
        before = {id: one.predictions for id, one in loop.fold.pending._waiting.items()}
        least = threshold(loop, loop.fold.roster.champion)
    erase(tmp_path, settings, {"who": "p7"}, "asked for")
    with Loop(settings, tmp_path, clock=lambda: 1e6) as loop:
        after = {id: one.predictions for id, one in loop.fold.pending._waiting.items()}
        assert after.keys() == {id for id in before if int(id) % 20 != 7}
        assert all(scores.keys() == before[id].keys() for id, scores in after.items())
        assert all(scores[uid].tolist() == before[id][uid].tolist() for id, scores in after.items() for uid in scores)
        assert threshold(loop, loop.fold.roster.champion) == least
        loop.feedback("199", label=1)


def test_a_rollback_without_labels_takes_the_threshold_of_its_version(tmp_path: Path) -> None:
    with filled(tmp_path, chosen(RULES["recall"], "live", gate=GateSpec(minimum=10_000))) as loop:
        began, columns = loop.versions()[0], table(40)
        for row in range(40):
            loop.learn(record(columns, row), 1 - int(columns["label"][row]), source="bad")
        loop.rollback(without={"source": "bad"}, to=began.id)
        assert loop.fold.roster.champion.version == began.id
        assert threshold(loop, loop.fold.roster.champion) == 0.5
        assert loop.predict(record(columns, 1)).value == int(loop.predict(record(columns, 1)).proba[1] >= 0.5)


def test_a_reset_challenger_forgets_its_threshold(tmp_path: Path) -> None:
    with filled(tmp_path, chosen(RULES["recall"]), rows=300) as loop:
        challenger = loop.fold.roster.challenger
        before, uid = threshold(loop, challenger), challenger.uid
        moment = Moment(loop.position, Progress(loop.position, 0))
        apply(Restart(uid), loop.fold.transitions._context, moment)
        assert (threshold(loop, challenger), challenger.uid != uid) == (0.5, True)
        assert before != 0.5
        again = Fold(loop.spec, loop.home.versions, loop.log)  # before the next prediction
        again.load(*loop.fold.state())
        assert {name: array.tobytes() for name, array in again.state()[0].items()} == bytes_of(loop)


def test_the_decisions_of_default_labels_are_judged_too(tmp_path: Path) -> None:
    feedback = FeedbackSpec(window=40.0, default=0)
    with filled(tmp_path, chosen(RULES["costs"], "live", feedback=feedback)) as loop:
        judged = loop.fold.monitor.rules.tables["champion"]
        assert judged.sum() == loop.fold.monitor.scored
        assert loop.fold.monitor.rules._rules[loop.fold.roster.champion.uid]["rule"][THRESHOLD] >= 0
