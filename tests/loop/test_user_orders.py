"""What a person orders is carried out, or refused, with a reason in the log; and everything goes on either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn import gate
from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.loop import commands
from everlearn.loop.details import Without
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import training_positions
from everlearn.records import Decision
from everlearn.spec import DriftSpec, GateSpec, Spec
from tests.support.loops import record, spec, table
from tests.support.orders import LINEAR, MEAN, arrays_of, families, ordered, quiet, serve, state
from tests.support.rebuilds import relearned
from tests.support.rosters import with_role

QUICK = {"family": "linear", "optimizer": "quick"}  # settled at the rows that these tests were written for

# ---- challengers of another family ---------------------------------------------------------------------------------

SNAPSHOTS = GateSpec(minimum=100, promote="snapshot")


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_challenger_of_another_family_wins_and_everything_is_of_its_family_then(tmp_path: Path, mode: str):
    settings, columns = spec(model=MEAN, mode=mode, drift=DriftSpec(reaction="note")), table(6000)
    columns["label"] = (columns["a"] > 0).astype(int)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 50)
        born = loop.challenge(LINEAR, reason="it sees the features", warm=False)
        kept = {**LINEAR, "layout": 6}  # the home of a user's family numbers no layout itself
        assert born.spec == kept
        assert born.reason == "fresh challenger: it sees the features, untrained"
        serve(loop, columns, 50, 1200)
        assert loop.report()["promotions"] >= 1
        assert families(loop)["champion"] == "linear"
        champion = loop.home.versions.find("champion")
        assert champion.spec == kept
        assert any(one.parents == (born.id,) and one.spec == kept for one in loop.versions())
        assert loop.predict(record(columns, 1500), id="one").proba != (0.5, 0.5)
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected
        assert families(loop)["champion"] == "linear"
        first = loop.versions()[0]
        assert loop.promote(first.id).spec == MEAN
        assert families(loop)["champion"] == "tests.support.models:Mean"
        serve(loop, columns, 1500, 1530)
        back = loop.rollback()
        assert champion.id in back.parents  # it had learned on
        assert families(loop)["champion"] == "linear"
        serve(loop, columns, 1530, 1560)
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected


def test_a_challenger_may_be_warmed_on_what_is_remembered(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        serve(loop, table(200), 0, 100)
        warmed = loop.challenge({"family": "linear", "rate": 0.1})
        assert "warmed on 100 remembered rows" in warmed.reason
        (fresh,) = with_role(loop.fold.roster, "fresh")
        assert fresh.learns
        assert np.abs(fresh.model.arrays["weights"]).sum() > 0


def test_no_more_contend_than_challengers_allows_until_one_is_withdrawn(tmp_path: Path):
    with Loop(quiet(challengers=2), tmp_path / "home") as loop:
        one = loop.challenge(LINEAR)
        with pytest.raises(InputError, match="2 models contend already, and challengers = 2"):
            loop.challenge(LINEAR)
        assert loop.decisions()[-1].action == "reject"
        assert loop.decisions()[-1].by == "loop"
        assert loop.report()["rejections"] == 0  # the gate has rejected nothing
        loop.withdraw(one.id[:6], reason="enough")
        assert loop.decisions()[-1].action == "withdraw"
        with pytest.raises(InputError, match="not a challenger that can be withdrawn; there are: none"):
            loop.withdraw(one.id)
        loop.challenge(LINEAR)


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_version_in_shadow_does_not_learn_and_the_gate_is_asked_about_it(tmp_path: Path, mode: str):
    settings = spec(mode=mode, gate=SNAPSHOTS, drift=DriftSpec(reaction="note"), challengers=3, model=QUICK)
    columns = table(3000)
    columns["label"] = (columns["a"] > 0).astype(int)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 300)
        good = loop.challenge(QUICK, reason="to have its version").id
        loop.withdraw(good)
        loop.challenge(good, reason="compare")
        with pytest.raises(InputError, match="in shadow already"):
            loop.challenge(good)
        (shadow,) = with_role(loop.fold.roster, "shadow")
        before = {name: array.tobytes() for name, array in shadow.model.arrays.items()}
        serve(loop, columns, 300, 320)
        assert {name: array.tobytes() for name, array in shadow.model.arrays.items()} == before
        assert shadow.trial is not None
        assert shadow.trial.tested == 20
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected
        loop.rollback("a mistake", to=loop.versions()[0].id) if mode == "live" else loop.promote(loop.versions()[0].id)
        if mode == "gated":  # live, the champion has learned as much a moment later
            serve(loop, columns, 320, 410)
            (shadow,) = with_role(loop.fold.roster, "shadow")
            assert shadow.trial is not None
            asked = gate.verdict(shadow.trial.evidence, loop.fold.gate).evidence
            assert asked.examples == shadow.trial.tested == 90
            assert asked.difference > 0.05  # better than the untrained version that serves


# ---- orders that cannot be carried out -----------------------------------------------------------------------------


def test_an_order_for_a_version_whose_blob_is_lost_or_changed_is_noted_and_nothing_stops(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        serve(loop, table(50), 0, 30)
        one = loop.challenge(LINEAR)
        loop.withdraw(one.id)
        order = commands.promote(loop.home.versions, one.id, "because")
        (blob,) = (tmp_path / "home" / "blobs").glob(f"{one.blob}*")
        whole = blob.read_bytes()
        blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = ordered(loop, order)
        assert (done.action, done.by) == ("reject", "loop")
        assert "damaged" in done.reason
        blob.unlink()
        again = msgspec.structs.replace(order, detail=order.detail | {"order": "again"})
        assert "was pruned, or the file was lost" in ordered(loop, again).reason
        before = loop.report()["champion"]
        serve(loop, table(100), 50, 60)
        assert loop.report()["champion"] == before != one.id


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"family": "nowhere:build"}, "no module named 'nowhere'"),
        ({"family": "linear", "speed": 3}, "speed"),
        ({"family": "tests.loop.test_user_orders:broken"}, "RuntimeError: on purpose"),
        ({"family": "tests.support.models:wide"}, r"answers one row with shape \(1, 5\)"),
    ],
)
def test_a_family_that_cannot_be_built_is_refused_when_ordered_and_when_folded(tmp_path: Path, model: Any, reason: str):
    with Loop(quiet(), tmp_path / "home") as loop:
        loop.ready()
        with pytest.raises((ConfigError, ModelError), match=reason):
            loop.challenge(model)
        fine = commands.challenge(loop.spec, LINEAR, "later")
        bad = msgspec.structs.replace(fine, detail=fine.detail | {"model": model})
        done = ordered(loop, bad)
        assert done.action == "reject"
        assert len(loop.versions()) == 1
        loop.predict({"a": 1.0, "b": 1.0, "c": "c1"})


def broken(_: Any) -> Any:
    raise RuntimeError("on purpose")


def test_orders_change_no_alias_before_they_are_carried_out(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        serve(loop, table(50), 0, 30)
        one = loop.challenge(LINEAR)
        order = commands.promote(loop.home.versions, one.id, "because")
        loop.log.append([order])
        loop.home.versions.note(order)
        assert loop.aliases()[loop.versions()[0].id] == ["champion"]
        assert commands.outcome(loop.log, order) is None
    with Loop(quiet(), tmp_path / "home") as loop:
        assert loop.report()["champion"] == one.id
        done = commands.outcome(loop.log, order)
        assert done is not None
        assert (done.action, done.by, done.version) == ("promote", "user", one.id)


def test_an_order_of_a_newer_release_is_rejected(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        order = Decision("order", 0, "why not", "user", detail={"order": "1", "ask": "sing"})
        assert "no order 'sing'" in ordered(loop, order).reason


# ---- what a champion has learned is not lost -------------------------------------------------------------------------


def test_a_live_champion_that_is_replaced_can_be_brought_back_as_it_was(tmp_path: Path):
    settings, columns = quiet(mode="live", model=MEAN), table(400)
    with Loop(settings, tmp_path / "home") as loop:
        first = loop.ready().version
        other = loop.challenge(LINEAR, warm=False)
        loop.withdraw(other.id)
        serve(loop, columns, 0, 200)
        learned = arrays_of(loop.fold.roster.champion.model)
        counted = loop.fold.cursor["log"]
        loop.promote(other.id, "to try")
        done = loop.decisions()[-1]
        kept = loop.home.versions.find("previous")
        assert (done.version, done.previous) == (other.id, kept.id)
        assert (kept.parents, kept.reason) == ((first,), "what served until it was replaced")
        assert kept.metrics["examples"] == 200
        assert training_positions(loop.log)[kept.id].log == counted
        many = len(loop.versions())
        assert loop.rollback("it was better").id == kept.id
        assert len(loop.versions()) == many  # the other has learned nothing in between, and is its version still
        assert arrays_of(loop.fold.roster.champion.model) == learned
        serve(loop, columns, 200, 300)
        loop.promote(other.id, "and back")
        assert arrays_of(loop.fold.transitions.revive(kept.id)) == learned
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected


def test_what_the_guard_replaced_can_be_brought_back(tmp_path: Path):
    rash = {"family": "linear", "rate": 5.0, "optimizer": "sgd"}
    settings, columns = spec(mode="live", model=rash, drift=DriftSpec(detector="none")), table(2000)
    turned = (np.arange(2000) >= 150) & (np.arange(2000) // 20 % 2 == 1)  # a learner is always one turn late
    columns["label"] = np.where(turned, 1 - np.asarray(columns["label"]), columns["label"])
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 2000)
        back = [one for one in loop.decisions() if one.by == "guard" and one.action == "rollback"]
        assert back
        for one in back:
            kept = loop.home.versions.find(one.previous)
            assert kept.reason == "what served until it was replaced"
            assert np.abs(loop.home.versions.load(kept.id)["weights"]).sum() > 0
            assert kept.id in training_positions(loop.log)
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_challenger_is_promoted_as_what_it_has_learned_by_now(tmp_path: Path, mode: str):
    settings, columns = quiet(mode=mode), table(300)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 50)
        born = loop.challenge(MEAN, warm=False)
        serve(loop, columns, 50, 150)
        made = loop.promote(born.id, "it looks good")
        assert (made.parents, made.reason) == ((born.id,), "it looks good")
        assert loop.fold.roster.champion.model.arrays["count"] == 100
        assert loop.home.versions.load(made.id)["count"] == 100
        assert (with_role(loop.fold.roster, "fresh") == []) == (mode == "live")
        serve(loop, columns, 150, 160)
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected
        assert loop.rollback().id != made.id


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_promoting_what_serves_is_refused_and_changes_nothing(tmp_path: Path, mode: str):
    with Loop(spec(mode=mode, drift=DriftSpec(detector="none"), gate=GateSpec(minimum=40)), tmp_path / "home") as loop:
        serve(loop, table(200), 0, 100)
        before, aliases = loop.fold.roster.state(), loop.aliases()
        assert any(one.trial is not None for one in loop.fold.roster.contestants)
        with pytest.raises(InputError, match="serves already"):
            loop.promote("champion")
        after = loop.fold.roster.state()
        assert (after[1], loop.aliases()) == (before[1], aliases)
        assert {name: array.tobytes() for name, array in after[0].items()} == {
            name: array.tobytes() for name, array in before[0].items()
        }
        assert loop.decisions()[-1].action == "reject"


def test_a_live_champion_that_was_kept_is_made_anew_when_somebody_is_forgotten(tmp_path: Path):
    """Against a loop from whose log the person's rows were missing from the start."""
    settings, columns = quiet(mode="live", model=MEAN), table(200)
    columns["label"] = (np.arange(200) % 3 == 0).astype(int)
    with Loop(settings, tmp_path / "home") as loop:
        other = loop.challenge(LINEAR, warm=False)
        loop.withdraw(other.id)
        serve(loop, columns, 0, 100)
        loop.promote(other.id)
        kept = loop.home.versions.find("previous").id
    erase(tmp_path / "home", settings, {"c": "c1"}, "it was asked for")
    others = [row for row in range(100) if columns["c"][row] != "c1"]
    with Loop(settings, tmp_path / "home") as loop:
        anew = loop.home.versions.find("previous")
        assert anew.id != kept
        arrays = loop.home.versions.load(anew.id)
        assert (arrays["count"], arrays["ones"]) == (len(others), columns["label"][others].sum())


