"""`kill -9` at any instant: afterwards everything is as if nothing had happened.

A child process is killed at random moments and started again until its work is done; then its arrays, events and
versions are compared, byte for byte, with those of a run that nobody disturbed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from everlearn.loop.loop import Loop
from everlearn.records import Decision, Label, Payload, Prediction
from everlearn.spec import FeedbackSpec, GateSpec, Spec
from tests.support.kills import Work, check, commits_of, content, killed_after_each_commit, rows_work, without_times
from tests.support.loops import FIELDS, spec, table
from tests.support.traced_models import STALE


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
    pytest.param(orders_work, {**ORDERS, "gate": GateSpec(minimum=50, promote="snapshot")}, id="snapshots"),
    pytest.param(late_work, {**LATE, "mode": "live", "model": STALE}, id="late traces"),
    pytest.param(orders_work, {**ORDERS, "mode": "live", "model": STALE}, id="live orders, traces"),
]


@pytest.mark.parametrize(("kind", "changes"), EVERYWHERE)
def test_killed_right_after_each_commit(tmp_path, kind, changes):
    """The moments at which a state that is not quite whole would have been saved."""
    settings, columns = spec(**changes), table(900)
    work = kind(settings, columns)
    work(tmp_path / "undisturbed")
    expected = content(tmp_path / "undisturbed", settings)
    without_times(expected)
    assert commits_of(expected) >= 4
    home = tmp_path / "disturbed"
    killed_after_each_commit(work, home, commits_of(expected))
    got = content(home, settings)
    without_times(got)
    assert got == expected


@pytest.mark.parametrize(("mode", "promote"), [("gated", "learner"), ("gated", "snapshot"), ("live", "learner")])
def test_killed_50_times_while_a_file_is_the_log(tmp_path, mode, promote):
    settings = spec(mode=mode, gate=GateSpec(minimum=100, promote=promote))
    kills = 50 if (mode, promote) == ("gated", "learner") else 10
    check(rows_work(settings, table(6_000)), tmp_path, settings, kills=kills)


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
