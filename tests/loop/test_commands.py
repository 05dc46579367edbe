"""What a person orders is carried out, or refused, with a reason in the log; and everything goes on either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn.errors import ConfigError, InputError, ModelError
from everlearn.loop import commands
from everlearn.loop.details import Without
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import training_positions
from everlearn.model import Model
from everlearn.records import Decision, Example, Label, Payload, Prediction
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, Spec
from tests.loop.test_kill import FIELDS, spec, table
from tests.support.rosters import with_role

MEAN = {"family": "tests.support.models:Mean"}
LINEAR = {"family": "linear"}


def record(columns: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: columns[name][row] for name in FIELDS}


def serve(loop: Loop, columns: dict[str, Any], start: int, stop: int, delay: int = 10, flip: int = 0) -> None:
    """A client that predicts, and sends labels later; every `flip`th label is wrong, and from a source "bad"."""
    for row in range(start, stop + delay):
        if row < stop:
            loop.predict(record(columns, row), id=str(row))
        if row - delay >= start:
            judged = row - delay
            wrong = bool(flip) and judged % flip == 0
            label = int(columns["label"][judged])
            loop.feedback(str(judged), label=1 - label if wrong else label, source="bad" if wrong else "good")


def state(loop: Loop) -> dict[str, Any]:
    arrays, header = loop.fold.state()
    return {"header": header} | {name: array.tobytes() for name, array in arrays.items()}


def families(loop: Loop) -> dict[str, str]:
    roster = loop.fold.roster
    return {roster.role_of(one): str(one.model.spec["family"]) for one in roster.contestants}


def ordered(loop: Loop, order: Decision) -> Decision:
    """Put an order into the log, as another process would, and fold it; what came of it."""
    (position,) = loop.log.append([order])
    while loop.catch_up():
        pass
    done = commands.outcome(loop.log, order, position)
    assert done is not None
    return done


def quiet(**changes: Any) -> Spec:
    """A loop that decides nothing by itself."""
    return spec(gate=GateSpec(minimum=1_000_000), drift=DriftSpec(detector="none"), **changes)


# ---- challengers of another family ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_a_challenger_of_another_family_wins_and_everything_is_of_its_family_then(tmp_path: Path, mode: str):
    settings, columns = spec(model=MEAN, mode=mode, drift=DriftSpec(reaction="note")), table(6000)
    columns["label"] = (columns["a"] > 0).astype(int)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 50)
        born = loop.challenge(LINEAR, reason="it sees the features", warm=False)
        assert born.spec == LINEAR
        assert born.reason == "fresh challenger: it sees the features, untrained"
        serve(loop, columns, 50, 1200)
        assert loop.report()["promotions"] >= 1
        assert families(loop)["champion"] == "linear"
        champion = loop.home.versions.find("champion")
        assert champion.spec == LINEAR
        assert any(one.parents == (born.id,) and one.spec == LINEAR for one in loop.versions())
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
        assert back.id == champion.id if mode == "gated" else champion.id in back.parents
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
    settings, columns = spec(mode=mode, drift=DriftSpec(reaction="note"), challengers=3), table(3000)
    columns["label"] = (columns["a"] > 0).astype(int)
    with Loop(settings, tmp_path / "home") as loop:
        serve(loop, columns, 0, 300)
        good = loop.challenge(LINEAR, reason="to have its version").id
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
            serve(loop, columns, 320, 1000)
            assert any(one.action == "promote" and one.version == good and one.by == "gate" for one in loop.decisions())


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
        ({"family": "tests.loop.test_commands:broken"}, "RuntimeError: on purpose"),
        ({"family": "tests.loop.test_commands:wide"}, r"answers one row with shape \(1, 5\)"),
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


def wide(model_spec: Any) -> Any:
    from tests.support.models import Mean

    one = Mean(model_spec)
    one.predict = lambda batch: np.zeros((len(batch), 5), np.float32)  # type: ignore[method-assign]
    return one


def test_families_that_nobody_vouches_for_are_refused():
    settings = spec()
    with pytest.raises(ConfigError, match=r"'tests.support.models:Mean' may not be started here.*serve\.families"):
        commands.challenge(settings, MEAN, "from outside")
    assert (
        commands.challenge(settings, MEAN, "from outside", frozenset(["tests.support.models:Mean"])).detail["model"]
        == MEAN
    )
    assert commands.challenge(settings, MEAN, "from here", None).action == "order"
    assert commands.challenge(spec(model=MEAN), MEAN, "the loop's own").detail["ask"] == "challenge"
    with pytest.raises(ConfigError, match="cannot be kept in the log"):
        commands.challenge(settings, {"family": "linear", "rate": object()}, "odd")


@pytest.mark.parametrize(
    "named",
    [
        {"family": "neural", "module": "os:system"},
        {"family": "linear", "terms": [{"kind": "replay", "augment": "os:system"}]},
        {"family": "gated", "model": {"family": "gated", "model": {"family": "os:system"}}},
    ],
)
def test_code_named_anywhere_in_a_spec_from_outside_must_be_trusted(named: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"'os:system' may not be started here"):
        commands.challenge(spec(), named, "from outside")


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


def bytes_of(model: Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.arrays.items()}


def test_a_live_champion_that_is_replaced_can_be_brought_back_as_it_was(tmp_path: Path):
    settings, columns = quiet(mode="live", model=MEAN), table(400)
    with Loop(settings, tmp_path / "home") as loop:
        first = loop.ready().version
        other = loop.challenge(LINEAR, warm=False)
        loop.withdraw(other.id)
        serve(loop, columns, 0, 200)
        learned = bytes_of(loop.fold.roster.champion.model)
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
        assert bytes_of(loop.fold.roster.champion.model) == learned
        serve(loop, columns, 200, 300)
        loop.rollback("and back")
        assert bytes_of(loop.fold.transitions.revive(kept.id)) == learned
        expected = state(loop)
    with Loop(settings, tmp_path / "home") as loop:
        assert state(loop) == expected


def test_what_the_guard_replaced_can_be_brought_back(tmp_path: Path):
    rash = {"family": "linear", "rate": 5.0, "optimizer": "sgd"}
    settings, columns = spec(mode="live", model=rash, drift=DriftSpec(detector="none")), table(2000)
    columns["label"] = np.random.default_rng(1).integers(0, 2, 2000)  # there is nothing to learn
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
    with Loop(quiet(mode=mode), tmp_path / "home") as loop:
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
    settings, columns = spec(drift=DriftSpec(reaction="note"), gate=GateSpec(minimum=100)), table(3000)
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


def test_a_source_is_left_out_with_all_that_it_calls_itself():
    sources = ("web", "web/shop", "web/shop/2", "webs", "other/web", "")
    for named, meant in (("web", 3), ("web/shop", 2), ("webs", 1), ("", 6)):
        assert sum(Without(named).selects(1, Label("a", 1, source=one)) for one in sources) == meant


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
