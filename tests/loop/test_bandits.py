"""A loop that chooses actions: it learns from logged rows and from late rewards, and survives all that a loop does."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everlearn import config
from everlearn.config import default_model
from everlearn.errors import ConfigError, IdTaken, InputError
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import rebuild
from everlearn.loop.rebuild_home import rebuild_home
from everlearn.model import build
from everlearn.records import Event, Prediction, Reward
from everlearn.schema import shape
from everlearn.spec import BanditSpec, DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, Spec
from everlearn.stream import read
from tests.support.bandits import ACTIONS, LOG, contexts, record, reward, schema, spec, table, truth
from tests.support.kills import check
from tests.support.loops import bytes_of

ROWS = 700
LATE = np.random.default_rng(8).integers(1, 60, ROWS)  # rows after which each reward comes: shuffled, and late


def quiet(**changes: Any) -> Spec:
    """A loop that learns, and takes no decision but to start."""
    plain = {"gate": GateSpec(minimum=1_000_000), "drift": DriftSpec(detector="none"), "checkpoint": 100_000}
    return spec(**(plain | changes))


def live_through(loop: Loop, rows: int = ROWS, first: int = 0) -> list[Prediction]:
    """Predict row after row; the reward of each comes late, and out of order. What is in the log is not sent again."""
    found, given = contexts(ROWS), []
    for row in range(rows + 60):
        if first <= row < rows:
            given.append(loop.predict(record(found[row]), id=str(row)))
        for judged in (back for back in range(max(row - 60, first), min(row, rows)) if back + LATE[back] == row):
            held = loop.log.find(f"prediction:{judged}")
            assert held is not None
            assert isinstance(held.payload, Prediction)
            action = str(held.payload.value)
            loop.feedback(str(judged), reward=reward(found[judged], action, judged))
    return given


def mean_truth(given: list[Prediction]) -> float:
    found = contexts(ROWS)
    return float(np.mean([truth(found[int(one.id)], str(one.value)) for one in given]))


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_is_an_action_with_the_propensity_that_the_log_keeps(tmp_path: Path) -> None:
    with Loop(quiet(), tmp_path / "home") as loop:
        given = loop.predict({"x": 1.0, "z": 0.0}, id="a")
        assert given.value in ACTIONS
        assert given.propensity == given.proba[ACTIONS.index(str(given.value))]
        assert sum(given.proba) == pytest.approx(1.0)
        event = loop.log.find("prediction:a")
        assert event is not None
        assert event.payload == given
        assert loop.predict({"x": 1.0, "z": 0.0}, id="a") == given
        with pytest.raises(IdTaken):
            loop.predict({"x": 2.0, "z": 0.0}, id="a")
        only = [loop.predict({"x": 1.0}, actions=["left", {"name": "right"}]) for _ in range(30)]
        assert {one.value for one in only} == {"left", "right"}
        assert only[0].features == {"x": 1.0, "actions.middle.available": False}
        with pytest.raises(InputError, match="the loop chooses the action"):
            loop.predict({"x": 1.0, "action": "left"})


def test_rewards_out_of_range_stay_out_of_the_log(tmp_path: Path) -> None:
    with Loop(quiet(), tmp_path / "home") as loop:
        id = loop.predict({"x": 1.0}).id
        for wrong in (1.5, -0.1):
            with pytest.raises(InputError, match="expected 0 to 1"):
                loop.feedback(id, reward=wrong)
        assert loop.log.count("reward") == 0
        assert loop.fold.roster.champion.model.arrays["learned"] == 0
        loop.feedback(id, reward=1.0)
        assert loop.fold.roster.champion.model.arrays["learned"] == 1


def test_frames_answer_with_actions_and_propensities(tmp_path: Path) -> None:
    with Loop(quiet(), tmp_path / "home") as loop:
        found = loop.predict_many({"x": [1.0, 2.0], "z": [0.0, 0.0], "actions.left.available": [True, False]})
        assert set(found) == {"id", "value", "version", "propensity", *(f"proba_{name}" for name in ACTIONS)}
        assert found["proba_left"][1] == 0.0
        assert found["propensity"] == [found[f"proba_{value}"][row] for row, value in enumerate(found["value"])]


# ---- learning --------------------------------------------------------------------------------------------------------


def test_late_and_shuffled_rewards_beat_the_best_constant_action(tmp_path: Path) -> None:
    with Loop(spec(model={"family": "bandit"}), tmp_path / "home") as loop:
        given = live_through(loop)
        found = loop.report()["bandit"]
    assert mean_truth(given[300:]) > 0.65  # the best constant action earns 0.5, the best policy 0.8
    assert found["policies"]["champion"]["low"] > 0.5
    assert found["policies"]["uniform"]["low"] < 0.47 < found["policies"]["uniform"]["high"]  # the truth
    assert sum(one["served"] for one in found["actions"]) == ROWS
    assert found["served"]["low"] < found["served"]["value"] < found["served"]["high"]
    assert found["served"]["rows"] == ROWS


def test_a_logged_file_is_learned_first_and_then_served(tmp_path: Path) -> None:
    with Loop(spec(model={"family": "bandit"}), tmp_path / "home") as loop:
        result = loop.run(read(table(900), schema=loop.spec.schema))
        assert (result["examples"], result["rejected"]) == (900, 0)
        policies = result["bandit"]["policies"]
        assert policies["best constant"]["action"] == "middle"
        assert policies["champion"]["value"] > policies["best constant"]["value"]  # in hindsight of the log alone
        assert [one["share"] for one in result["bandit"]["actions"]] == pytest.approx(LOG.tolist(), abs=0.06)
        assert mean_truth(live_through(loop, 300)) > 0.65  # from the first answer on


def test_a_file_without_propensities_is_refused_unless_it_says_how_it_chose(tmp_path: Path) -> None:
    columns = {name: values for name, values in table(200).items() if name != "propensity"}
    with Loop(quiet(), tmp_path / "home") as loop:
        with pytest.raises(InputError, match='set that to "uniform" if all actions had the same'):
            loop.run(read(columns, schema=loop.spec.schema))
        holes = {**columns, "propensity": [0.5] * 150 + [None] * 50}
        assert loop.run(read(holes, schema=loop.spec.schema))["rejected"] == 50
        assert "expected the probability with which the action was chosen" in next(iter(loop.rejected())).reason
        with pytest.raises(ConfigError, match="actions were taken already"):
            loop.run(read(table(20), schema=loop.spec.schema), delay=5)
    with Loop(quiet(schema=schema(propensity="uniform")), tmp_path / "uniform") as loop:
        result = loop.run(read(columns, schema=loop.spec.schema))
        assert result["rejected"] == 0
        assert result["bandit"]["policies"]["uniform"]["value"] == pytest.approx(result["bandit"]["served"]["value"])


def test_a_logged_row_can_be_learned_in_one_call(tmp_path: Path) -> None:
    with Loop(quiet(), tmp_path / "home") as loop:
        loop.learn({"x": 1.0, "action": "left", "propensity": 0.5}, 1.0)
        assert loop.fold.roster.champion.model.arrays["learned"] == 1
        with pytest.raises(InputError, match="field 'propensity': missing"):
            loop.learn({"x": 1.0, "action": "left"}, 1.0)
        with pytest.raises(InputError, match="got the action 'up'"):
            loop.learn({"x": 1.0, "action": "up", "propensity": 0.5}, 1.0)


# ---- the safe action -------------------------------------------------------------------------------------------------


def test_a_failing_policy_serves_the_fallback_and_says_so(tmp_path: Path) -> None:
    faulty = {"family": "tests.support.bandit_models:Faulty"}
    with Loop(quiet(model=faulty, bandit=BanditSpec(fallback="middle")), tmp_path / "home") as loop:
        safe, other = loop.predict({"x": 2.0}), loop.predict({"x": 0.5})
        assert (safe.value, safe.propensity, safe.payload) == ("middle", 1.0, {"fallback": True})
        assert other.payload.keys() == {"expected"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bandit": BanditSpec(fallback="up")}, "bandit.fallback: got 'up'; expected one of schema.actions"),
        ({"limits": LimitsSpec(clip=0.01)}, "limits.clip: got 0.01 for the task 'bandit'"),
        ({"model": {"family": "linear"}}, "model.family: got 'linear', which has no policy over actions"),
    ],
)
def test_settings_that_a_bandit_cannot_have_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Loop(quiet(**changes), tmp_path / "home")
    assert said in str(refused.value)


def test_a_configuration_file_has_the_family_of_bandits_by_default(tmp_path: Path) -> None:
    values = {"schema": {"label": "r", "task": "bandit", "fields": {"x": "numeric"}, "actions": ["a", "b"]}}
    made = config.convert(values)
    assert (default_model.completed(made, shape(made.schema)).model, made.schema.bits) == ({"family": "bandit"}, 14)
    config.save(made, tmp_path / "everlearn.toml")
    assert config.load(tmp_path / "everlearn.toml") == made
    assert config.read_stored(config.stored(made), "here").schema == made.schema


# ---- replay, kills, rebuilds -----------------------------------------------------------------------------------------


def test_a_replay_reads_what_was_served_and_never_draws_again(tmp_path: Path) -> None:
    """Actions and propensities that this loop would not draw are learned as they were logged."""
    with Loop(quiet(), tmp_path / "home") as loop:
        version = loop.ready().version
        rows = [Prediction(str(i), {"x": 1.0}, "right", (0.0, 0.0, 1.0), version, propensity=0.125) for i in range(40)]
        for one in rows:
            loop.log.append([one, Reward(one.id, 1.0)])
        while loop.catch_up():
            pass
        found = loop.report()["bandit"]
        lines = loop.fold.roster.champion.model.arrays["lines"]
    assert [one["served"] for one in found["actions"]] == [0, 0, 40]
    assert not lines[:2].any()
    assert lines[2].any()
    assert found["policies"]["best constant"]["ips"] == pytest.approx(8.0)  # 1 / 0.125


def test_the_state_does_not_depend_on_how_the_log_was_read(tmp_path: Path) -> None:
    with Loop(spec(mode="gated"), tmp_path / "one") as loop:
        live_through(loop)
        expected = bytes_of(loop)
    with Loop(spec(mode="gated"), tmp_path / "one") as again:
        assert bytes_of(again) == expected


def test_kills_leave_the_bytes_of_an_undisturbed_loop(tmp_path: Path) -> None:
    settings = spec(mode="gated", tick=10, gate=GateSpec(minimum=40))
    rows = table(900)

    def work(home: Path) -> None:
        with Loop(settings, home) as loop:
            loop.run(read(rows, schema=settings.schema))
            live_through(loop, 120)

    check(work, tmp_path, settings, kills=2, clocked=True)


def test_a_rebuilt_model_has_the_bytes_of_the_one_that_learned(tmp_path: Path) -> None:
    with Loop(quiet(), tmp_path / "home") as loop:
        live_through(loop, 300)
        loop.save()
        learned = loop.fold.roster.champion.model
        twin = build({"seed": 0, **loop.spec.model}, shape(loop.spec.schema))
        count, _ = rebuild(twin, loop.log, loop.fold.encoder, loop.spec, 0, loop.log.end(), lambda event: False)
        loop.fold.label_queue.teach()
        assert count == 300
        assert {name: one.tobytes() for name, one in twin.arrays.items()} == {
            name: one.tobytes() for name, one in learned.arrays.items()
        }


def test_a_home_without_its_snapshots_is_made_again_from_its_log(tmp_path: Path) -> None:
    settings, home = spec(model={"family": "bandit"}, mode="gated", gate=GateSpec(minimum=60)), tmp_path / "home"
    rows = table(300)
    with (tmp_path / "log.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows)
        writer.writerows(zip(*rows.values(), strict=True))
    with Loop(settings, home) as loop:
        loop.run(tmp_path / "log.csv")
        live_through(loop, 250)
        loop.save()
        expected, count = bytes_of(loop), len(loop.versions())
        found = loop.report()["bandit"]
    shutil.rmtree(home / "blobs")
    assert rebuild_home(home, settings.log, tmp_path / "log.csv").restored == count
    with Loop(settings, home) as loop:
        assert bytes_of(loop) == expected
        assert loop.report()["bandit"] == found


def test_a_rollback_without_a_source_is_as_if_its_rewards_never_came(tmp_path: Path) -> None:
    found = contexts(200)
    with Loop(quiet(), tmp_path / "home") as loop:
        for row in range(200):
            given = loop.predict(record(found[row]), id=str(row))
            wrong = row % 3 == 2
            earned = reward(found[row], str(given.value), row)
            loop.feedback(given.id, reward=1.0 - earned if wrong else earned, source="bad" if wrong else "good")
        first = loop.versions()[0].id
        loop.rollback("bad rewards", without={"source": "bad"}, to=first)
        mended = loop.fold.roster.champion.model
        twin = build({"seed": 0, **loop.spec.model}, shape(loop.spec.schema))

        def skip(event: Event) -> bool:
            return isinstance(event.payload, Reward) and event.payload.source == "bad"

        rebuild(twin, loop.log, loop.fold.encoder, loop.spec, 0, loop.log.end(), skip)
        assert twin.arrays["lines"].tobytes() == mended.arrays["lines"].tobytes()
        assert twin.arrays["learned"] == 134


def test_an_erased_person_leaves_the_model_and_the_log(tmp_path: Path) -> None:
    settings, home = quiet(subject="who"), tmp_path / "home"
    found = contexts(120)
    with Loop(settings, home) as loop:
        for row in range(120):
            who = "q" if row % 4 == 0 else f"p{row}"
            given = loop.predict({**record(found[row]), "who": who}, id=str(row))
            loop.feedback(given.id, reward=reward(found[row], str(given.value), row))
    erase(home, settings, {"who": "q"}, "asked for")
    with Loop(settings, home) as loop:
        assert loop.fold.roster.champion.model.arrays["learned"] == 90
        assert loop.log.find("prediction:4") is None or not isinstance(
            loop.log.find("prediction:4").payload, Prediction
        )  # type: ignore[union-attr]
        assert loop.predict({"x": 1.0, "who": "p8"}).value in ACTIONS


def test_a_challenger_is_compared_by_the_reward_that_it_expects(tmp_path: Path) -> None:
    """A champion that cannot learn is replaced by one that does, on the evidence of served actions alone."""
    idle = {"family": "tests.support.bandit_models:Lines", "rate": 0.0}
    with Loop(spec(model=idle, mode="gated", gate=GateSpec(minimum=60)), tmp_path / "home") as loop:
        live_through(loop, 40)
        loop.challenge({"family": "tests.support.bandit_models:Lines"})
        live_through(loop, ROWS, 40)
        assert loop.report()["promotions"] >= 1
        assert loop.fold.roster.champion.model.spec["rate"] == 0.2
        found = loop.status()["bandit"]["policies"]
        assert {"champion", "challenger", "uniform", "best constant"} <= set(found)


def test_a_default_reward_answers_for_what_never_comes(tmp_path: Path) -> None:
    settings = quiet(feedback=FeedbackSpec(window=10.0, default=0.0))
    clock = iter(range(0, 100_000, 1))
    with Loop(settings, tmp_path / "home", clock=lambda: float(next(clock))) as loop:
        for row in range(50):
            loop.predict({"x": 1.0}, id=str(row))
        assert loop.report()["bandit"]["served"]["value"] == 0.0
        assert loop.fold.monitor.scored > 30
