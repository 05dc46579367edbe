"""Each alert is sent once it is due, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from everlearn.app.admin import alerts
from everlearn.app.admin.alerts import Alerts
from everlearn.app.admin.queries import LogQueries
from everlearn.app.process import Setup
from everlearn.events import connect
from everlearn.records import Decision
from everlearn.spec import Schema, ServeSpec, Spec
from tests.support.receivers import receiver

__all__ = ["receiver"]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(alerts, "LOOK", 0.01)


class Home:
    """A loop's home as the admin process sees it, with a log to write decisions to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = connect(str(folder / "log.sqlite"))
        self.queries = LogQueries(folder)

    def decide(self, *actions: str, at: float | None = None, detail: dict[str, Any] | None = None) -> None:
        for action in actions:
            number = self.log.end()
            because = f"because of {action}"
            made = Decision(action, number, because, "gate", version=f"v{number}", detail=detail or {})
            self.log.append([made], time=at)

    def alerts(self, url: str, staleness: Callable[[], float | None] = lambda: 0.0, **more: Any) -> Alerts:
        schema = Schema(label="price", task="regression", fields={"x": "numeric"})
        spec = Spec(schema=schema, serve=ServeSpec(webhook=url, private=True, staleness=5.0))
        setup = Setup(spec=spec, home=str(self.folder), serving=str(self.folder))
        return Alerts(setup, self.queries, staleness, pause=0.01, **more)