# ---- canary --------------------------------------------------------------------------------------------------------


def test_what_a_canary_answered_is_not_scored_as_the_champions(tmp_path: Path):
    columns = table(200)
    with Loop(quiet(), tmp_path / "home") as loop, Loop(quiet(), tmp_path / "other") as other:
        for row in range(200):
            answers = loop.predict(record(columns, row), id=str(row)), None
            wrong = 1 - int(columns["label"][row])
            proba = (0.0, 1.0) if wrong else (1.0, 0.0)
            given = msgspec.structs.replace(answers[0], value=wrong, proba=proba, canary=True)
            other.ready()
            other.log.append([given])
            other.catch_up()
            for one in (loop, other):
                one.feedback(str(row), label=int(columns["label"][row]))
        assert other.report()["metrics"] == loop.report()["metrics"]


def test_the_fold_tells_who_the_canary_is(tmp_path: Path):
    settings = quiet(tick=10)
    with Loop(settings, tmp_path / "home") as loop:
        assert loop.fold.canary is None
        serve(loop, table(100), 0, 30)
        canary = loop.fold.canary
        assert canary is not None
        assert loop.fold.roster.role_of(canary) == "candidate"
    with Loop(quiet(mode="live"), tmp_path / "live") as loop:
        serve(loop, table(100), 0, 30)
        assert loop.fold.canary is None
        born = loop.challenge(LINEAR)
        canary = loop.fold.canary
        assert canary is not None
        assert canary.version == born.id


