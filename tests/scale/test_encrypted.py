"""Logs that encrypt, against plain ones: the same events, the same models, and the same traces after an erasure."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn.errors import ConfigError, IdTaken, InputError, LogError, UnknownId
from everlearn.events import EncryptingLog, ErasableLog, Log, SqliteLog, key, log_of, rests
from everlearn.loop.erase import erase
from everlearn.loop.loop import Loop
from everlearn.loop.replay_log import replay_log
from everlearn.records import (
    Checkpoint,
    Decision,
    Encrypted,
    Erased,
    Event,
    Example,
    Label,
    Payload,
    Prediction,
    Rejected,
    Reward,
)
from everlearn.spec import FeedbackSpec, LogSpec, Spec
from everlearn.version.blobs import Blobs
from everlearn.version.registry import Versions
from tests.support import append_only
from tests.support.erasures import OTHER, PERSON, filled, settings, traffic
from tests.support.loops import table
from tests.support.payloads import content
from tests.support.snapshots import same

pytest.importorskip("cryptography", reason="needs everlearn[keys]")

from everlearn.scale.encrypted import EncryptedLog, encrypted
from everlearn.scale.sqlite_keys import FILE, SqliteKeys

PLACES = ["in place", "by keys", "postgresql", "nats"]
whole_loops = pytest.mark.parametrize(
    "spec_of", [*PLACES[:2], *(pytest.param(place, marks=pytest.mark.slow) for place in PLACES[2:])], indirect=True
)


@pytest.fixture(params=PLACES)
def spec_of(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LogSpec:
    """Where a log that encrypts is."""
    if request.param == "postgresql":
        return LogSpec(url=request.getfixturevalue("url"), encrypt=True)
    if request.param == "nats":
        return LogSpec(url=request.getfixturevalue("stream"), encrypt=True)
    if request.param == "by keys":
        append_only.installed(monkeypatch)
        return LogSpec(url=f"{append_only.SCHEME}://{tmp_path}/append.sqlite", encrypt=True)
    return LogSpec(encrypt=True)


@pytest.fixture
def log(spec_of: LogSpec, tmp_path: Path) -> Iterator[EncryptedLog]:
    opened = log_of(tmp_path, spec_of)
    assert isinstance(opened, EncryptedLog)
    yield opened
    opened.close()


def about(subject: str, id: str, **features: Any) -> Prediction:
    return Prediction(id, features or {"x": 1.5, "who": subject}, True, (0.25, 0.75), "v1", subject=subject)


def below(log: EncryptedLog) -> list[Event]:
    """What the log below holds."""
    return log._log.read(0, 10_000)


def erased(log: EncryptedLog, *positions: int) -> None:
    log.acquire()
    found = log.covered(positions)
    log.erase(positions, [Decision("erase", log.end(), "asked", "user", detail={"keys": list(found.handles)})])


def state(home: Path, chosen: Spec) -> tuple[list[Event], dict[str, Any], dict[str, Any]]:
    """The events of a home, the arrays of its fold, and those of its versions in order."""
    with Loop(chosen, home) as loop:
        events, arrays = content(loop.log), loop.fold.state()[0]
        stored = loop.home.blobs.hashes()
        versions = [one for one in loop.versions() if one.blob in stored]
        return events, arrays, {str(place): loop.home.versions.load(one.id) for place, one in enumerate(versions)}


def comparable(events: list[Event]) -> list[tuple[int, float | None, Payload]]:
    """Events without what differs between any two erasures: salts, digests and keys, and when they were decided."""
    found: list[tuple[int, float | None, Payload]] = []
    for event in events:
        payload, time = event.payload, event.time if event.time < 2e6 else None
        if isinstance(payload, Decision):
            left = ("salt", "digest", "keys", "spec", "before")
            detail = {name: value for name, value in payload.detail.items() if name not in left}
            payload = msgspec.structs.replace(payload, detail=detail)
        if isinstance(payload, Checkpoint):  # its blob holds the settings
            payload = Checkpoint(payload.at, "")
        found.append((event.position, time, payload))
    return found


# ---- the same loop as a plain one ------------------------------------------------------------------------------------


@whole_loops
def test_an_erasure_by_key_leaves_what_an_erasure_in_place_leaves(tmp_path: Path, spec_of: LogSpec) -> None:
    """The oracle is the plain log of the same events, whose erasure the tests of `loop.erase` hold to account."""
    plain, chosen, one, two = settings(), settings(log=spec_of), tmp_path / "plain", tmp_path / "encrypted"
    events = traffic(500, 200)
    filled(one, plain, events)
    filled(two, chosen, events)
    before = state(one, plain), state(two, chosen)
    assert comparable(before[0][0]) == comparable(before[1][0])
    assert same(before[0][1], before[1][1])
    assert (
        erase(one, plain, {"user": PERSON}, "asked").detail["events"]
        == (made := erase(two, chosen, {"user": PERSON}, "asked")).detail["events"]
    )
    assert made.detail["keys"]
    after = state(one, plain), state(two, chosen)
    assert any(isinstance(event.payload, Erased) for event in after[1][0])
    assert comparable(after[0][0]) == comparable(after[1][0])
    assert same(after[0][1], after[1][1])
    assert after[0][2].keys() == after[1][2].keys()
    assert all(same(after[0][2][id], after[1][2][id]) for id in after[0][2])
    assert not same(before[1][1], after[1][1])
    with pytest.raises(InputError, match="nothing in the log"):
        erase(two, chosen, {"user": "somebody else"}, "asked")
    assert erase(two, chosen, {"user": PERSON}, "asked") == made  # again: completed before


def test_a_copy_of_the_log_from_before_is_erased_as_well(tmp_path: Path) -> None:
    chosen, home, copy = settings(log=LogSpec(encrypt=True)), tmp_path / "home", tmp_path / "copy"
    filled(home, chosen, traffic(400, 150))
    copy.mkdir()
    shutil.copy(home / "log.sqlite", copy)
    assert {path.name for path in home.iterdir()} >= {"log.sqlite", FILE}
    with closing(log_of(home, chosen.log)) as log:
        whole = content(log)
    erase(home, chosen, {"user": PERSON}, "asked")
    with (
        closing(encrypted(SqliteLog(copy / "log.sqlite"), home, chosen.log)) as old,
        closing(log_of(home, chosen.log)) as now,
    ):
        assert old.end() == whole[-1].position
        assert content(old) == content(now)[: len(whole)] != whole
        with closing(SqliteLog(tmp_path / "twin.sqlite")) as twin:  # the oracle: only tombstones were ever written
            for event in content(now)[: len(whole)]:
                assert twin.append([event.payload], event.time) == [event.position]
            folds = [
                replay_log(log, Versions(Blobs(tmp_path / f"blobs {place}"))) for place, log in enumerate((old, twin))
            ]
    assert same(folds[0].state()[0], folds[1].state()[0])


def test_a_subject_alone_can_be_erased_where_only_keys_erase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_only.installed(monkeypatch)
    log = LogSpec(url=f"append://{tmp_path}/log.sqlite", encrypt=True)
    chosen, home = settings(log=log), tmp_path / "home"
    filled(home, chosen, traffic(200, 100))
    with pytest.raises(InputError, match=r"where: \d+ of \d+ events have no key, or share one.*Name user=VALUE alone"):
        erase(home, chosen, {"c": table(1)["c"][0]}, "on request")


@whole_loops
def test_an_erasure_that_was_killed_before_its_keys_were_destroyed_is_completed(
    tmp_path: Path, spec_of: LogSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, home = settings(log=spec_of), tmp_path / "home"
    filled(home, chosen, traffic(300, 100))
    with monkeypatch.context() as patched:
        patched.setattr(EncryptedLog, "_destroy", lambda self, payloads: 1 / 0 if isinstance(payloads, list) else None)
        with pytest.raises(ZeroDivisionError):
            erase(home, chosen, {"user": PERSON}, "asked")
    with Loop(chosen, home) as loop:
        (made,) = [one for one in loop.decisions() if one.action == "erase"]
        events = content(loop.log)
        assert isinstance(loop.log, EncryptedLog)
        assert set(loop.log._keys.of_handles(made.detail["keys"]).values()) == {None}
    assert PERSON not in repr(events)
    assert OTHER in repr(events)


def test_erase_refuses_settings_that_do_not_read_the_encrypted_events(tmp_path: Path) -> None:
    filled(tmp_path / "home", settings(log=LogSpec(encrypt=True)), traffic())
    with pytest.raises(ConfigError, match="log.encrypt: got false, and the events of .* are encrypted; expected true"):
        erase(tmp_path / "home", settings(), {"user": PERSON}, "request 1")


def test_a_loop_that_encrypts_needs_subjects_and_keeps_encrypting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="log.encrypt: got true without `subject`"):
        Loop(settings(log=LogSpec(encrypt=True), subject=""), tmp_path / "none")
    filled(tmp_path / "home", settings(), traffic(30, 10))
    with pytest.raises(ConfigError, match="log.encrypt was False, is now True, and cannot change"):
        Loop(settings(log=LogSpec(encrypt=True)), tmp_path / "home")


# ---- what the log below holds ----------------------------------------------------------------------------------------


def test_nothing_about_a_subject_is_readable_below(log: EncryptedLog, tmp_path: Path) -> None:
    payloads: list[Payload] = [
        about("zoe-quux-4711", "1", name="name-quux-4711", x=4711.12345678),
        Label("1", "positive-4711", source="clinic-4711"),
        Reward("1", 4711.12345678),
        Example("2", {"name": "name-quux-4711"}, "positive-4711", subject="zoe-quux-4711"),
        Rejected("rows", 3, "line 3: bad name-quux-4711", "x,name-quux-4711"),
        Label("unknown", "positive-4711"),
    ]
    words = "zoe-quux-", "name-quux-", "positive-", "clinic-", "4711.123"
    positions = log.append(payloads)
    assert [event.payload for event in log.read()] == payloads
    assert [log.find(key(payload)).payload for payload in payloads[::3]] == payloads[::3]  # type: ignore[union-attr]
    assert [event.payload for event in log.about("1")] == payloads[:3]
    assert all(isinstance(event.payload, Encrypted) for event in below(log))
    assert not any(word in repr(below(log)) for word in words)
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != FILE:
            assert not any(word in path.read_bytes() for word in (b"zoe-quux-4711", b"name-quux-4711", b"4711")), path
    assert log.append(payloads) == positions
    assert log.count("label") == 2
    assert log.last("example").payload == payloads[3]  # type: ignore[union-attr]


def test_the_key_of_a_label_does_not_give_the_label_away(log: EncryptedLog) -> None:
    log.append([about("zoe", "1"), Label("1", True)])
    assert log._log.find(key(Label("1", True))) is None
    assert log._log.find(key(Label("1", False))) is None
    assert [event.payload for event in log._log.about("1")] == [event.payload for event in below(log)]


def test_events_without_a_subject_are_plain(log: EncryptedLog) -> None:
    payloads = [about("", "1"), Label("1", True), Example("2", {}, 1), Decision("config", 0, "why", "user")]
    log.append(payloads)
    assert [event.payload for event in below(log)] == payloads
    assert log.verify().ok


def test_the_same_record_again_is_one_event_whatever_the_order_of_its_fields(log: EncryptedLog) -> None:
    (position,) = log.append([about("zoe", "1", a=1.0, b=2.0)])
    assert log.append([about("zoe", "1", b=2.0, a=1.0), about("zoe", "2")]) == [position, position + 1]
    for other in (about("zoe", "1", a=1.0, b=3.0), about("adam", "1", a=1.0, b=2.0)):
        with pytest.raises(InputError, match="use another id"):
            log.append([other, about("zoe", "3")])
    assert log.find("prediction:3") is None


# ---- handles ---------------------------------------------------------------------------------------------------------


def test_feedback_with_a_handle_needs_no_look_up(log: EncryptedLog) -> None:
    handle = log.handle("zoe")
    assert handle
    assert log.handle("") == ""
    log.append([Label("not here yet", True, handle=handle)])
    log.append([about("zoe", "not here yet"), Label("not here yet", True)])
    assert [event.payload for event in log.read()] == [Label("not here yet", True), about("zoe", "not here yet")]
    assert {event.payload.handle for event in below(log) if isinstance(event.payload, Encrypted)} == {handle}


def test_early_feedback_without_a_handle_is_one_event_and_is_erased_with_its_prediction(log: EncryptedLog) -> None:
    log.append([Label("1", True), Label("9", False)])
    log.append([about("zoe", "1"), Label("1", True)])
    log.append([Label("1", True, handle=log.handle("zoe"))])
    assert log.count("label") == 2
    erased(log, *(event.position for event in log.about("1")))
    left = [event.payload for event in log.read(kinds=("label", "prediction", "erased"))]
    assert left == [Erased(1, "label"), Label("9", False), Erased(3, "prediction")]


def test_unknown_and_destroyed_handles_are_refused(log: EncryptedLog) -> None:
    with pytest.raises(UnknownId, match="got 'x'; expected the handle of a key"):
        log.append([Label("1", True, handle="x")])
    (position,) = log.append([about("zoe", "1")])
    handle = log.handle("zoe")
    erased(log, position)
    with pytest.raises(UnknownId, match="names the key of a subject who was erased"):
        log.append([Label("1", True, handle=handle)])
    assert log.handle("zoe") != handle


# ---- erasing ---------------------------------------------------------------------------------------------------------


def test_erased_events_are_tombstones_in_every_way_of_reading(log: EncryptedLog) -> None:
    log.append([about("zoe", "1"), about("adam", "2"), Label("1", True), Label("2", False), about("zoe", "3")])
    erased(log, 1, 3, 5)
    tombs = [Erased(1, "prediction"), Erased(3, "label"), Erased(5, "prediction")]
    whole = [tombs[0], about("adam", "2"), tombs[1], Label("2", False), tombs[2]]
    assert [event.payload for event in log.read(limit=5)] == whole
    assert [event.payload for event in log.read(kinds=("erased",))] == tombs
    assert [event.position for event in log.read(kinds=("prediction",))] == [2]
    assert [event.position for event in log.read(2, 1, kinds=("label", "prediction"))] == [4]
    assert [log.find(f"prediction:{id}") is None for id in "123"] == [True, False, True]
    assert (log.about("1"), len(log.about("2"))) == ([], 2)
    assert log.last("prediction").payload == about("adam", "2")  # type: ignore[union-attr]
    assert (log.count("prediction"), log.count("label"), log.end()) == (3, 2, 6)
    assert log.verify().ok


def test_an_erased_id_is_not_used_again_where_only_keys_erase(log: EncryptedLog) -> None:
    (position,) = log.append([about("zoe", "1")])
    erased(log, position)
    if log.in_place:  # the id went with the event
        assert log.append([about("zoe", "1")]) == [position + 2]
        return
    with pytest.raises(IdTaken, match="of this id was erased; use another id"):
        log.append([about("zoe", "1")])
    with pytest.raises(IdTaken, match="of this id was erased; use another id"):
        log.append([about("adam", "1")])


def test_only_keys_of_erased_events_alone_are_destroyed(log: EncryptedLog) -> None:
    log.append([about("zoe", "1"), about("zoe", "2"), about("adam", "3"), about("", "4")])
    zoe, adam = log.handle("zoe"), log.handle("adam")
    assert log.covered([1]) == ((), 1)
    assert log.covered([1, 2]) == ((zoe,), 0)
    assert log.covered([2, 3, 4]) == ((adam,), 2)


def test_a_log_that_lost_its_keys_is_not_taken_for_an_erased_one(tmp_path: Path) -> None:
    with closing(log_of(tmp_path, LogSpec(encrypt=True))) as log:
        log.append([about("zoe", "1")])
    for path in tmp_path.glob(f"{FILE}*"):
        path.unlink()
    expected = pytest.raises(LogError, match="holds events that cannot be decrypted.*put back a copy")
    with closing(log_of(tmp_path, LogSpec(encrypt=True))) as log, expected:
        log.read()


def test_a_log_that_encrypts_is_what_it_says(log: EncryptedLog) -> None:
    kept: Log = log
    assert isinstance(kept, EncryptingLog)
    assert isinstance(kept, ErasableLog)
    assert not isinstance(SqliteKeys, EncryptingLog)


@whole_loops
def test_early_feedback_of_a_loop_is_learned_once(tmp_path: Path, spec_of: LogSpec) -> None:
    early = FeedbackSpec(early=1e9)
    chosen, plain = settings(log=spec_of, feedback=early), settings(feedback=early)
    events = traffic(120, 40)
    late: list[Payload] = [*(one for one in events if isinstance(one, Label)), *events]
    for home, one in ((tmp_path / "plain", plain), (tmp_path / "encrypted", chosen)):
        filled(home, one, late)
    states = state(tmp_path / "plain", plain), state(tmp_path / "encrypted", chosen)
    assert comparable(states[0][0]) == comparable(states[1][0])
    assert same(states[0][1], states[1][1])
    assert np.sum([isinstance(event.payload, Label) for event in states[1][0]]) > 80


def test_the_keys_of_events_that_a_broker_has_outlive_a_loss_of_power(tmp_path: Path) -> None:
    settings = LogSpec(url="nats://broker.example/loop", encrypt=True)
    with SqliteLog(tmp_path / "log.sqlite") as plain, encrypted(plain, tmp_path, settings) as log:
        store = log._keys._store
        assert isinstance(store, SqliteKeys)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert not log.quick  # a key then takes a write to the disk


def descriptors(folder: Path) -> int:
    """The files of a folder that this process has open."""
    return sum(one.resolve().is_relative_to(folder) for one in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_an_idle_log_holds_no_descriptors_and_wakes(tmp_path: Path) -> None:
    with closing(log_of(tmp_path, LogSpec(encrypt=True))) as log:
        assert rests(log)
        assert not log.resting
        first = about("ann", "a")
        log.append([first])
        assert descriptors(tmp_path) > 0
        log.rest()
        assert log.resting
        assert descriptors(tmp_path) == 0
        log.append([about("bob", "b")])  # whose key is made now
        assert not log.resting
        assert [event.payload.subject for event in log.read()] == ["ann", "bob"]
        log.rest()
    with pytest.raises(LogError):
        log.append([about("cem", "c")])
    assert descriptors(tmp_path) == 0


def test_keys_that_were_lost_while_the_log_was_idle_are_not_made_again(tmp_path: Path) -> None:
    with closing(log_of(tmp_path, LogSpec(encrypt=True))) as log:
        assert rests(log)
        log.append([about("ann", "a")])
        log.rest()
        (tmp_path / FILE).rename(tmp_path / "moved")
        with pytest.raises(LogError, match="put it back"):
            log.append([about("bob", "b")])
        assert not (tmp_path / FILE).exists()
        (tmp_path / "moved").rename(tmp_path / FILE)
        assert len(log.append([about("bob", "b")])) == 1


def test_a_log_that_cannot_rest_does_not_say_that_it_can(log: EncryptedLog) -> None:
    assert rests(log) == isinstance(log._log, SqliteLog)