@pytest.fixture
def home(tmp_path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.queries.close()
    made.log.close()


def watch(watching: Alerts, until: Callable[[], bool], after: float = 0.0) -> None:
    """Let it watch until something is so, and `after` seconds longer."""

    async def run() -> None:
        task = asyncio.create_task(watching.watch())
        deadline = time.monotonic() + 10
        while not until() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        await asyncio.sleep(after)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert until()


def test_what_matters_is_told_in_order_with_the_head_of_the_chain(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("start", "drift", "challenger", "reject", "promote", "config", "rollback")
    watch(watching, lambda: len(receiver.got) == 4, after=0.05)
    assert [one["alert"] for one in receiver.messages] == ["drift", "rejection", "promotion", "rollback"]
    drift = receiver.messages[0]
    assert drift["text"] == "Everlearn, price: drift (version v1): because of drift"
    assert drift["decision"]["reason"] == "because of drift"
    assert drift["decision"]["seal"]
    assert {one["head"] for one in receiver.messages} == {home.log.verify().head}
    assert abs(drift["sent"] - time.time()) < 60


def test_a_rollback_after_which_learning_is_paused_has_a_kind_of_its_own(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("rollback", detail={"paused": True})
    watch(watching, lambda: len(receiver.got) == 1)
    assert [one["alert"] for one in receiver.messages] == ["paused"]


def test_what_was_before_is_not_told(home, receiver):
    home.decide("drift", "promote")
    watching = home.alerts(receiver.url())
    home.decide("rollback")
    watch(watching, lambda: len(receiver.got) == 1, after=0.05)
    assert [one["alert"] for one in receiver.messages] == ["rollback"]


def test_staleness_is_told_once_broken_and_once_healed(home, receiver):
    watching = home.alerts(receiver.url())
    for now, seconds in enumerate([1, None, 5, 6, 9, 4, 6, 7, 1, 1, 1, 1, 1, 1, 1, 1]):
        watching.notice(seconds, float(now))
    watch(watching, lambda: len(receiver.got) == 2, after=0.05)
    assert [one["staleness"]["state"] for one in receiver.messages] == ["broken", "healed"]
    assert receiver.messages[0]["staleness"] | {"time": 0} == {
        "state": "broken",
        "seconds": 6.0,
        "bound": 5.0,
        "time": 0,
    }
    assert "the bound is 5 s" in receiver.messages[0]["text"]


def test_the_staleness_is_looked_at_while_a_receiver_is_away(home, receiver):
    stale = [9.0]
    receiver.script = [503] * 3
    watch(home.alerts(receiver.url(), lambda: stale[0]), lambda: len(receiver.got) == 4)
    again = home.alerts(receiver.url(), lambda: stale[0])
    watch(again, lambda: True, after=0.1)  # a new process knows that this was messages
    assert len({one["id"] for one in receiver.messages}) == 1


def test_a_receiver_that_fails_first_gets_the_same_alert_again(home, receiver, caplog):
    receiver.script = [500, "drop", 429, 503]
    watching = home.alerts(receiver.url())
    home.decide("drift", "promote")
    with caplog.at_level(logging.INFO, logger="everlearn.alerts"):
        watch(watching, lambda: len(receiver.got) == 6, after=0.05)
    assert [one["alert"] for one in receiver.messages] == ["drift"] * 5 + ["promotion"]
    assert len({one["id"] for one in receiver.messages}) == 2
    assert "secret-path" not in caplog.text  # the path of a webhook is often its password
    assert [record.getMessage() for record in caplog.records] == ["alert not delivered"] * 4 + ["alert sent"] * 2


def test_alerts_survive_a_restart(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("drift", "promote")
    receiver.script = [204, *[500] * 1000]
    watch(watching, lambda: len(receiver.got) >= 3)  # one was taken; the process ends while the other is refused
    receiver.script, before = [], len(receiver.got)
    watch(home.alerts(receiver.url()), lambda: len(receiver.got) == before + 1, after=0.05)
    assert [one["alert"] for one in receiver.messages[-2:]] == ["promotion", "promotion"]
    home.decide("rollback")
    watch(home.alerts(receiver.url()), lambda: len(receiver.got) == before + 2, after=0.05)
    assert receiver.messages[-1]["alert"] == "rollback"


def test_a_crash_between_sending_and_noting_sends_again(home, receiver):
    watching = home.alerts(receiver.url())
    before = (home.folder / "alerts.json").read_bytes()
    home.decide("drift")
    watch(watching, lambda: len(receiver.got) == 1, after=0.05)
    (home.folder / "alerts.json").write_bytes(before)
    watch(home.alerts(receiver.url()), lambda: len(receiver.got) == 2)
    assert len({one["id"] for one in receiver.messages}) == 1


def test_what_the_receiver_says_is_wrong_does_not_hold_up_the_rest(home, receiver, caplog):
    receiver.script = [400] * 5
    watching = home.alerts(receiver.url())
    home.decide("drift", "promote")
    watch(watching, lambda: len(receiver.got) == 6, after=0.05)
    assert [one["alert"] for one in receiver.messages] == ["drift"] * 5 + ["promotion"]
    assert "it will not be sent again" in caplog.text


def test_what_is_a_day_old_is_only_counted(home, receiver):
    watching = home.alerts(receiver.url())
    home.decide("drift", "drift", "start", at=time.time() - 90_000)
    home.decide("promote", "rollback")
    watch(watching, lambda: len(receiver.got) == 2, after=0.05)
    assert [one.get("missed", 0) for one in receiver.messages] == [2, 0]


def test_the_queue_is_bounded(home, receiver, monkeypatch):
    monkeypatch.setattr(alerts, "_WAITING", 4)
    watching = home.alerts(receiver.url())
    for now in range(0, 200, 10):
        watching.notice(9.0 if now % 20 == 0 else 1.0, float(now))
        watching.notice(9.0 if now % 20 == 0 else 1.0, now + 5.0)
    watch(watching, lambda: len(receiver.got) == 4, after=0.05)
    assert receiver.messages[0]["missed"] == 16
    assert [one["staleness"]["state"] for one in receiver.messages] == ["broken", "healed"] * 2


def test_a_damaged_file_starts_with_the_next_decision(home, receiver, caplog):
    (home.folder / "alerts.json").write_text("{")
    home.decide("drift")
    watching = home.alerts(receiver.url())
    home.decide("promote")
    watch(watching, lambda: len(receiver.got) == 1, after=0.05)
    assert receiver.messages[0]["alert"] == "promotion"
    assert "start with the next decision" in caplog.text


def test_what_is_sent_is_signed(home, receiver):
    watching = home.alerts(receiver.url(), secret="between us")
    home.decide("drift")
    watch(watching, lambda: len(receiver.got) == 1)
    headers, body = receiver.got[0]
    done = subprocess.run(["openssl", "dgst", "-sha256", "-hmac", "between us"], input=body, capture_output=True)
    assert headers["x-everlearn-signature"] == "sha256=" + done.stdout.decode().split()[-1]
    assert headers["content-type"] == "application/json"