# ---- rolling back without some labels ------------------------------------------------------------------------------


def poisoned(mode: str, **changes: Any) -> Spec:
    return spec(mode=mode, gate=GateSpec(minimum=1_000_000), drift=DriftSpec(detector="none"), **changes)


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_without_a_source_the_learner_is_as_if_it_had_never_sent_anything(tmp_path: Path, mode: str):
    columns = table(500)
    with Loop(poisoned(mode), tmp_path / "home") as loop, Loop(poisoned(mode), tmp_path / "clean") as clean:
        serve(loop, columns, 0, 100)
        serve(clean, columns, 0, 100)
        serve(loop, columns, 100, 300, flip=3)
        for row in range(100, 300):  # the same traffic, and the bad ones send nothing
            clean.predict(record(columns, row), id=str(row))
        for row in range(100, 300):
            if row % 3:
                clean.feedback(str(row), label=int(columns["label"][row]), source="good")
        version = loop.rollback("a key was stolen", without={"source": "bad"})
        assert version.id == loop.versions()[0].id
        told = loop.decisions()[-1].detail
        assert (told["again"], told["left_out"]) == (100 + 134, 66)
        assert told["forgotten"] > 0
        learner, other = loop.fold.roster.challenger.model, clean.fold.roster.challenger.model
        assert {name: array.tobytes() for name, array in learner.arrays.items()} == {
            name: array.tobytes() for name, array in other.arrays.items()
        }
        remembered = loop.fold.monitor.remembered()
        bad, events = Without("bad"), loop.log.read(0, 10_000)
        bad_positions = [event.position for event in events if bad.selects(event.position, event.payload)]
        assert len(remembered.y) > 100
        assert not set(remembered.position) & set(bad_positions)
        serve(loop, columns, 300, 320)
        expected = state(loop)
    with Loop(poisoned(mode), tmp_path / "home") as loop:
        assert state(loop) == expected


