"""Erasing a person, against models that never saw them, against the bytes on the disk, and against SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn import model, replay
from everlearn.errors import BlobError, InputError, LogError, UnknownId
from everlearn.events import SqliteLog
from everlearn.loop.erase import erase
from everlearn.loop.erase.finding import find
from everlearn.loop.erase.replay_memory import forget
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import training_positions
from everlearn.records import (
    Arrays,
    Batch,
    Decision,
    Erased,
    Example,
    Examples,
    Label,
    Payload,
    Prediction,
)
from everlearn.spec import FeedbackSpec, GateSpec, ReplaySpec
from everlearn.stream import read
from everlearn.version.blobs import Blobs
from tests.support.erasures import OTHER, PERSON, ROWS, SINCE, about, filled, learn_all, settings, traffic
from tests.support.kills import child
from tests.support.loops import FIELDS, table
from tests.support.payloads import content
from tests.support.snapshots import same


def bytes_on_disk(home: Path, *values: str) -> list[str]:
    """The files of a home in which a value can be found."""
    files = [path for path in home.rglob("*") if path.is_file()]
    return [f"{path.name}: {value}" for path in files for value in values if value.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("rows", "since", "erased", "rolled_back"),
    [
        (2000, 1000, (PERSON,), False),
        (4000, 500, (PERSON,), True),
        pytest.param(4000, 500, (PERSON, OTHER), True, marks=pytest.mark.slow),
    ],
)
def test_rebuilt_models_equal_those_that_never_saw_the_erased(
    tmp_path: Path, rows: int, since: int, erased: tuple[str, ...], rolled_back: bool
) -> None:
    quick = {"family": "linear", "optimizer": "quick"}  # which is promoted and rolled back at these rows
    chosen, home = settings(gate=GateSpec(minimum=40, layout=1), model=quick), tmp_path / "home"
    filled(home, chosen, traffic(rows, since))
    with Loop(chosen, home) as loop:
        before, events, decisions = {one.id: one for one in loop.versions()}, content(loop.log), loop.decisions()
        old = {id: loop.home.versions.load(id) for id in before}
    first = min(event.position for event in events if getattr(event.payload, "subject", "") in erased)
    assert rolled_back == any(one.action == "rollback" and one.at > first for one in decisions)

    replaced: dict[str, str] = {}
    for person in erased:
        again = erase(home, chosen, {"user": person}, "asked by mail").detail["versions"]
        replaced = {id: again.get(now, now) for id, now in replaced.items()} | {
            id: now for id, now in again.items() if id in before
        }

    assert len(replaced) >= 2
    assert replaced.keys() == {id for id, one in before.items() if one.position > first + 20}

    def begun(id: str, upto: int) -> int:
        """When the champion began to learn from a version: when that was born, or when it was rolled back to it."""
        back = [one.at for one in decisions if one.action == "rollback" and one.version == id and one.at <= upto]
        return max([before[id].position, *back])

    with Loop(chosen, home) as loop:
        now = {one.id: one for one in loop.versions()}

        def expected(id: str, upto: int) -> Arrays:
            begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
            model.restore(begin, loop.home.versions.load(replaced.get(id, id)))
            return learn_all(begin, loop, events, begun(id, upto), upto, erased).arrays

        for id, again in replaced.items():
            (parent,) = before[id].parents
            assert same(loop.home.versions.load(again), expected(parent, before[id].position))
            assert not same(loop.home.versions.load(again), old[id])
            assert now[again].parents == (replaced.get(parent, parent),)
            assert now[again].position == before[id].position
            with pytest.raises(BlobError, match="is not in"):
                loop.home.versions.load(id)
        champion = loop.fold.roster.champion
        origin = next(id for id, again in replaced.items() if again == champion.version)
        assert same(champion.model.arrays, expected(origin, events[-1].position))
        assert not set(loop.aliases()) & replaced.keys()
        for id in before.keys() - replaced.keys():
            assert same(loop.home.versions.load(id), old[id])


def test_nothing_of_the_person_is_left_on_the_disk(tmp_path: Path) -> None:
    chosen, home = settings(), tmp_path / "home"
    filled(home, chosen, traffic())
    assert bytes_on_disk(home, PERSON)
    decision = erase(home, chosen, {"user": PERSON}, "asked by mail")
    assert bytes_on_disk(home, PERSON) == []
    assert bytes_on_disk(home, OTHER)
    with Loop(chosen, home) as loop:
        events = content(loop.log)
        assert loop.log.verify().ok
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    buried = [(event.position, event.payload) for event in events if isinstance(event.payload, Erased)]
    assert all(payload.position == position for position, payload in buried)
    assert len(buried) == sum(decision.detail["events"].values())
    expected = {"example", "label", "prediction", "rejected"}
    assert decision.detail["events"].keys() == expected == {payload.was for _, payload in buried}
    rows = sum(about(row) == PERSON for row in range(ROWS))
    assert decision.detail["events"]["prediction"] + decision.detail["events"]["example"] == rows
    assert decision.action == "erase"
    assert decision.by == "user"
    assert PERSON not in repr(decision)
    with Loop(chosen, home):
        pass
    assert bytes_on_disk(home, PERSON) == []


def test_others_keep_all_that_they_had(tmp_path: Path) -> None:
    chosen, home = settings(), tmp_path / "home"
    filled(home, chosen, traffic())
    with SqliteLog(home / "log.sqlite") as log:
        before = content(log)
    erase(home, chosen, {"user": PERSON}, "asked")
    with SqliteLog(home / "log.sqlite") as log:
        after = content(log)
    for old, new in zip(before, after, strict=False):
        assert (old.position, old.time) == (new.position, new.time)
        if not isinstance(new.payload, Erased):
            assert old == new
        else:
            assert PERSON in repr(old.payload)


def test_the_loop_goes_on_exactly_afterwards(tmp_path: Path) -> None:
    """What comes after is folded to the same bytes however it is cut; what was erased is unknown."""
    chosen, home = settings(), tmp_path / "home"
    events = traffic()
    filled(home, chosen, events[:1000], 2)
    erase(home, chosen, {"user": PERSON}, "asked")
    with SqliteLog(home / "log.sqlite") as log:
        for moment, payload in enumerate(events[1000:]):
            log.append([payload], time=2e6 + moment)
    states = []
    for number, limit in enumerate((1, 37, 4096)):
        copied = shutil.copytree(home, tmp_path / f"home{number}")
        with Loop(chosen, copied) as loop:
            while loop.catch_up(limit):
                pass
            arrays, _ = loop.fold.state()
            states.append({name: array.tobytes() for name, array in arrays.items()})
            with pytest.raises(UnknownId, match="no prediction with id"):
                loop.feedback(f"{PERSON}/{SINCE + 6}", label=1)
            assert loop.predict({"a": 1.0, "b": 0.0, "c": "c1"}).version == loop.home.versions.alias("champion")
    assert states[0] == states[1] == states[2]


@pytest.mark.parametrize("kind", ["window", "reservoir", "balanced"])
def test_the_replay_memory_and_what_waits_hold_nothing_of_the_person(tmp_path: Path, kind: Any) -> None:
    chosen, home = settings(replay=ReplaySpec(kind=kind, bytes=12_000, width=4)), tmp_path / "home"
    filled(home, chosen, traffic())
    with Loop(chosen, home) as loop:
        events = content(loop.log)
        gone = {event.position for event in events if PERSON in repr(event.payload)}
        held = loop.fold.monitor.remembered()
        mine = int(np.isin(held.position, [*gone]).sum())
        waiting = len(loop.fold.pending)
    assert mine > 5
    decision = erase(home, chosen, {"user": PERSON}, "asked")
    with Loop(chosen, home) as loop:
        left = loop.fold.monitor.remembered()
        assert not np.isin(left.position, [*gone]).any()
        assert set(left.position) <= set(held.position)
        assert len(left.y) == (len(held.y) - mine if kind == "window" else len(held.y))
        waited = waiting - len(loop.fold.pending)
        assert waited == sum(about(row) == PERSON and row % 9 != 5 and row % 13 == 12 for row in range(ROWS))
        assert decision.detail["forgotten"] == mine + waited


def test_a_person_from_whom_nothing_was_learned_costs_no_rebuilding(tmp_path: Path) -> None:
    chosen, home = settings(), tmp_path / "home"
    filled(home, chosen, traffic(300))
    with Loop(chosen, home) as loop:
        loop.log.append([Prediction("only", {"a": 1.0, "b": 1.0, "c": "c1"}, 0, (0.5, 0.5), "v", subject="ann")])
    with Loop(chosen, home) as loop:
        before, aliases = [one.id for one in loop.versions()], loop.aliases()
        arrays = model.copied(loop.fold.roster.champion.model.arrays)
        assert loop.fold.pending.state()["ids"].tobytes().endswith(b"only")
    decision = erase(home, chosen, {"user": "ann"}, "asked")
    assert decision.detail["versions"] == {}
    assert decision.detail["relearned"] == 0
    with Loop(chosen, home) as loop:
        assert [one.id for one in loop.versions()] == before
        assert loop.aliases() == aliases
        assert same(loop.fold.roster.champion.model.arrays, arrays)
        assert not loop.fold.pending.state()["ids"].tobytes().endswith(b"only")


def test_a_default_label_is_unlearned_too(tmp_path: Path) -> None:
    """Nobody answered the person's predictions: they were learned with the default, at the positions of others."""
    chosen = settings(feedback=FeedbackSpec(window=20.0, default=0), gate=GateSpec(minimum=100_000))
    home, clean = tmp_path / "home", tmp_path / "clean"
    columns = table(400)
    draw = np.random.default_rng(3)
    events: list[Payload] = []
    for row in range(400):
        features = {name: columns[name][row] for name in FIELDS}
        subject = PERSON if draw.random() < 0.1 else f"user-{row % 9}"
        events.append(Prediction(f"{subject}/{row}", features, 0, (0.5, 0.5), "v", subject=subject))
        if row >= 5 and row % 2 and not events[row - 5].id.startswith(PERSON):  # type: ignore[union-attr]
            events.append(Label(str(events[-5].id), 1))  # type: ignore[union-attr]
    filled(home, chosen, events, 2)
    held = Loop(chosen, home)
    assert held.fold.monitor.remembered().position.size
    held.close()
    erase(home, chosen, {"user": PERSON}, "asked")
    filled(clean, chosen, [one if PERSON not in repr(one) else None for one in events], 2)
    with Loop(chosen, home) as again, Loop(chosen, clean) as never:
        mine, theirs = (one.fold.monitor.remembered() for one in (again, never))
        rows = {(*mine.batch.dense[row].tolist(), mine.y[row]) for row in range(len(mine.y))}
        assert rows <= {(*theirs.batch.dense[row].tolist(), theirs.y[row]) for row in range(len(theirs.y))}


