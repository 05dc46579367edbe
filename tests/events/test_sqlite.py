"""The log against a plain list, against SIGKILL, and against every way in which a file can fail."""

from __future__ import annotations

import doctest
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from everlearn import events
from everlearn.errors import ConfigError, InputError, LogError
from everlearn.events import KINDS, Row, SqliteLog, connect, file, key, row, rows, seals, sqlite
from everlearn.records import (
    Born,
    Checkpoint,
    Decision,
    Erased,
    Event,
    Evidence,
    Example,
    Label,
    Payload,
    Prediction,
    Preference,
    Rejected,
    Reward,
    Version,
)

EVIDENCE = Evidence(600, 25, 24, 0.01, -0.1, 0.1, 3.2, -1.5, 2.99)

# Surrogates have no UTF-8; NUL, quotes and every script have.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.booleans() | st.integers(-(10**40), 10**40) | floats | texts
json = st.recursive(
    st.none() | scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
features = st.dictionaries(texts, json, max_size=4)
counts = st.integers(0, 2**62)
versions = st.builds(
    Version, texts, st.tuples(texts), counts, texts, features, st.dictionaries(texts, floats, max_size=2), texts
)
payloads: st.SearchStrategy[Payload] = st.one_of(
    st.builds(
        Prediction,
        *(texts, features, scalars, st.tuples(floats, floats), texts),
        *(counts, floats, st.booleans(), texts, features),
    ),
    st.builds(Example, texts, features, scalars, floats, texts, texts),
    st.builds(Label, texts, scalars, floats, texts),
    st.builds(Reward, texts, floats, floats, texts),
    st.builds(Preference, texts, st.integers(0, 9), floats, texts),
    st.builds(
        Decision,
        st.sampled_from(
            ["start", "promote", "reject", "rollback", "drift", "challenger", "withdraw", "erase", "config"]
        ),
        counts,
        texts,
        texts,
        texts,
        texts,
        texts,
        st.none() | st.just(EVIDENCE),
        features,
    ),
    st.builds(Born, versions),
    st.builds(Checkpoint, counts, texts),
    st.builds(Rejected, texts, counts, texts, texts, counts),
    st.builds(Erased, counts, texts),
)
few = st.sampled_from("abcd")  # ids that come again, so that judgements and examples do
repeated: st.SearchStrategy[Payload] = st.one_of(
    st.builds(Label, few, st.integers(0, 2)),
    st.builds(Reward, few, st.sampled_from([0.0, 0.5])),
    st.builds(Example, few, st.just({"x": 0.5}), st.just(True)),
    st.builds(Checkpoint, st.integers(0, 3), st.just("blob")),
    st.builds(Decision, st.just("drift"), st.integers(0, 3), st.just("why"), st.just("drift")),
)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    with SqliteLog(tmp_path / "log.db") as opened:
        yield opened


def example(id: str, x: float = 0.5) -> Example:
    return Example(id, {"x": x}, True)


def content(log: events.Log) -> list[Event]:
    found: list[Event] = []
    while piece := log.read(found[-1].position if found else 0, limit=777):
        found += piece
    return found


# ---- the log is a list ---------------------------------------------------------------------------------------------


class ListModel(RuleBasedStateMachine):
    """Whatever is done to the log, it answers as a Python list would."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.mkdtemp()
        self.log = SqliteLog(Path(self.home) / "log.db")
        self.list: list[Event] = []
        self.positions: dict[str, int] = {}

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.home)

    @rule(group=st.lists(repeated | payloads, max_size=25), at=st.floats(0, 2e9))
    def append(self, group: list[Payload], at: float) -> None:
        expected = []
        known = {name: self.list[position - 1].payload for name, position in self.positions.items()}
        for payload in group:
            if known.setdefault(key(payload), payload) != payload:
                return  # a contradiction, or a decision said in other words: these have tests of their own
        for payload in group:
            if key(payload) not in self.positions:
                self.list.append(Event(len(self.list) + 1, at, payload))
                self.positions[key(payload)] = len(self.list)
            expected.append(self.positions[key(payload)])
        assert self.log.append(group, time=at) == expected

    @rule(durability=st.sampled_from(["process", "power"]))
    def reopen(self, durability: events.Durability) -> None:
        self.log.close()
        self.log = SqliteLog(Path(self.home) / "log.db", durability)

    @rule(after=st.integers(0, 30), limit=st.integers(0, 30), kinds=st.lists(st.sampled_from([*KINDS.values()])))
    def read(self, after: int, limit: int, kinds: list[str]) -> None:
        expected = [e for e in self.list if e.position > after and (not kinds or KINDS[type(e.payload)] in kinds)]
        assert self.log.read(after, limit, kinds) == expected[:limit]

    @rule(kind=st.sampled_from([*KINDS.values()]))
    def last_and_count(self, kind: str) -> None:
        expected = [event for event in self.list if KINDS[type(event.payload)] == kind]
        assert self.log.count(kind) == len(expected)
        assert self.log.last(kind) == (expected[-1] if expected else None)

    @precondition(lambda self: self.list)
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.list))
        assert self.log.find(key(event.payload)) == event
        assert self.log.find(key(event.payload) + "?") is None

    @invariant()
    def same(self) -> None:
        assert self.log.read(limit=100_000) == self.list


TestListModel = ListModel.TestCase
TestListModel.settings = settings(
    max_examples=60, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=payloads)
def test_what_comes_back_is_what_was_given_to_the_last_bit(payload: Payload) -> None:
    with tempfile.TemporaryDirectory() as home, SqliteLog(Path(home) / "log.db") as log:
        log.append([payload])
        (event,) = log.read()
    assert event.payload == payload
    assert repr(event.payload) == repr(payload)  # -0.0 and 0.0, 1 and 1.0 and True: equal, yet not the same
    assert key(event.payload) == key(payload)


def test_times_come_back_exactly_and_default_to_now(log: SqliteLog) -> None:
    log.append([example("a"), example("b")], time=0.1 + 0.2)
    before = time.time()
    log.append([example("c")])
    first, second, third = log.read()
    assert first.time == second.time == 0.1 + 0.2
    assert before <= third.time <= time.time()


def test_a_payload_of_megabytes(log: SqliteLog) -> None:
    big = Example(
        "big", {"text": "naïve 🌍 " * 500_000, "x": list(np.random.default_rng(0).normal(size=20_000).tolist())}, 1
    )
    log.append([big])
    assert log.read()[0].payload == big


def test_numpy_values_are_kept_as_the_numbers_they_hold(log: SqliteLog) -> None:
    given = {"f": np.float32(0.1), "i": np.int64(3), "b": np.True_, "v": np.arange(3.0), "s": np.str_("a")}
    log.append([Example("a", given, np.int64(2))])  # type: ignore[arg-type]
    assert log.read()[0].payload == Example(
        "a", {"f": float(np.float32(0.1)), "i": 3, "b": True, "v": [0.0, 1.0, 2.0], "s": "a"}, 2
    )


# ---- keys: once each -----------------------------------------------------------------------------------------------


def test_keys_read_as_promised() -> None:
    version = Version("5eed", (), 7, "b10b", {}, {}, "why")
    assert key(Prediction("p", {}, 1, (), "v")) == "prediction:p"
    assert key(example("e")) == "example:e"
    assert key(Label("p", 1)).startswith("label:p:")
    assert key(Born(version)) == "version:5eed"
    assert key(Checkpoint(9, "b10b")) == "checkpoint:9:b10b"
    assert key(Rejected("rows.csv", 3, "why", "raw")) == "rejected:rows.csv:3:0"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Label("a", 1), Label("a", 1.0)),
        (Label("a", True), Label("a", 1)),
        (Label("a", 0.0), Label("a", -0.0)),
        (Label("a", 1, weight=2), Label("a", 1, weight=2.0)),
        (Reward("a", 3), Reward("a", 3.0)),
        (Decision("drift", 5, "one wording", "drift"), Decision("drift", 5, "another", "drift", evidence=EVIDENCE)),
        (
            Decision("drift", 5, "", "drift", detail={"a": 1, "b": 2}),
            Decision("drift", 5, "", "drift", detail={"b": 2, "a": 1}),
        ),
    ],
)
def test_the_same_said_twice_has_one_key(one: Payload, other: Payload, log: SqliteLog) -> None:
    assert key(one) == key(other)
    assert log.append([one]) == log.append([other]) == log.append([one, other])[1:] == [1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Label("a", 1), Label("a", 2)),
        (Label("a", 1), Label("a", "1")),
        (Label("a", 1), Label("b", 1)),
        (Label("a", 1), Label("a", 1, weight=0.5)),
        (Label("a", 1), Label("a", 1, source="x")),
        (Label("a", 1), Reward("a", 1)),
        (Label("a", 2**53), Label("a", 2**53 + 1)),
        (Decision("drift", 5, "", "drift"), Decision("drift", 6, "", "drift")),
        (Decision("promote", 5, "", "gate", "champion", "v"), Decision("promote", 5, "", "user", "champion", "v")),
        (
            Decision("drift", 5, "", "drift", detail={"input": 1}),
            Decision("drift", 5, "", "drift", detail={"input": 2}),
        ),
        (Checkpoint(5, "one"), Checkpoint(5, "other")),
    ],
)
def test_what_differs_is_another_event(one: Payload, other: Payload, log: SqliteLog) -> None:
    assert log.append([one, other]) == [1, 2]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (example("dup", 1.0), example("dup", 2.0)),
        (Prediction("dup", {}, 1, (), "v"), Prediction("dup", {}, 2, (), "v")),
        (Born(Version("dup", (), 1, "b", {}, {}, "")), Born(Version("dup", (), 2, "b", {}, {}, ""))),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_contradiction_is_refused_by_name_with_its_whole_group(
    first: Payload, second: Payload, together: bool, log: SqliteLog
) -> None:
    if not together:
        log.append([first])
    group = [example("beside"), *([first] if together else []), second]
    with pytest.raises(InputError, match=r":dup' is already in the log with other content"):
        log.append(group)
    assert [event.payload for event in log.read()] == ([] if together else [first])
    assert log.append([example("next")]) == [1 if together else 2]


def test_the_order_of_features_is_no_contradiction(log: SqliteLog) -> None:
    assert log.append([Example("a", {"x": 1, "y": 2}, 1)]) == log.append([Example("a", {"y": 2, "x": 1}, 1)])


# ---- what cannot be kept is refused before it is written -----------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (Example("a", {"x": math.nan}, 1), "example.features.x is nan"),
        (Example("a", {"deep": [None, {"x": math.inf}]}, 1), r"example.features.deep.1.x is inf"),
        (Example("a", {"v": np.array([1.0, math.nan])}, 1), "example.features.v.1 is nan"),
        (Label("a", math.nan), "label.value is nan"),
        (
            Decision("drift", 1, "", "drift", evidence=Evidence(1, 1, 1, 0, -1, math.inf, 0, 0, 0)),
            "evidence.high is inf",
        ),
        (Label("a", None), "Expected `bool | int | float | str`"),  # type: ignore[arg-type]
        (Label(1, 1), "Expected `str`"),  # type: ignore[arg-type]
        (Label("a", 10**5000), "cannot be kept"),
        (example("\ud800"), "surrogates not allowed"),
        (Example("a", {"x": object()}, 1), "a object cannot be written as JSON"),
        ("text", "cannot log a str"),
    ],
)
def test_what_could_not_be_read_back_is_refused(payload: Any, says: str, log: SqliteLog) -> None:
    with pytest.raises(InputError, match=says):
        log.append([example("beside"), payload])
    assert log.read() == []


def test_bottomless_features_are_refused(log: SqliteLog) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="cannot be stored in the log"):
        log.append([Example("a", {"x": deep}, 1)])


def test_missing_values_and_the_word_null_are_fine(log: SqliteLog) -> None:
    log.append([Example("null", {"x": None, "null": "null"}, "null")])
    assert log.read()[0].payload == Example("null", {"x": None, "null": "null"}, "null")


@pytest.mark.parametrize("at", [math.nan, math.inf])
def test_a_time_that_is_none_is_refused(at: float, log: SqliteLog) -> None:
    with pytest.raises(InputError, match="expected seconds since 1970"):
        log.append([example("a")], time=at)


def test_unknown_kinds_are_refused(log: SqliteLog) -> None:
    for ask in (lambda: log.read(kinds=["labels"]), lambda: log.last("labels"), lambda: log.count("labels")):
        with pytest.raises(InputError, match=r"unknown kind of event .*expected a list of prediction, label"):
            ask()
    with pytest.raises(InputError, match="expected a list"):
        log.read(kinds="label")


# ---- death at any moment, and company ------------------------------------------------------------------------------

CHILD = """
    import random, sys
    from everlearn.events import SqliteLog
    from everlearn.records import Example
    path, name, durability = sys.argv[1:4]
    sizes = random.Random(name)
    with SqliteLog(path, durability) as log:
        for group in range(int(sys.argv[4])):
            size = sizes.choice([1, 1, 2, 7, 10, 43])
            pad = "x" * 200
            rows = [Example(f"{name}/{group}/{i}/{size}", {"x": group + i / 8, "pad": pad}, True) for i in range(size)]
            print(group, *log.append(rows), flush=True)
"""


def child(path: Path, name: str, groups: int, durability: str = "process") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), name, durability, str(groups)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def check_whole(found: list[Event], acknowledged: dict[tuple[str, int], list[int]]) -> None:
    """Positions without gaps; every group whole, in order, once; every acknowledged one where it was said to be."""
    assert [event.position for event in found] == list(range(1, len(found) + 1))
    groups: dict[tuple[str, int], list[int]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for event in found:
        assert isinstance(event.payload, Example)
        name, group, index, size = event.payload.id.split("/")
        members = groups.setdefault((name, int(group)), [])
        assert len(members) == int(index)
        assert event.payload.features["x"] == int(group) + int(index) / 8
        members.append(event.position)
        sizes[name, int(group)] = int(size)
    assert all(len(groups[one]) == sizes[one] for one in groups)
    assert all(groups[one][-1] - groups[one][0] == sizes[one] - 1 for one in groups)
    assert {one: groups.get(one) for one in acknowledged} == acknowledged


@pytest.mark.parametrize(("durability", "kills"), [("process", 15), ("power", 5)])
def test_sigkill_loses_nothing_acknowledged_and_tears_no_group(tmp_path: Path, durability: str, kills: int) -> None:
    moments = random.Random(durability)
    path = tmp_path / "log.db"
    acknowledged: dict[tuple[str, int], list[int]] = {}
    for kill in range(kills):
        with child(path, f"run{kill}", 1_000_000, durability) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(moments.uniform(0.0, 0.06))
            process.send_signal(signal.SIGKILL)
            said = first + process.stdout.read()
        for line in said.splitlines(keepends=True):
            if line.endswith("\n"):
                group, *positions = map(int, line.split())
                acknowledged[f"run{kill}", group] = positions
        with SqliteLog(path) as log:
            check_whole(content(log), acknowledged)
    assert len(acknowledged) >= kills


def test_processes_that_create_and_fill_one_log_at_once(tmp_path: Path) -> None:
    children = [child(tmp_path / "log.db", f"child{number}", 60) for number in range(5)]
    acknowledged = {}
    for number, process in enumerate(children):
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        for line in said.splitlines():
            group, *positions = map(int, line.split())
            acknowledged[f"child{number}", group] = positions
    assert len(acknowledged) == 300
    with SqliteLog(tmp_path / "log.db") as log:
        check_whole(content(log), acknowledged)


def test_threads_append_and_read_at_once(log: SqliteLog) -> None:
    acknowledged: dict[tuple[str, int], list[int]] = {}
    wrong: list[str] = []

    def write(name: str) -> None:
        for group in range(40):
            size = 1 + group % 3
            rows = [Example(f"{name}/{group}/{i}/{size}", {"x": group + i / 8}, True) for i in range(size)]
            acknowledged[name, group] = log.append(rows)

    def tail() -> None:
        seen = 0
        while seen < 4 * (40 + 39):
            positions = [event.position for event in log.read(seen)]
            if positions != list(range(seen + 1, seen + 1 + len(positions))):
                wrong.append(f"after {seen}: {positions}")
                return
            seen += len(positions)

    threads = [threading.Thread(target=write, args=(f"thread{number}",)) for number in range(4)]
    threads.append(threading.Thread(target=tail))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    assert len(acknowledged) == 160
    check_whole(content(log), acknowledged)


def test_reading_does_not_wait_for_a_writer(tmp_path: Path, log: SqliteLog) -> None:
    log.append([example("a")])
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert [event.position for event in log.read()] == [1]
    other.execute("ROLLBACK")
    other.close()


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "PATIENCE", 0.05)
    with SqliteLog(tmp_path / "log.db") as log:
        other = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for group in ([example("a")], [example("a"), example("b")]):
            with pytest.raises(LogError, match="holds none of it: database is locked; another process held the log"):
                log.append(group)
        other.execute("ROLLBACK")
        other.close()
        assert log.append([example("a")]) == [1]


def test_a_forked_child_is_told_to_open_the_log_again(log: SqliteLog) -> None:
    child = os.fork()
    if child == 0:
        try:
            log.append([example("a")])
        except LogError as error:
            os._exit(7 if "open it again in each process" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert log.append([example("a")]) == [1]


# ---- rows that were encoded before ---------------------------------------------------------------------------------


def encoded(*payloads: Payload, at: float = 1.0) -> list[Row]:
    return [row(payload, at) for payload in payloads]


def test_rows_and_payloads_are_written_alike(log: SqliteLog) -> None:
    assert log.write(encoded(example("a"), example("b"), at=5.0)) == [1, 2]
    assert log.try_write(encoded(example("c"), example("a"), at=6.0)) == [3, 1]
    assert log.append([example("b"), example("c")]) == [2, 3]
    assert [(event.time, event.payload) for event in log.read()] == [
        (5.0, example("a")),
        (5.0, example("b")),
        (6.0, example("c")),
    ]
    with pytest.raises(InputError, match="already in the log with other content"):
        log.try_write(encoded(example("new"), example("a", 9.0)))
    assert log.try_write([]) == []
    assert log.end() == 3


def test_a_write_that_may_not_wait_comes_back_at_once_and_a_patient_one_after_it_waits(
    tmp_path: Path, log: SqliteLog
) -> None:
    log.append([example("a")])
    other = sqlite3.connect(tmp_path / "log.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    assert log.try_write(encoded(example("b"))) is None
    assert log.try_write(encoded(example("b"), example("c"))) is None
    assert log.try_write(encoded(example("a"))) is None  # which would get the position it has
    assert log.try_write(encoded(Decision("drift", 1, "", "drift"))) is None
    release = threading.Timer(0.2, lambda: other.execute("ROLLBACK"))
    release.start()
    assert log.append([example("b")]) == [2]  # waited for the other one
    release.join()
    other.close()
    assert log.try_write(encoded(example("c"))) == [3]


def test_a_write_that_may_not_wait_does_not_wait_for_threads(log: SqliteLog) -> None:
    with log._writing:
        assert log.try_write(encoded(example("a"))) is None
    assert log.try_write(encoded(example("a"))) == [1]


PUSHER = """
    import sys, time
    from everlearn.events import SqliteLog, row
    from everlearn.records import Example
    path, name = sys.argv[1:3]
    said = []
    with SqliteLog(path, tidy=False) as log:
        for start in range(0, 5_000, 25):
            ids = [f"{name}/{i}" for i in range(start, start + 25)]
            ids += [f"shared/{i}" for i in range(start, start + 5)]  # everybody sends these
            rows = [row(Example(id, {"x": 0.5}, True), 1.0) for id in ids]
            while (positions := log.try_write(rows)) is None:
                time.sleep(0)
            said += zip(ids, positions)
    with open(sys.argv[3], "w") as file:
        file.writelines(f"{id} {position}\\n" for id, position in said)
"""


def test_processes_that_never_wait_for_each_other_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    command = [sys.executable, "-c", textwrap.dedent(PUSHER), str(path)]
    acknowledged: dict[str, int] = {}
    with SqliteLog(path) as log:
        said = [tmp_path / f"said{n}" for n in range(4)]
        children = [subprocess.Popen([*command, str(n), str(said[n])]) for n in range(4)]
        while any(process.poll() is None for process in children):
            log.tidy()
            time.sleep(0.01)
        for process, file in zip(children, said, strict=True):
            assert process.returncode == 0
            for line in file.read_text().splitlines():
                id, _, position = line.rpartition(" ")
                assert acknowledged.setdefault(id, int(position)) == int(position)
        found = content(log)
    assert [event.position for event in found] == list(range(1, 4 * 5_000 + 1_000 + 1))
    assert {event.payload.id: event.position for event in found if isinstance(event.payload, Example)} == acknowledged


def test_under_a_steady_load_the_write_ahead_log_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    wal = path.with_name(f"{path.name}-wal")
    with SqliteLog(path, tidy=False) as busy, SqliteLog(path, tidy=False) as other:
        stop, longest = threading.Event(), 0

        def tidy() -> None:
            while not stop.wait(0.02):
                other.tidy()

        tidying = threading.Thread(target=tidy)
        tidying.start()
        for number in range(12_000):  # each leaves some 4 pages of 4 kB, 200 MB in all
            busy.append([Example(f"e{number * 7919 % 12_000}", {"x": 0.5}, True)])
            longest = max(longest, wal.stat().st_size)
        stop.set()
        tidying.join()
    assert longest < 80 << 20


def test_tidy_empties_the_write_ahead_log_that_a_connection_leaves_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    beside = Path(f"{path}-wal")
    with SqliteLog(path, tidy=False) as log:
        for group in range(60):
            log.append([Example(f"{group}/{i}", {"pad": "x" * 3000}, 1) for i in range(100)])
        grown = beside.stat().st_size
        assert grown > 4000 * 4096  # where the file of others is tidied
        assert path.stat().st_size < grown / 2
        log.tidy()
        assert path.stat().st_size > grown / 2
        log.append([example("next")])  # starts the write-ahead log anew
        for group in range(10):
            log.append([Example(f"more/{group}/{i}", {"pad": "x" * 3000}, 1) for i in range(100)])
        assert beside.stat().st_size <= grown
        assert log.end() == 7001


@pytest.mark.parametrize("id", ["a", "a:b", "", "a\x00b", "naïve;", "a%"])
def test_all_about_one_id(id: str, log: SqliteLog) -> None:
    others = [
        other for other in ("a", "a:b", "a:", "", "b", "a\x00b", "a\x00c", "naïve;", "naïve", "a%") if other != id
    ]
    for each in (*others, id):
        log.append([Prediction(each, {}, 1, (), "v"), Label(each, 1), Reward(each, 0.5)])
    about: list[Payload] = [
        Prediction(id, {}, 1, (), "v"),
        Label(id, 1),
        Reward(id, 0.5),
        Preference(id, 2),
        Label(id, 0),
    ]
    log.append([*about[3:], example(id)])
    assert [event.payload for event in log.about(id)] == [*about, example(id)]
    assert log.about("unknown") == []


# ---- files that fail -----------------------------------------------------------------------------------------------


def test_the_file_itself_refuses_change(tmp_path: Path, log: SqliteLog) -> None:
    log.append([example("a"), example("b")])
    with sqlite3.connect(tmp_path / "log.db") as other:
        for statement in ("DELETE FROM events WHERE position = 2", "UPDATE events SET time = 0"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                other.execute(statement)
    other.close()
    assert len(log.read()) == 2


def test_the_file_can_be_asked_in_sql(tmp_path: Path, log: SqliteLog) -> None:
    log.append([example("a", 1.5), example("b", 2.5), Label("a", True)])
    other = sqlite3.connect(tmp_path / "log.db")
    asked = other.execute("SELECT sum(payload ->> '$.features.x') FROM events WHERE kind = 'example'").fetchone()
    other.close()
    assert asked == (4.0,)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_each_durability_syncs_as_it_says(tmp_path: Path, durability: Any) -> None:
    with SqliteLog(tmp_path / "log.db", durability) as log:
        assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert log._writer.execute("PRAGMA synchronous").fetchone() == ({"process": 1, "power": 2}[durability],)


def test_databases_of_others_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(LogError, match="database of another program; give the path of an event log, or of a new file"):
        SqliteLog(path)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    SqliteLog(path).close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 3")
    other.close()
    with pytest.raises(LogError, match="has format 3, this Everlearn reads format 2; upgrade Everlearn"):
        SqliteLog(path)


def test_paths_that_cannot_be_a_log(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at as if it were one. " * 20)
    with pytest.raises(LogError, match="this is not an event log"):
        SqliteLog(tmp_path / "notes.txt")
    with pytest.raises(LogError, match="expected the path of a file"):
        SqliteLog(tmp_path)
    with pytest.raises(LogError, match="check that the folder exists"):
        SqliteLog(tmp_path / "absent" / "log.db")
    with pytest.raises(LogError, match="expected the path of a file"):
        SqliteLog(":memory:")
    with pytest.raises(ConfigError, match="durability is 'paper', expected 'process' or 'power'"):
        SqliteLog(tmp_path / "log.db", "paper")  # type: ignore[arg-type]


def test_a_full_disk_takes_nothing_and_loses_nothing(log: SqliteLog) -> None:
    log.append([example("kept")])
    log._writer.execute("PRAGMA max_page_count = 12")  # SQLite's own way of having no space
    big = [Example(f"{i}", {"text": "x" * 3000}, 1) for i in range(20)]
    for group in (big, [Example("one", {"text": "x" * 60_000}, 1)], [example("kept"), *big]):
        with pytest.raises(LogError, match=r"holds none of it: .*the disk is full: free some space, then do it again"):
            log.append(group)
        assert [event.payload for event in log.read()] == [example("kept")]
    log._writer.execute("PRAGMA max_page_count = 1000000")
    assert log.append(big) == list(range(2, 22))


def test_a_disk_that_refuses_to_write(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from everlearn.errors import LogError
        from everlearn.events import SqliteLog
        from everlearn.records import Example
        rows = [Example(f"{i}", {"text": "x" * 900}, 1) for i in range(400)]
        with SqliteLog(sys.argv[1]) as log:
            kept = log.append(rows[:100])
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
            try:
                log.append(rows[100:])
            except LogError as error:
                print(error)
            assert [event.position for event in log.read()] == kept
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert log.append(rows)[-1] == 400
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "log.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "refused a group of 300, and holds none of it: disk I/O error; the disk reported an error" in done.stdout
    with SqliteLog(tmp_path / "log.db") as log:
        assert len(log.read()) == 400


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    path = home / "log.db"
    with SqliteLog(path) as log:
        log.append([example("a")])
    code = """
        import os, sys
        from everlearn.errors import LogError
        from everlearn.events import SqliteLog
        from everlearn.records import Example
        if os.geteuid() == 0:
            os.setegid(65534)
            os.seteuid(65534)  # modes mean nothing to root
        try:
            with SqliteLog(sys.argv[1]) as log:
                log.append([Example("b", {}, 1)])
        except LogError as error:
            print(error)
    """
    for folder in (home, *home.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    home.chmod(0o555)
    path.chmod(0o444)
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    home.chmod(0o755)
    path.chmod(0o644)
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout
    assert "writable for this user" in done.stdout or "this user may write there" in done.stdout
    with SqliteLog(path) as log:
        assert log.append([example("b")]) == [2]


def test_a_corrupt_page_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path) as log:
        log.append([example(str(i)) for i in range(2000)])
    data = bytearray(path.read_bytes())
    page = 4096
    assert len(data) > 40 * page
    for number in range(8, 30):  # whole pages in the middle of the tree
        data[number * page : number * page + 200] = b"\xff" * 200
    path.write_bytes(data)
    with (
        pytest.raises(LogError, match=r"could not be read: .*malformed; the file is damaged: put back a copy"),
        SqliteLog(path) as log,
    ):
        content(log)


def test_a_damaged_event_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path) as log:
        log.append([example("first"), example("second"), example("third")])
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"id":"second"', b'"id":?second"'))
    with SqliteLog(path) as log:
        assert len(log.read(limit=1)) == 1
        with pytest.raises(LogError, match=r"event 2 of the log .* cannot be read: .*put back a copy"):
            log.read()


def test_a_closed_log_says_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    log.close()
    log.close()
    for act in (lambda: log.append([example("a")]), lambda: log.read(), lambda: log.count("label")):
        with pytest.raises(LogError, match="is closed; open it again"):
            act()


# ---- doors ---------------------------------------------------------------------------------------------------------


def test_connect_takes_paths_and_sqlite_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, url in enumerate(["log.db", f"{tmp_path}/log.db", "sqlite:///log.db", f"sqlite:///{tmp_path}/log.db"]):
        log = connect(url, "power")
        assert log.append([example(str(number))]) == [number + 1]
        log.close()


@pytest.mark.parametrize("url", ["postgresql://host/db", "kafka://host/topic"])
def test_connect_says_what_is_not_there_yet(url: str) -> None:
    with pytest.raises(ConfigError, match="is not supported yet"):
        connect(url)


@pytest.mark.parametrize("url", ["ftp://host/x", "sqlite://log.db"])
def test_connect_refuses_other_addresses(url: str) -> None:
    with pytest.raises(ConfigError, match="expected a path, or sqlite:///PATH"):
        connect(url)


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    code = """
        import resource, sys
        from everlearn.events import SqliteLog
        from everlearn.records import Example
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with SqliteLog(sys.argv[1]) as log:
            peaks = []
            for start in range(0, 120_000, 500):
                log.append([Example(f"{i:09d}", {"pad": "x" * 300}, True) for i in range(start, start + 500)])
                log.read(start)
                if start in (60_000, 119_500):
                    peaks.append(peak())
        print(peaks[1] - peaks[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "log.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) < 8 << 10  # KiB, while the file grew by 25 MB


@pytest.mark.parametrize(("module", "examples"), [(rows, 2), (seals, 1), (sqlite, 2)])
def test_examples_in_the_docs(module: ModuleType, examples: int) -> None:
    done = doctest.testmod(module)
    assert done.attempted == examples
    assert done.failed == 0