def test_a_range_of_positions_and_what_was_left_out_before_stay_out(tmp_path: Path):
    columns = table(300)
    with Loop(quiet(), tmp_path / "home") as loop:
        serve(loop, columns, 0, 100, flip=5)
        loop.rollback(without={"source": "bad"})
        first = loop.log.end() + 1
        serve(loop, columns, 100, 150)
        last = loop.log.end()
        serve(loop, columns, 150, 200)
        loop.rollback("the sensor was broken", without={"first": first, "last": last})
        told = loop.decisions()[-1].detail
        assert told["again"] == 80 + 50
        assert told["left_out"] == 20 + 50


def test_a_rollback_goes_to_the_last_champion_that_learned_none_of_them(tmp_path: Path):
    settings, columns = spec(drift=DriftSpec(reaction="note"), gate=GateSpec(minimum=100), model=QUICK), table(3000)
    columns["label"] = (columns["a"] > 0).astype(int)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 800)
        good = loop.report()["champion"]
        assert good != loop.versions()[0].id
        serve(loop, columns, 800, 1000, flip=2)
        loop.promote(loop.versions()[0].id)
        version = loop.rollback(without={"source": "bad"})
        assert version.id == loop.versions()[0].id  # it was made the champion again after the labels, and has none
        loop.promote(good)
        with pytest.raises(InputError, match="there is no such label"):
            loop.rollback(without={"source": "nobody"})
        with pytest.raises(InputError, match="has learned labels that are to be left out"):
            loop.rollback(without={"first": 1}, to=good)
        assert loop.rollback(without={"source": "bad"}, to=good).id == good