def test_a_challenger_of_a_gated_loop_is_rebuilt(tmp_path: Path) -> None:
    chosen, home = settings(mode="gated", gate=GateSpec(minimum=100_000)), tmp_path / "home"
    filled(home, chosen, traffic())
    erase(home, chosen, {"user": PERSON}, "asked")
    with Loop(chosen, home) as loop:
        events = content(loop.log)
        begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        expected = learn_all(begin, loop, events, 0, events[-1].position)
        assert same(loop.fold.roster.challenger.model.arrays, expected.arrays)


def test_versions_of_a_gated_loop_are_rebuilt_as_of_their_snapshot(tmp_path: Path) -> None:
    """A candidate is promoted long after it stopped learning; its version learned only up to then."""
    chosen, home = settings(mode="gated", gate=GateSpec(minimum=40, promote="snapshot")), tmp_path / "home"
    filled(home, chosen, traffic(4000, 300))
    with Loop(chosen, home) as loop:
        known, before, events = (
            training_positions(loop.log),
            {one.id: one for one in loop.versions()},
            content(loop.log),
        )
    decision = erase(home, chosen, {"user": PERSON}, "asked")
    replaced = decision.detail["versions"]
    assert any(known[id].log < before[id].position - 50 for id in replaced)
    with Loop(chosen, home) as loop:
        assert training_positions(loop.log) == known | {again: known[id] for id, again in replaced.items()}
        for id, again in replaced.items():
            begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
            expected = learn_all(begin, loop, events, 0, known[id].log)  # the challenger never began again
            assert same(loop.home.versions.load(again), expected.arrays)
        begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        expected = learn_all(begin, loop, events, 0, events[-1].position)
        assert same(loop.fold.roster.challenger.model.arrays, expected.arrays)
        roles = {loop.fold.roster.role_of(one): one.version for one in loop.fold.roster.contestants}
        assert loop.home.versions.alias("champion") == roles["champion"]
        assert not {*roles.values()} & replaced.keys()


