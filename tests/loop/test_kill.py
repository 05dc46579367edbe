"""`kill -9` at any instant: afterwards everything is as if nothing had happened.

A child process is killed at random moments and started again until its work is done; then its arrays, events and
versions are compared, byte for byte, with those of a run that nobody disturbed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from everlearn.loop.fold import Commit
from everlearn.loop.loop import Loop
from everlearn.records import Decision, Label, Payload, Prediction
from everlearn.spec import FeedbackSpec, GateSpec, Spec
from everlearn.stream import read
from tests.support.loops import FIELDS, spec, table

Work = Callable[[Path], None]


def content(home: Path, settings: Spec) -> dict[str, Any]:
    """All that a loop is: every array's bytes, every event, every version and alias."""
    with Loop(settings, home) as loop:
        arrays, header = loop.fold.state()
        events = [msgspec.to_builtins(event.payload) for event in loop.log.read(0, 1_000_000)]
        versions = [msgspec.to_builtins(one) for one in loop.versions()]
        blobs = {one["id"]: loop.home.versions.load(one["id"]) for one in versions}
        return {
            "arrays": {name: array.tobytes() for name, array in arrays.items()},
            "header": header,
            "events": events,
            "versions": versions,
            "blobs": {id: {name: array.tobytes() for name, array in held.items()} for id, held in blobs.items()},
            "aliases": loop.aliases(),
        }


