"""An erasure from a log whose broker has removed old events: what cannot be learned again is dropped, and named."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from everlearn import events as log_module
from everlearn import model
from everlearn.errors import InputError
from everlearn.events import EncryptingLog, log_of, scan
from everlearn.loop.erase import erase, finding
from everlearn.loop.loop import Loop
from everlearn.loop.rebuild import training_positions
from everlearn.records import Event, Example, Label, Payload, Prediction
from everlearn.spec import LogSpec, Spec
from tests.support.erasures import PERSON, filled, learn_all, settings, traffic
from tests.support.nats import NatsServers
from tests.support.snapshots import same

pytest.importorskip("cryptography", reason="needs everlearn[keys]")
pytest.importorskip("nats", reason="needs everlearn[nats]")


def spec_of(stream: str) -> Spec:
    return settings(log=LogSpec(url=stream, encrypt=True))


def row_of(payload: Payload) -> int:
    """The number of the row that an event of the traffic is about; -1 for a row that was set aside."""
    return int(payload.id.partition("/")[2]) if isinstance(payload, Prediction | Label | Example) else -1


def remove(nats: NatsServers, stream: str, messages: int) -> None:
    """Let the broker remove its first messages, as retention does."""
    nats.admin(lambda context: context.purge_stream(stream.rpartition("/")[2], seq=messages + 1))


def left(home: Path, chosen: Spec, removed: int) -> list[Event]:
    """The events that the broker still has, decrypted."""
    with closing(log_of(home, chosen.log)) as log:
        return list(scan(log, removed))


def blobs(loop: Loop) -> set[str]:
    """The ids of the versions that have arrays."""
    stored = loop.home.blobs.hashes()
    return {version.id for version in loop.versions() if version.blob in stored}


def test_versions_that_learned_removed_events_are_dropped_and_the_rest_is_learned(
    nats: NatsServers, stream: str, tmp_path: Path
) -> None:
    """The oracle is a new model that learns what is left of everybody else."""
    chosen, home = spec_of(stream), tmp_path / "home"
    filled(home, chosen, traffic(500, 40))
    with Loop(chosen, home) as loop:
        before = [version.id for version in loop.versions()]
        grown = training_positions(loop.log)
    remove(nats, stream, 250)
    made = erase(home, chosen, {"user": PERSON}, "on request")
    removed = made.detail["removed"]
    assert 200 < removed < 300
    assert made.detail["first"] == 1  # any of the removed events may have been about the person
    events = left(home, chosen, removed)
    assert PERSON not in repr(events)
    with Loop(chosen, home) as loop:
        trained = {id for id in before if grown[id].log > 0}
        assert trained
        assert trained == {*made.detail["dropped"], *made.detail["versions"]} & trained
        assert made.detail["dropped"]
        assert not blobs(loop) & trained
        assert isinstance(loop.log, EncryptingLog)
        assert set(loop.log._keys.of_handles(made.detail["keys"]).values()) == {None}  # type: ignore[attr-defined]
        champion = loop.fold.roster.champion
        known = {event.payload.id for event in events if isinstance(event.payload, Prediction)}
        taught = [e for e in events if not isinstance(e.payload, Label) or e.payload.id in known]
        one = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        assert same(champion.model.arrays, learn_all(one, loop, taught, removed, made.at).arrays)
        assert not same(champion.model.arrays, model.build(one.spec).arrays)
        assert loop.fold.roster.champion.version == loop.home.versions.alias("champion")
        assert loop.home.versions.find("champion").reason == "learned again from what the broker still had"
        assert training_positions(loop.log)[champion.version].log == made.at
        waiting = [one.position for one in loop.fold.pending]
        assert all(position > removed for position in waiting)
        remembered = loop.fold.monitor.memory["position"]
        assert (remembered > removed).any()
        assert not ((remembered > 0) & (remembered <= removed)).any()
    assert erase(home, chosen, {"user": PERSON}, "on request") == made  # again: completed before
    with Loop(chosen, home) as loop:  # and it goes on
        scored = loop.report()["examples"]
        answer = loop.predict(traffic(1)[0].features)  # type: ignore[union-attr]
        loop.feedback(answer.id, 1)
        assert loop.report()["examples"] == scored + 1


def test_a_person_who_came_after_what_was_removed_costs_no_version(
    nats: NatsServers, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is the plain log of the same events, whose erasure other tests hold to account."""
    monkeypatch.setattr(finding, "CLOCKS", 0.0)
    chosen, plain, home = spec_of(stream), settings(), tmp_path / "home"
    events = traffic(400, 330)
    filled(home, chosen, events)
    filled(tmp_path / "plain", plain, events)
    remove(nats, stream, 150)
    made = erase(home, chosen, {"user": PERSON}, "on request")
    expected = erase(tmp_path / "plain", plain, {"user": PERSON}, "on request")
    assert made.detail["dropped"] == []
    assert made.detail["removed"] >= 150
    assert made.detail["events"] == expected.detail["events"]
    assert made.detail["first"] == expected.detail["first"] > made.detail["removed"]
    arrays: list[dict[str, Any]] = []
    for folder, one in ((home, chosen), (tmp_path / "plain", plain)):
        with Loop(one, folder) as loop:
            arrays.append(dict(loop.fold.roster.champion.model.arrays))
            arrays.append(dict(loop.home.versions.load("champion")))
    assert same(arrays[0], arrays[2])
    assert same(arrays[1], arrays[3])