@pytest.mark.parametrize("mode", ["live", "gated"])
def test_what_an_order_had_left_out_stays_out(tmp_path: Path, mode: Any) -> None:
    """A rollback without a source, then an erasure: the models have seen neither."""
    chosen, home = settings(mode=mode, gate=GateSpec(minimum=100_000)), tmp_path / "home"
    everything = traffic(900)[:-2]
    bad = [msgspec.structs.replace(one, source="bad") if _is_bad(one) else one for one in everything[:1200]]
    filled(home, chosen, bad, 1)
    with Loop(chosen, home) as loop:
        first = loop.versions()[0].id
        loop.rollback("labels of a bad source", without={"source": "bad"}, to=first)
        for moment, one in enumerate(everything[1200:]):
            loop.log.append([one], time=2e6 + moment)
    erase(home, chosen, {"user": PERSON}, "asked")
    with Loop(chosen, home) as loop:
        events = content(loop.log)
        begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        left = [event for event in events if getattr(event.payload, "source", "") != "bad"]
        expected = learn_all(begin, loop, left, 0, events[-1].position)
        assert same(loop.fold.roster.challenger.model.arrays, expected.arrays)


def _is_bad(one: Payload) -> bool:
    return isinstance(one, Label) and not one.id.startswith(PERSON) and int(one.id.partition("/")[2]) % 5 == 0