def child(work: Work, home: Path) -> int:
    """Do `work` in a forked process, which has the compiled kernels already."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work(home)
        status = 0
    finally:
        os._exit(status)


def disturbed(work: Work, folder: Path, kills: int, seconds: float) -> list[Path]:
    """Do `work` as often as it takes to kill it `kills` times; return the homes in which it came to its end."""
    draw = np.random.default_rng(11)
    homes: list[Path] = []
    while kills > 0:
        home = folder / f"disturbed-{len(homes)}"
        done = False
        while not done:
            pid = child(work, home)
            if kills > 0:
                time.sleep(draw.uniform(0.0, 0.5) * seconds)
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                kills -= 1
            else:
                assert os.WEXITSTATUS(status) == 0
                done = True
        homes.append(home)
    return homes


def without_times(one: dict[str, Any]) -> None:
    """Forget when live events came, and so the hashes of the checkpoints that know it."""
    one["header"]["now"] = 0
    one["arrays"]["waiting/time"] = b""
    one["events"] = [event | {"blob": ""} if event["kind"] == "checkpoint" else event for event in one["events"]]


def check(work: Work, folder: Path, settings: Spec, kills: int, clocked: bool = False) -> None:
    undisturbed = folder / "undisturbed"
    work(undisturbed)  # compiles the kernels
    before = time.perf_counter()
    work(folder / "timed")
    seconds = time.perf_counter() - before
    expected = content(undisturbed, settings)
    assert any(event.get("action") == "promote" for event in expected["events"]), "nothing happened: a weak test"
    for home in disturbed(work, folder, kills, seconds):
        got = content(home, settings)
        if clocked:
            for one in (expected, got):
                without_times(one)
        assert got["header"] == expected["header"]
        assert got["arrays"] == expected["arrays"]
        assert got["events"] == expected["events"]
        assert got["versions"] == expected["versions"]
        assert got["blobs"] == expected["blobs"]
        assert got["aliases"] == expected["aliases"]


def rows_work(settings: Spec, columns: dict[str, Any]) -> Work:
    def work(home: Path) -> None:
        with Loop(settings, home) as loop:
            loop.run(read(columns, schema=settings.schema))

    return work


def late_work(settings: Spec, columns: dict[str, Any]) -> Work:
    """Predictions of which some are never answered: seconds pass in the log, not on the clock."""

    def work(home: Path) -> None:
        rows = len(columns["a"])
        with Loop(settings, home) as loop:
            loop.ready()
            for row in range(rows):
                features = {name: columns[name][row] for name in FIELDS}
                prediction = Prediction(str(row), features, 0, (0.5, 0.5), loop.versions()[0].id)
                payloads: list[Payload] = [] if loop.log.find(f"prediction:{row}") else [prediction]
                if row >= 40 and row % 3:
                    payloads.append(Label(str(row - 40), int(columns["label"][row - 40])))
                for payload in payloads:
                    # Now and then a long time passes, and many predictions are overdue at once.
                    loop.log.append([payload], time=float(row + 500 * (row // 150)))
                    loop.catch_up()

    return work


def orders_work(settings: Spec, columns: dict[str, Any]) -> Work:
    """Late labels, some of them from a bad source, and orders: a challenger of another family, a rollback without."""

    def order(name: str, **detail: Any) -> Decision:
        return Decision("order", 0, f"order {name}", "user", detail={"order": name} | detail)

    told = {
        150: order("another family", ask="challenge", model={"family": "tests.support.models:Mean"}, warm=True),
        400: order("without", ask="rollback", without={"source": "bad"}),
        650: order("impossible", ask="sing"),
        700: order("one more", ask="challenge", model={"family": "linear", "rate": 0.1}, warm=False),
    }

    def work(home: Path) -> None:
        with Loop(settings, home) as loop:
            loop.ready()
            version = loop.versions()[0].id
            for row in range(len(columns["a"])):
                features = {name: columns[name][row] for name in FIELDS}
                payloads: list[Payload] = [Prediction(str(row), features, 0, (0.5, 0.5), version)]
                payloads = [] if loop.log.find(f"prediction:{row}") else payloads
                if row >= 40:
                    label, bad = int(columns["label"][row - 40]), 200 < row < 400 and row % 3 == 0
                    payloads.append(Label(str(row - 40), 1 - label if bad else label, source="bad" if bad else ""))
                payloads += [told[row]] if row in told else []
                for payload in payloads:
                    loop.log.append([payload], time=float(row))
                    loop.catch_up()

    return work


LATE = {"feedback": FeedbackSpec(window=60.0, default=0), "tick": 10, "checkpoint": 25}
ORDERS = {"tick": 10, "checkpoint": 200, "challengers": 3, "gate": GateSpec(minimum=50)}
EVERYWHERE = [
    pytest.param(rows_work, {"warm_start": 100.0}, id="rows"),
    pytest.param(rows_work, {"warm_start": 0.1, "subject": "person"}, id="appended"),
    pytest.param(late_work, LATE, id="late"),
    pytest.param(orders_work, ORDERS, id="orders"),
    pytest.param(orders_work, {**ORDERS, "mode": "live"}, id="live orders"),
]


@pytest.mark.parametrize(("kind", "changes"), EVERYWHERE)
def test_killed_right_after_each_commit(tmp_path, kind, changes):
    """The moments at which a state that is not quite whole would have been saved."""
    settings, columns = spec(**changes), table(900)
    work = kind(settings, columns)
    work(tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed", settings)
    without_times(expected)
    commits = sum(event["kind"] == "checkpoint" for event in expected["events"])
    assert commits >= 4
    home = tmp_path / "disturbed"
    for _ in range(commits + 1):

        def dying(home: Path) -> None:
            commit = Loop._commit

            def last(self: Loop, due: Commit) -> None:
                commit(self, due)
                os._exit(0)

            Loop._commit = last  # type: ignore[method-assign]
            work(home)

        os.waitpid(child(dying, home), 0)
    work(home)
    got = content(home, settings)
    without_times(got)
    assert got == expected


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_killed_50_times_while_a_file_is_the_log(tmp_path, mode):
    settings = spec(mode=mode)
    check(rows_work(settings, table(6_000)), tmp_path, settings, kills=50 if mode == "gated" else 10)


def test_killed_while_every_row_is_appended(tmp_path):
    settings = spec(subject="person")
    check(rows_work(settings, table(3_000)), tmp_path, settings, kills=20, clocked=True)


def test_killed_while_a_client_predicts_and_sends_labels_late(tmp_path):
    settings = spec(tick=10, checkpoint=50, gate=GateSpec(minimum=50), feedback=FeedbackSpec(bytes=180_000))
    columns, rows, delay = table(1500), 1500, 30

    def work(home: Path) -> None:
        with Loop(settings, home) as loop:
            for row in range(rows + delay):
                # A client that knows its own ids, and asks again whatever was not acknowledged.
                if row < rows and loop.log.find(f"prediction:{row}") is None:
                    loop.predict({name: columns[name][row] for name in FIELDS}, id=str(row))
                if row >= delay:
                    loop.feedback(str(row - delay), label=int(columns["label"][row - delay]))

    check(work, tmp_path, settings, kills=20, clocked=True)


@pytest.mark.parametrize("mode", ["gated", "live"])
def test_killed_while_orders_are_carried_out(tmp_path, mode):
    settings, columns = spec(mode=mode, **ORDERS), table(900)
    columns["label"] = (columns["a"] > 0).astype(int)
    work = orders_work(settings, columns)
    check(work, tmp_path, settings, kills=10, clocked=True)
    done = [event for event in content(tmp_path / "undisturbed", settings)["events"] if event["kind"] == "decision"]
    actions = {event["detail"]["order"]: event["action"] for event in done if "order" in event.get("detail", {})}
    assert actions == {
        "another family": "challenger",
        "without": "rollback",
        "impossible": "reject",
        "one more": "challenger",
    }
