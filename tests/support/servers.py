"""Servers that tests kill, clients that remember each acknowledgement, and the checks that follow."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everlearn.app.admin.processes import running
from everlearn.app.supervisor import LONGEST_PAUSE, Server
from everlearn.client import Client, RequestRefused, Unreachable
from everlearn.client.records import Answer
from everlearn.errors import BlobError, EverlearnError, InputError, LogError, NoRoom
from everlearn.events import Log, connect, row, scan, url_of
from everlearn.loop.loop import Loop
from everlearn.records import Decision, Event, Example, Label, Prediction, Preference, Reward
from everlearn.serve import snapshot
from everlearn.spec import DriftSpec, FeedbackSpec, GateSpec, LimitsSpec, ReplaySpec, Schema, ServeSpec, Spec

FIELDS = {"a": "numeric", "b": "numeric", "c": "categorical"}
PATIENCE = 120.0  # seconds; on a busy machine a server takes its time to start
TURN = 1200  # rows after which the rule turns round
SUPERVISOR = """
import sys
from pathlib import Path
import msgspec
from everlearn.app import supervisor
from everlearn.app.supervisor import Server
from everlearn.spec import Spec
supervisor.LONGEST_PAUSE = float(sys.argv[3])
server = Server(msgspec.json.decode(sys.argv[1], type=Spec), Path(sys.argv[2]))
print(server.url, flush=True)
server.wait()
"""


def spec(**changes: Any) -> Spec:
    """Return the settings of a small loop with decisions, checkpoints, a canary, early feedback and limits."""
    settings: dict[str, Any] = {
        "schema": Schema(label="y", task="binary", classes=(0, 1), fields=FIELDS, bits=8),
        "model": {"family": "linear"},
        "tick": 20,
        "checkpoint": 200,
        "keep": 10_000,
        "challengers": 3,
        "gate": GateSpec(minimum=100),
        "drift": DriftSpec(grace_period=200, sensitivity=0.05),
        "replay": ReplaySpec(kind="reservoir", bytes=20_000, width=4),
        "feedback": FeedbackSpec(early=3600.0),
        "limits": LimitsSpec(clip=0.01, source=0.6, quarantine=0.99),
        "serve": ServeSpec(port=0, workers=2, canary=0.3),
    }
    return Spec(**(settings | changes))


def record(row: int) -> tuple[dict[str, Any], int]:
    """Return a row of an endless stream whose rule turns round now and then, and its label."""
    draw = np.random.default_rng((5, row))
    a, b, noise = draw.normal(size=3).tolist()
    c = int(draw.integers(5))
    sign = -1.0 if row // TURN % 2 else 1.0
    return {"a": a, "b": b, "c": f"c{c}"}, int(sign * (a + 0.5 * b) + 0.2 * (c - 2) + 0.3 * noise > 0)


def until(true: Callable[[], Any], why: str = "it did not come about", patience: float = PATIENCE) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, why
        time.sleep(0.01)


class ServerProcess:
    """A server whose supervisor is a separate process; its output goes to the file `output`.

    The supervisor starts a process that keeps dying again after at most `pause` seconds.
    """

    def __init__(self, settings: Spec, home: Path, pause: float = LONGEST_PAUSE) -> None:
        self.spec, self.home, self.pause = settings, home, pause
        self.output = home.parent / f"{home.name}.txt"
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        assert self.try_start(), self.output.read_text()

    def try_start(self) -> bool:
        """Start the server; return True once it answers, False if it ends with an error."""
        settings = msgspec.json.encode(self.spec).decode()
        with self.output.open("a") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, settings, str(self.home), str(self.pause)],
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        assert self._process.stdout is not None
        url = self._process.stdout.readline().strip()
        self.url = url or self.url
        if not url:
            self._reap()
        return bool(url)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def processes(self) -> dict[str, int]:
        """Return the running processes of the server by name, without the supervisor."""
        found = running(self.pid, str(snapshot.folder(self.home)))
        return {name: one.pid for name, one in found.items()}

    def kill(self, name: str) -> None:
        """Kill the process of that name, as soon as it runs."""
        until(lambda: name in self.processes(), f"there is no {name}")
        with suppress(ProcessLookupError):
            os.kill(self.processes().get(name, self.pid), signal.SIGKILL)

    def kill_supervisor(self) -> None:
        """Kill the supervisor alone; its children then end by themselves."""
        assert self._process is not None
        self._process.kill()
        self._reap()

    def kill_everything(self) -> None:
        """Kill the supervisor and all its children."""
        assert self._process is not None
        pids = self.processes().values()
        self._process.kill()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap()
        until(lambda: not any(alive(pid) for pid in pids), "it cannot be killed")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Stop the server in order."""
        assert self._process is not None
        self._process.terminate()
        self._reap()

    def _reap(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self.stop()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


SentLabel = tuple[str, int, str]  # id, label, source


@dataclass
class Memory:
    """All that clients have sent, what was acknowledged, and errors that must not happen."""

    rows: int = 0
    sent: set[SentLabel] = field(default_factory=set)
    answers: dict[str, Answer] = field(default_factory=dict)
    labels: set[SentLabel] = field(default_factory=set)
    examples: set[str] = field(default_factory=set)
    orders: list[int] = field(default_factory=list)
    unanswered: list[Exception] = field(default_factory=list)
    wrong: list[Exception] = field(default_factory=list)

    def add(self, other: Memory) -> None:
        self.rows += other.rows
        self.sent |= other.sent
        self.answers |= other.answers
        self.labels |= other.labels
        self.examples |= other.examples
        self.orders += other.orders
        self.unanswered += other.unanswered
        self.wrong += other.wrong


class ClientLoad:
    """One client: it predicts, sends labels late, out of order, early and twice, corrects some, and sends examples."""

    def __init__(self, number: int, server: ServerProcess, rows: Iterator[int]) -> None:
        self.memory = Memory()
        self._draw = np.random.default_rng((9, number))
        self._server, self._rows = server, rows
        self._source = f"s{number}"
        self._waiting: list[tuple[str, int]] = []
        self._known: list[SentLabel] = []
        self._refused: list[SentLabel] = []  # to be sent again
        self._url, self._client = "", Client()

    def step(self) -> None:
        """Take some rows: predict them, then label others."""
        if self._url != self._server.url:  # it was started again, at another port
            self._client.close()
            self._url = self._server.url
            self._client = Client(self._url, retries=2)
        taken = [next(self._rows) for _ in range(int(self._draw.integers(1, 9)))]
        self.memory.rows += len(taken)
        asked = {f"p{row}": record(row) for row in taken}
        match int(self._draw.integers(10)):
            case 0:
                self._learn(asked)
                return
            case 1:
                self._send_labels([(id, label, self._source) for id, (_, label) in asked.items()])
        self._predict({id: features for id, (features, _) in asked.items()})
        self._waiting += [(id, label) for id, (_, label) in asked.items()]
        self._label()

    def close(self) -> None:
        self._client.close()

    def _predict(self, records: dict[str, dict[str, Any]]) -> None:
        if self._draw.random() < 0.1 and self.memory.answers:  # predict an earlier record again
            id = [*self.memory.answers][int(self._draw.integers(len(self.memory.answers)))]
            records |= {id: record(int(id[1:]))[0]}
        for one in self._try(lambda: self._client.predict_many([*records.values()], [*records])) or ():
            first = self.memory.answers.setdefault(one.id, one)
            assert (one.value, one.proba, one.version) == (first.value, first.proba, first.version)

    def _learn(self, asked: dict[str, tuple[dict[str, Any], int]]) -> None:
        given = [Example(f"e{id}", features, label, 1.0, self._source) for id, (features, label) in asked.items()]
        if (learned := self._try(lambda: self._client.learn_many(given))) is not None:
            self.memory.examples |= set(learned.ids)

    def _label(self) -> None:
        """Send labels of earlier predictions in random order; some twice, and some with another value."""
        judged, self._refused = self._refused, []
        while len(self._waiting) > 40:
            id, label = self._waiting.pop(int(self._draw.integers(len(self._waiting))))
            if self._draw.random() < 0.95:  # the others are never answered
                judged.append((id, label, self._source))
        if self._known and self._draw.random() < 0.2:
            id, label, source = self._known[int(self._draw.integers(len(self._known)))]
            judged += [(id, label, source), (id, 1 - label, source)][: int(self._draw.integers(1, 3))]
        if judged:
            self._send_labels(judged)

    def _send_labels(self, judged: list[SentLabel]) -> None:
        self._known += judged
        self.memory.sent |= set(judged)
        rows = [Label(id, label, 1.0, source) for id, label, source in judged]
        if (taken := self._try(lambda: self._client.feedback_many(rows))) is not None:
            # A label can come before the learner has read its prediction, which waits long on a busy machine.
            refused = {one.index for one in taken.errors}
            assert all("Send it again in a moment" in one.detail for one in taken.errors), taken.errors
            assert taken.accepted == len(rows) - len(refused)
            self._refused += [judged[row] for row in refused]
            self.memory.labels |= {one for row, one in enumerate(judged) if row not in refused}

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (Unreachable, LogError, BlobError, NoRoom) as error:  # not acknowledged: it may have happened, or not
            self.memory.unanswered.append(error)
            time.sleep(0.02)
        except (RequestRefused, InputError) as error:
            self.memory.wrong.append(error)
        return None


class Operator:
    """One person who promotes, rolls back, starts and withdraws challengers, now and then."""

    def __init__(self, server: ServerProcess) -> None:
        self.memory = Memory()
        self._draw = np.random.default_rng(13)
        self._server = server

    def step(self) -> None:
        """Send one command; a refusal with a reason is no fault."""
        time.sleep(float(self._draw.uniform(0.2, 0.8)))
        kind = int(self._draw.integers(5))
        try:
            with Client(self._server.url, retries=0, timeout=30.0) as client:
                known = [one.id for one in client.versions()]
                some = known[int(self._draw.integers(len(known)))]
                calls: list[Callable[[], Any]] = [
                    lambda: client.promote(some, "to try"),
                    lambda: client.rollback("tried"),
                    lambda: client.challenge({"family": "linear"}, "to try"),
                    lambda: client.withdraw(some, "tried"),
                    lambda: client.rollback("one source", without={"source": "s0"}),
                ]
                self.memory.orders.append(calls[kind]().position)
        except EverlearnError as error:
            self.memory.unanswered.append(error)

    def close(self) -> None:
        """Close nothing: no connection is held between two commands."""


@contextmanager
def under_load(
    server: ServerProcess, rows: int, first: int = 0, orders: bool = True, callers: int = 3
) -> Iterator[Memory]:
    """Let clients work while the block runs, and until they have taken the rows from `first` up to `rows`.

    Yields their memory, which is complete once the block is left.
    """
    memory, over, stream = Memory(), threading.Event(), itertools.count(first)
    workers: list[ClientLoad | Operator] = [ClientLoad(number, server, stream) for number in range(callers)]
    workers += [Operator(server)] if orders else []
    broken: list[BaseException] = []

    def work(one: ClientLoad | Operator) -> None:
        try:
            while not broken and not (over.is_set() and (isinstance(one, Operator) or next_row(stream) >= rows)):
                one.step()
        except BaseException as error:
            broken.append(error)
        finally:
            one.close()

    threads = [threading.Thread(target=work, args=(one,)) for one in workers]
    for thread in threads:
        thread.start()
    try:
        yield memory
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for one in workers:
            memory.add(one.memory)
    if broken:
        raise broken[0]


def next_row(stream: itertools.count[int]) -> int:
    """Return the row that is taken next."""
    return int(repr(stream)[6:-1])


def catch_up(server: ServerProcess | Server, url: str = "") -> None:
    """Wait until the learner has folded the whole log, which may be at a URL, and reports no trouble."""
    log = connect(url_of(server.home, url), tidy=False)
    end = log.end()
    log.close()

    def folded() -> bool:
        status = client.status()
        return status["position"] >= end and not status["learner"]["trouble"]

    with Client(server.url) as client:
        until(folded, "the learner does not catch up")


# ---- what must be true afterwards --------------------------------------------------------------------------------


def events_of(home: Path) -> list[Event]:
    log = connect(str(home / "log.sqlite"), tidy=False)
    try:
        return log.read(0, 10_000_000)
    finally:
        log.close()


def check_kept(memory: Memory, home: Path) -> None:
    """Assert that the log holds each acknowledged event once, unchanged, and no event that was not sent."""
    events = [event.payload for event in events_of(home)]
    predictions = Counter(one.id for one in events if isinstance(one, Prediction))
    examples = Counter(one.id for one in events if isinstance(one, Example))
    labels = Counter((one.id, one.value, one.source) for one in events if isinstance(one, Label))
    orders = {event.position for event in events_of(home) if is_order(event)}
    assert memory.wrong == []
    assert max([*predictions.values(), *examples.values(), *labels.values()]) == 1
    assert memory.answers.keys() <= predictions.keys()
    assert memory.examples <= examples.keys()
    assert memory.labels <= labels.keys() <= memory.sent
    assert set(memory.orders) <= orders
    for one in events:
        if isinstance(one, Prediction):
            assert one.features == record(int(one.id[1:]))[0]
            given = memory.answers.get(one.id, one)
            assert (one.value, one.proba, one.version) == (given.value, given.proba, given.version)


def is_order(event: Event) -> bool:
    return isinstance(event.payload, Decision) and event.payload.action == "order"


def content(loop: Loop) -> dict[str, Any]:
    """Return all that a loop has learned and decided, without traces of restarts."""
    arrays, header = loop.fold.state()
    versions = loop.versions()
    return {
        "header": header,
        "arrays": {name: array.tobytes() for name, array in arrays.items()},
        "decisions": [msgspec.to_builtins(one) for one in loop.decisions() if one.action != "order"],
        "versions": [msgspec.to_builtins(one) for one in versions],
        "blobs": {
            one.id: {name: array.tobytes() for name, array in loop.home.versions.load(one.id).items()}
            for one in versions
        },
        "aliases": loop.aliases(),
    }


def replay(home: Path, settings: Spec, folder: Path) -> dict[str, Any]:
    """Return the content of an undisturbed loop that folds the same outside events at the same positions."""
    events = events_of(home)
    connect(str(made(folder) / "log.sqlite")).close()
    from_outside = {one.position for one in events if is_order(one)} | {
        one.position for one in events if not isinstance(one.payload, Decision) and is_from_outside(one)
    }
    with sqlite3.connect(home / "log.sqlite") as source, sqlite3.connect(folder / "log.sqlite") as copy:
        rows = source.execute("SELECT position, time, kind, key, payload FROM events ORDER BY position")
        copy.executemany(
            "INSERT INTO events (position, time, kind, key, payload) VALUES (?, ?, ?, ?, ?)",
            [row for row in rows if row[0] in from_outside],
        )
    source.close()
    copy.close()
    with Loop(settings, folder, behind=True) as loop:
        loop.ready()  # a server starts its loop before the first request
        while loop.catch_up():
            pass
        return content(loop)


def copied(log: Log, home: Path) -> Path:
    """Return a home whose log is a copy of another one, event by event."""
    connect(str(made(home) / "log.sqlite")).close()
    with sqlite3.connect(home / "log.sqlite") as copy:
        copy.executemany(
            "INSERT INTO events (position, time, kind, key, payload) VALUES (?, ?, ?, ?, ?)",
            [(event.position, *row(event.payload, event.time)) for event in scan(log)],
        )
    copy.close()
    return home


def is_from_outside(event: Event) -> bool:
    return isinstance(event.payload, Prediction | Label | Example | Preference | Reward)


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def check_learned(home: Path, settings: Spec, folder: Path) -> dict[str, Any]:
    """Assert that all arrays, versions and decisions equal those of an undisturbed replay, bit for bit."""
    with Loop(settings, home) as loop:
        assert loop.log.verify().ok
        got = content(loop)
    expected = replay(home, settings, folder)
    assert got["decisions"] == expected["decisions"]
    assert got["header"] == expected["header"]
    assert [name for name in expected["arrays"] if got["arrays"].get(name) != expected["arrays"][name]] == []
    for part in ("versions", "aliases", "blobs"):
        assert got[part] == expected[part], part
    return got