def test_a_challenger_that_was_warmed_on_a_window_is_rebuilt_from_as_many_rows(tmp_path: Path) -> None:
    chosen, home = settings(mode="gated", replay=ReplaySpec(kind="window", bytes=8_000, width=4)), tmp_path / "home"
    events = [
        Example(f"{about(i)}/{i}", {"a": i % 7 - 3.0, "b": 0.0, "c": "c1"}, i % 2, subject=about(i)) for i in range(500)
    ]
    filled(home, chosen, events, 1)
    with Loop(chosen, home) as loop:
        held = loop.fold.monitor.remembered()
        fresh = loop.challenge({"family": "linear"}, "try it again")
        assert "warmed on" in fresh.reason
    decision = erase(home, chosen, {"user": PERSON}, "asked")
    again = decision.detail["versions"][fresh.id]
    rows = [i for i, one in enumerate(events) if one.subject != PERSON][-len(held.y) :]
    with Loop(chosen, home) as loop:
        expected = model.build({"seed": chosen.seed, "family": "linear"}, loop.fold.shape)
        for i in rows:
            expected.learn(loop.fold.encoder.record(events[i].features), np.array([i % 2.0]), np.ones(1, np.float32))
        assert same(loop.home.versions.load(again), expected.arrays)


def test_feedback_that_came_early_is_forgotten(tmp_path: Path) -> None:
    chosen, home = settings(feedback=FeedbackSpec(early=1e9)), tmp_path / "home"
    filled(home, chosen, [*traffic(100, 50), Label(f"{OTHER}/late", 1), Label("unknown", 1)])
    with Loop(chosen, home) as loop:
        loop.log.append([Prediction(f"{OTHER}/late", {"a": 0.0, "b": 0.0, "c": ""}, 0, (1.0, 0.0), "v", subject=OTHER)])
        assert b"late" in loop.fold.early.state()["texts"].tobytes()  # it was not folded yet
        loop.close()
    decision = erase(home, chosen, {"user": OTHER}, "asked")
    assert decision.detail["forgotten"]
    with Loop(chosen, home) as loop:
        held = loop.fold.early.state()["texts"].tobytes()
        assert b"late" not in held
        assert b"unknown" in held
    assert bytes_on_disk(home, f"{OTHER}/late") == []


def test_by_a_field_of_the_schema_and_by_several(tmp_path: Path) -> None:
    chosen, home = settings(subject=""), tmp_path / "home"
    with Loop(chosen, home) as loop:
        for row in range(60):
            features = {"a": float(row % 3), "b": float(row % 2), "c": f"c{row % 5}"}
            loop.learn(features, row % 2, id=f"{row}")
    decision = erase(home, chosen, {"a": "2", "c": "c1"}, "asked")
    gone = [row for row in range(60) if row % 3 == 2 and row % 5 == 1]
    assert decision.detail["events"] == {"example": len(gone)}
    with Loop(chosen, home) as loop:
        left = {event.payload.id for event in content(loop.log) if isinstance(event.payload, Example)}
        assert left == {f"{row}" for row in range(60) if row not in gone}
        assert loop.log.count("example") == 60  # a count that names were made of does not go back