def test_a_challenger_of_another_family_is_rebuilt_in_its_own(tmp_path: Path):
    columns = table(300)
    with Loop(quiet(challengers=3), tmp_path / "home") as loop:
        serve(loop, columns, 0, 50)
        early = loop.challenge(MEAN, warm=False)
        serve(loop, columns, 50, 100, flip=2)
        late = loop.challenge(MEAN)
        serve(loop, columns, 100, 120)
        loop.rollback(without={"source": "bad"})
        fresh = {one.version: one.model for one in with_role(loop.fold.roster, "fresh")}
        assert fresh[early.id].arrays["count"] == 25 + 20
        assert fresh[late.id].arrays["count"] == 50 + 25 + 20  # nothing of what it was warmed on is known to be clean
        assert {str(one.spec["family"]) for one in fresh.values()} == {"tests.support.models:Mean"}


def test_a_rollback_goes_to_a_version_that_was_made_anew_without_a_person(tmp_path: Path):
    columns = table(300)
    with Loop(quiet(), tmp_path / "home") as loop:
        serve(loop, columns, 0, 100)
        warmed = loop.challenge(LINEAR)
        loop.promote(warmed.id)
    erase(tmp_path / "home", quiet(), {"c": "c1"}, "it was asked for")
    with Loop(quiet(), tmp_path / "home") as loop:
        anew = loop.home.versions.find("champion").id
        assert anew != warmed.id
        serve(loop, columns, 100, 150, flip=2)
        loop.promote(loop.versions()[0].id)
        loop.withdraw(anew)  # as a challenger that goes on learning it would be promoted as what it is by now
        loop.promote(anew)
        assert loop.rollback(without={"source": "bad"}).id == anew
        told = loop.decisions()[-1].detail
        assert told["left_out"] == 25


def test_what_cannot_be_left_out_is_said_before_anything_is_written(tmp_path: Path):
    with Loop(quiet(), tmp_path / "home") as loop:
        serve(loop, table(30), 0, 20)
        before = loop.log.end()
        for without, reason in (
            ({}, "names no labels"),
            ({"first": 9, "last": 3}, "first <= last"),
            ({"first": -1}, "first <= last"),
            ({"sauce": "x"}, "sauce"),
        ):
            with pytest.raises(InputError, match=reason):
                loop.rollback(without=without)
        assert loop.log.end() == before