def test_a_champion_begins_again_from_a_version_that_the_person_is_not_in(
    nats: NatsServers, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was removed lies between the newest version and the person, so the version stays and the labels are lost."""
    monkeypatch.setattr(finding, "CLOCKS", 0.0)
    chosen, home = spec_of(stream), tmp_path / "home"
    filled(home, chosen, traffic(400, 330))
    with Loop(chosen, home) as loop:
        grown = training_positions(loop.log)
        root = max((id for id in blobs(loop) if grown[id].log < 250), key=lambda id: grown[id].log)
    remove(nats, stream, 300)
    made = erase(home, chosen, {"user": PERSON}, "on request")
    removed = made.detail["removed"]
    assert 0 < grown[root].log < removed < made.detail["first"]
    events = left(home, chosen, removed)
    with Loop(chosen, home) as loop:
        assert root in blobs(loop)
        champion = loop.fold.roster.champion
        known = {event.payload.id for event in events if isinstance(event.payload, Prediction)}
        taught = [e for e in events if not isinstance(e.payload, Label) or e.payload.id in known]
        one = model.build({"seed": chosen.seed, **chosen.model}, loop.fold.shape)
        model.restore(one, loop.home.versions.load(root))
        assert same(champion.model.arrays, learn_all(one, loop, taught, removed, made.at).arrays)
        assert loop.home.versions.find(champion.version).parents == (root,)


def test_a_person_of_whom_nothing_is_left_is_erased_from_the_models(
    nats: NatsServers, stream: str, tmp_path: Path
) -> None:
    chosen, home = spec_of(stream), tmp_path / "home"
    events: Sequence[Payload] = [one for one in traffic(250, 0) if row_of(one) < 60 or PERSON not in repr(one)]
    filled(home, chosen, events)
    remove(nats, stream, 200)
    made = erase(home, chosen, {"user": PERSON}, "on request")
    assert made.detail["events"] in ({}, {"rejected": 1})
    assert len(made.detail["keys"]) >= 1
    assert {*made.detail["dropped"], *made.detail["versions"]}
    with pytest.raises(InputError, match="nothing in the log"):
        erase(home, chosen, {"user": "no one here"}, "on request")


def test_only_a_whole_subject_can_be_erased_where_events_were_removed(
    nats: NatsServers, stream: str, tmp_path: Path
) -> None:
    chosen, home = spec_of(stream), tmp_path / "home"
    filled(home, chosen, traffic(40, 10))
    remove(nats, stream, 20)
    with closing(log_of(home, chosen.log)) as log:
        assert 10 < log_module.removed(log) < 40
    with pytest.raises(InputError, match=r"where: got a; expected user alone, since the broker has removed the events"):
        erase(home, chosen, {"a": 1.0}, "on request")


def test_a_log_that_has_everything_has_nothing_removed(tmp_path: Path) -> None:
    with closing(log_of(tmp_path, LogSpec())) as plain:
        assert log_module.removed(plain) == 0
    (tmp_path / "keys").mkdir()
    with closing(log_of(tmp_path / "keys", LogSpec(encrypt=True))) as log:
        assert log_module.removed(log) == 0


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_correction_of_what_was_removed_is_passed_over(
    nats: NatsServers, stream: str, tmp_path: Path, encrypt: bool
) -> None:
    chosen, home = settings(log=LogSpec(url=stream, encrypt=encrypt)), tmp_path / "home"
    filled(home, chosen, traffic(60, 20))
    remove(nats, stream, 40)
    with Loop(chosen, home) as loop:
        before = loop.fold.unusable, loop.report()["examples"]
        loop.log.append([Label("user-1/1", 5), Label("user-1/1", 0)])
        while loop.catch_up():
            pass
        assert (loop.fold.unusable, loop.report()["examples"]) == (before[0] + 2, before[1])
        answer = loop.predict(traffic(1)[0].features)  # type: ignore[union-attr]
        loop.feedback(answer.id, 1)
        assert loop.report()["examples"] == before[1] + 1