@pytest.mark.parametrize(
    ("where", "reason", "says"),
    [
        ({"user": "nobody"}, "asked", "nothing in the log of .* is about user=nobody"),
        ({"name": "x"}, "asked", r"where: got name; expected fields that the log holds: a, b, c, user"),
        ({}, "asked", "where: got nothing"),
        ({"user": ""}, "asked", "expected a value that rows can have"),
        ({"user": PERSON}, f"{PERSON} asked", "the reason holds the value of user"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    tmp_path: Path, where: dict[str, Any], reason: str, says: str
) -> None:
    chosen, home = settings(), tmp_path / "home"
    filled(home, chosen, traffic(60), 1)
    with SqliteLog(home / "log.sqlite") as log:
        before = content(log)
    with pytest.raises(InputError, match=says):
        erase(home, chosen, where, reason)
    with SqliteLog(home / "log.sqlite") as log:
        assert content(log) == before


@pytest.mark.parametrize("value", [7, 7.0, "7", True, "anna"])
def test_a_person_is_erased_by_the_value_that_the_application_used(tmp_path: Path, value: Any) -> None:
    chosen, home = settings(), tmp_path / "home"
    with Loop(chosen, home) as loop:
        for row in range(20):
            given = loop.predict({"a": float(row), "b": 0.0, "c": "c1", "user": value if row % 2 else "other"})
            loop.feedback(given.id, label=row % 2)
    done = erase(home, chosen, {"user": value}, "asked")
    assert done.detail["events"] == {"label": 10, "prediction": 10}


@pytest.mark.parametrize(
    ("subject", "values"),
    [
        ("7", [7, 7.0, "7", " 7.0"]),
        ("7.0", [7, 7.0, "7", "7.0"]),  # as release 0.1.0 wrote it where the application said 7.0
        ("true", [True, "true", "True"]),
        ("True", [True, "true", "True"]),
        ("2.5", [2.5, "2.5"]),
    ],
)
def test_a_subject_is_found_in_all_its_spellings(tmp_path: Path, subject: str, values: list[Any]) -> None:
    features = {"a": 1.0, "b": 1.0, "c": "c1"}
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([Prediction("one", features, 0, (0.5, 0.5), "v", subject=subject), Label("one", 1)])
        log.append([Prediction("two", features, 0, (0.5, 0.5), "v", subject="17")])
        for value in values:
            found = find(log, settings(), {"user": value})
            assert found.positions == [1, 2], value
        assert find(log, settings(), {"user": 8}).positions == []
        assert find(log, settings(), {"user": "truest"}).positions == []


@pytest.mark.parametrize("held", [7, 7.0, "7", "7.0", " 7 "])
@pytest.mark.parametrize("value", [7, 7.0, "7.0", " 7"])
def test_a_category_is_found_in_all_its_spellings(tmp_path: Path, held: Any, value: Any) -> None:
    with SqliteLog(tmp_path / "log.sqlite") as log:
        log.append([Prediction("one", {"a": 1.0, "c": held}, 0, (0.5, 0.5), "v")])
        log.append([Prediction("two", {"a": 1.0, "c": "70"}, 0, (0.5, 0.5), "v")])
        assert find(log, settings(), {"c": value}).positions == [1]


def test_an_open_loop_is_not_erased_from(tmp_path: Path) -> None:
    chosen, home = settings(), tmp_path / "home"
    filled(home, chosen, traffic(60), 1)
    with Loop(chosen, home), pytest.raises(LogError, match="is open in another process"):
        erase(home, chosen, {"user": OTHER}, "asked")


def test_a_folder_that_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the home of a loop"):
        erase(tmp_path / "none", settings(), {"user": "x"}, "asked")
    assert not (tmp_path / "none").exists()


def test_rows_of_a_file_that_is_the_log_are_not_ours(tmp_path: Path) -> None:
    chosen, home = settings(subject=""), tmp_path / "home"
    with Loop(chosen, home) as loop:
        loop.run(read(table(200), schema=chosen.schema))
        loop.learn({"a": 5.5, "b": 0.0, "c": "c1"}, 1)
    # The first good version, after 100 rows, is rebuilt from there.
    with pytest.raises(InputError, match="have learned 100 rows of files that are themselves the log"):
        erase(home, chosen, {"a": 5.5}, "asked")


def test_what_was_killed_half_way_is_completed_by_doing_it_again(tmp_path: Path, monkeypatch: Any) -> None:
    """Killed before each of the steps; then the same call ends where an undisturbed one does."""
    chosen, origin = settings(), tmp_path / "origin"
    filled(origin, chosen, traffic(500))
    results = {}
    for name in ("", "put", "erase", "remove", "scrub"):
        home = tmp_path / f"home-{name}"
        shutil.copytree(origin, home)
        if name:

            def kill(*_: Any) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            def work(home: Path, name: str = name) -> None:
                owner: Any = SqliteLog if name in ("erase", "scrub") else Blobs
                setattr(owner, name, kill)
                erase(home, chosen, {"user": PERSON}, "asked")

            assert os.WTERMSIG(os.waitpid(child(work, home), 0)[1]) == signal.SIGKILL
        decision = erase(home, chosen, {"user": PERSON}, "asked")
        assert bytes_on_disk(home, PERSON) == []
        with Loop(chosen, home) as loop:
            arrays, _ = loop.fold.state()
            assert loop.log.verify().ok
            done = [one for one in loop.decisions() if one.action == "erase"]
            assert done == [decision]
            events = [(e.position, type(e.payload).__name__) for e in content(loop.log)]
            results[name] = events, {n: array.tobytes() for n, array in arrays.items()}, loop.aliases()
            assert len(list((home / "blobs").iterdir())) <= len(loop.versions()) + 2
    assert all(result == results[""] for result in results.values())


def test_erasing_twice_is_erasing_once_and_another_person_comes_after(tmp_path: Path) -> None:
    chosen, home = settings(), tmp_path / "home"
    filled(home, chosen, traffic(500))
    once = erase(home, chosen, {"user": PERSON}, "asked")
    assert erase(home, chosen, {"user": PERSON}, "asked again") == once
    other = erase(home, chosen, {"user": OTHER}, "asked too")
    assert other != once
    assert bytes_on_disk(home, PERSON, OTHER) == []
    with Loop(chosen, home) as loop:
        events = content(loop.log)
        assert sum(isinstance(event.payload, Decision) and event.payload.action == "erase" for event in events) == 2
        begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        champion = loop.fold.roster.champion
        assert loop.log.verify().ok
        assert not same(begin.arrays, champion.model.arrays)


# ---- the log itself ------------------------------------------------------------------------------------------------


def test_the_log_erases_only_what_may_be_erased(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.db") as log:
        log.append(
            [Example("a", {"x": 1}, 1), Label("p", 1), Decision("drift", 1, "why", "drift"), Example("b", {}, 1)]
        )
        before = content(log)
        for position, kind in ((3, "decision"), (9, "not there")):
            with pytest.raises(InputError, match=f"event {position} is {kind}"):
                log.erase([1, position], [])
            assert content(log) == before
        assert log.erase([1, 4], [Decision("erase", 4, "asked", "user")], time=7.0) == [5]
        assert log.erase([1], []) == []
        after = content(log)
        assert [event.payload for event in after[:4]] == [
            Erased(1, "example"),
            Label("p", 1),
            Decision("drift", 1, "why", "drift"),
            Erased(4, "example"),
        ]
        assert log.verify().ok
        assert log.count("example") == 2
        assert log.count("erased") == 2
        assert log.find("example:a") is None
        assert log.append([Example("a", {"x": 2}, 1)]) == [6]
    with (
        closing(sqlite3.connect(tmp_path / "log.db")) as other,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        other.execute("UPDATE events SET time = 0")


def test_scrubbing_waits_for_nobody_and_says_who_is_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path) as log, SqliteLog(path) as other:
        log.append([Example(PERSON, {"x": 1}, 1), Example("b", {"x": 1}, 1)])
        log.erase([1], [])
        log.scrub()  # another connection that does not read is not in the way
        assert bytes_on_disk(tmp_path, PERSON) == []
        assert len(content(other)) == 2


def test_every_size_of_content_is_gone_from_the_bytes(tmp_path: Path) -> None:
    """Small rows, rows over many pages, and keys that were in the upper levels of the index."""
    path = tmp_path / "log.db"
    draw = np.random.default_rng(0)
    with SqliteLog(path) as log:
        mine = []
        for group in range(200):
            pad = "x" * int(draw.choice([1, 50, 900, 9000]))
            who = PERSON if group % 3 == 0 else "other"
            log.append(
                [Example(f"{draw.integers(1 << 40)}/{who}/{group}/{i}", {"p": pad, "w": who}, 1) for i in range(9)]
            )
        mine = [event.position for event in content(log) if PERSON in repr(event.payload)]
        log.erase(mine, [])
        log.scrub()
        assert bytes_on_disk(tmp_path, PERSON) == []
        assert [event.position for event in content(log)] == list(range(1, 1801))


# ---- memories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["window", "reservoir", "balanced"])
@pytest.mark.parametrize("classes", [0, 3])
def test_a_memory_without_some_rows_goes_on_as_one(kind: Any, classes: int) -> None:
    chosen = ReplaySpec(kind=kind, bytes=6_000, width=2)
    draw = np.random.default_rng(5)
    n = 400

    def rows(start: int, many: int) -> Examples:
        lengths = draw.integers(0, 4, many)
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        batch = Batch(
            draw.normal(size=(many, 2)).astype(np.float32),
            indptr,
            draw.integers(0, 9, indptr[-1]).astype(np.int32),
            np.ones(indptr[-1], np.float32),
        )
        y = draw.integers(0, classes, many).astype(float) if classes else draw.normal(size=many)
        return Examples(batch, y, np.ones(many, np.float32), np.arange(start, start + many))

    memory = replay.start(chosen, 2, 16, classes, seed=3)
    replay.add(memory, chosen, rows(1, n))
    before = replay.contents(memory, chosen)
    lost = int((before.position % 5 == 0).sum())
    assert lost > 3
    removed = forget(memory, chosen, replay.start(chosen, 2, 16, classes, seed=3), lambda held: held.position % 5 == 0)
    assert removed == lost
    after = replay.contents(memory, chosen)
    assert not (after.position % 5 == 0).any()
    assert set(after.position) <= set(before.position)
    assert len(after.y) == len(before.y) - (lost if kind == "window" else 0)
    if classes and kind == "balanced":
        assert np.bincount(after.y.astype(int)).tolist() == np.bincount(before.y.astype(int)).tolist()
    replay.add(memory, chosen, rows(n + 1, 3000))
    later = replay.contents(memory, chosen)
    assert len(later.y) >= len(before.y)
    assert later.position.max() > n


def test_a_class_of_one_person_only_leaves_a_memory_of_the_others() -> None:
    chosen = ReplaySpec(kind="balanced", bytes=4_000, width=0)
    y = np.array([0.0, 1.0, 1.0, 0.0, 2.0, 2.0])
    empty = np.zeros(0, np.int32)
    batch = Batch(np.arange(12, dtype=np.float32).reshape(6, 2), np.zeros(7, np.int64), empty, empty.astype(np.float32))
    memory = replay.start(chosen, 2, 0, 3)
    replay.add(memory, chosen, Examples(batch, y, np.ones(6, np.float32), np.arange(1, 7)))
    assert forget(memory, chosen, replay.start(chosen, 2, 0, 3), lambda held: held.y == 2.0) == 2
    assert replay.contents(memory, chosen).position.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("rolled_back", [False, True])
def test_gated_learners_are_rebuilt_from_where_they_began(tmp_path: Path, rolled_back: bool) -> None:
    """A learner that took the seat, and, after a rollback, the copy of the good version that learns on beside it."""
    chosen, home = settings(mode="gated", gate=GateSpec(minimum=40)), tmp_path / "home"
    events = traffic(1200, since=600)
    filled(home, chosen, events[:1500])
    with Loop(chosen, home) as loop:
        assert loop.fold.roster.champion.learns  # it was promoted
        if rolled_back:
            loop.rollback()
            assert not loop.fold.roster.champion.learns
        begun = loop.log.end()
    filled(home, chosen, events[1500:])
    with Loop(chosen, home) as loop:
        origin, known = loop.fold.roster.challenger.version, content(loop.log)
        if not rolled_back:
            begun = next(one.position for one in loop.versions() if one.id == origin)
    renamed = erase(home, chosen, {"user": PERSON}, "asked by mail").detail["versions"]
    with Loop(chosen, home) as loop:
        roster = loop.fold.roster
        learner = roster.challenger
        assert learner.version == renamed.get(origin, origin)
        assert (roster.champion is learner) == (not rolled_back)
        begin = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        model.restore(begin, loop.home.versions.load(learner.version))
        assert same(learner.model.arrays, learn_all(begin, loop, known, begun, known[-1].position).arrays)