# ---- a pause -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["live", "gated"])
def test_labels_of_a_pause_are_scored_and_learned_by_no_model(tmp_path: Path, mode: str):
    """What was learned before and after it is what a loop learns that never got the labels of the pause."""
    settings, columns = quiet(mode=mode, challengers=3), table(400)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 100)
        loop.challenge(LINEAR, warm=False)
        learners = [one for one in loop.fold.roster.contestants if one.learns]
        loop.pause("the sensor is being repaired")
        before = [arrays_of(one.model) for one in learners]
        scored, remembered = loop.fold.monitor.scored, len(loop.fold.monitor.remembered().y)
        serve(loop, columns, 100, 150)
        loop.learn(record(columns, 150), int(columns["label"][150]))
        assert [arrays_of(one.model) for one in learners] == before
        assert loop.fold.monitor.scored == scored + 51
        assert len(loop.fold.monitor.remembered().y) == remembered
        assert loop.status()["paused"]
        with pytest.raises(InputError, match="learning is paused already"):
            loop.pause()
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected
        loop.resume("it is repaired")
        with pytest.raises(InputError, match="learning is not paused"):
            loop.resume()
        serve(loop, columns, 160, 200)
        learners = [one for one in loop.fold.roster.contestants if one.learns]
        assert all(arrays_of(one.model) != old for one, old in zip(learners, before, strict=True))
        assert [one.detail["paused"] for one in loop.decisions() if "paused" in one.detail] == [True, False]
        again, *_ = relearned(loop, lambda event: False)
        assert arrays_of(again) == arrays_of(loop.fold.roster.challenger.model)


def test_a_pause_ends_no_wait_for_labels(tmp_path: Path):
    """A prediction from before the pause whose label comes after it is learned; one labelled in it is not."""
    columns = table(40)
    with Loop(quiet(mode="live"), tmp_path / "home") as loop:
        for row in range(20):
            loop.predict(record(columns, row), id=str(row))
        loop.pause()
        loop.feedback("3", label=1)
        untouched = arrays_of(loop.fold.roster.champion.model)
        loop.resume()
        assert arrays_of(loop.fold.roster.champion.model) == untouched
        loop.feedback("4", label=1)
        assert arrays_of(loop.fold.roster.champion.model) != untouched


# ---- names, and the way back ---------------------------------------------------------------------------------------


def test_a_version_is_found_by_the_name_that_a_user_gave_it(tmp_path: Path):
    with Loop(quiet(mode="live"), tmp_path / "home") as loop:
        serve(loop, table(100), 0, 50)
        first, second = loop.versions()[0].id, loop.challenge(LINEAR, warm=False).id
        assert loop.name(first, "spring", note="before the sale").id == first
        assert loop.home.versions.find("spring").id == first
        assert loop.home.versions.note_of(first) == "before the sale"
        loop.name(second, "spring")
        assert loop.home.versions.find("spring").id == second
        loop.name("spring", note="the other one")
        for name, why in (
            ("champion", "an alias that the loop moves"),
            (first[:4], "the beginning of version"),
            ("a b", "letters"),
        ):
            with pytest.raises(InputError, match=why):
                loop.name(first, name)
        with pytest.raises(InputError, match="got neither"):
            loop.name(first)
    with Loop(quiet(mode="live"), tmp_path / "home") as loop:
        assert loop.home.versions.find("spring").id == second
        assert [loop.home.versions.note_of(id) for id in (first, second)] == ["before the sale", "the other one"]


def test_each_rollback_goes_further_back_until_nothing_is_left(tmp_path: Path):
    with Loop(quiet(mode="gated", challengers=8), tmp_path / "home") as loop:
        serve(loop, table(200), 0, 50)
        first = loop.home.versions.alias("champion")
        served = [first]
        for _ in range(3):
            version = loop.challenge(LINEAR, warm=False).id
            loop.withdraw(version)
            served.append(loop.promote(version).id)
        assert [loop.rollback().id for _ in range(3)] == served[2::-1]
        with pytest.raises(ConfigError, match=f"no champion before {first} to roll back to"):
            loop.rollback()
        loop.promote(served[3])
        assert loop.rollback(to=served[1]).id == served[1]
        assert loop.rollback().id == first
