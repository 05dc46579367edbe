"""Groups of requests: one commit for all, and the failure of one request leaves the others alone."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import Any

from everlearn.app.worker import groups, hot_path
from everlearn.events import SqliteLog
from everlearn.records import Example, Label
from tests.support.workers import RECORD, Reply, Site, picky


def test_what_comes_together_is_predicted_and_written_as_one(start):
    site = start()
    asked = [("/predict", {"features": {**RECORD, "a": a / 7}}) for a in range(30)]
    asked += [("/learn", {"features": RECORD, "label": "yes"})]
    replies = site.together(*asked)
    assert [reply.status for reply in replies] == [200] * 31
    assert (site.counts["commits"], site.counts["commit_rows"]) == (1, 31)
    assert (site.counts["predict_2xx"], site.counts["learn_2xx"]) == (30, 1)
    alone = [site.model.predict(site.encoder.record(body["features"]))[0].tolist() for _, body in asked[:30]]
    assert [reply.json()["proba"] for reply in replies[:30]] == alone  # bit for bit


def test_of_equal_judgements_at_once_one_is_new(start, monkeypatch):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "p"})
    with closing(SqliteLog(site.log.path)) as other:
        put = site.log.try_put

        def late(rows: Any) -> Any:
            other.append([Label("p", "yes")])  # another worker was faster, by a moment
            return put(rows)

        monkeypatch.setattr(site.log, "try_put", late)
        replies = site.together(*(("/feedback", {"id": "p", "label": label}) for label in ("yes", "no", "no")))
    assert [reply.json()["known"] for reply in replies] == [1, 0, 1]


def test_a_conflict_at_the_last_moment_does_not_show_what_the_log_holds(start, monkeypatch):
    site = start()
    with closing(SqliteLog(site.log.path)) as other:
        other.append([Example("e", {"town": "secret"}, "yes")])
    monkeypatch.setattr(site.log, "find", lambda key: None)  # as long as this worker does not see it
    reply = site.once("/learn", {"features": RECORD, "label": "no", "id": "e"})
    assert reply.status == 409
    assert "secret" not in reply.content.decode()


def test_one_requests_failure_is_its_own(start):
    site = start(build=picky)
    site.once("/predict", {"features": RECORD, "id": "known"})
    asked = [
        (200, "/predict", {"features": RECORD}),
        (422, "/predict", {"features": {"a": "x"}}),
        (500, "/predict", {"features": {"a": 13}}),
        (500, "/predict", {"instances": [RECORD, {"a": 14}]}),
        (409, "/predict", {"features": {"a": 1}, "id": "known"}),
        (200, "/feedback", {"id": "known", "label": "yes"}),
        (404, "/feedback", {"id": "unknown", "label": "yes"}),
        (400, "/predict", b"{"),
        (200, "/predict", {"instances": [RECORD, RECORD]}),
        (200, "/learn", {"features": RECORD, "label": "no"}),
    ]
    replies = site.together(*((path, body) for _, path, body in asked))
    assert [reply.status for reply in replies] == [status for status, _, _ in asked]
    assert "thirteen" not in replies[2].content.decode()  # what is ours to mend stays in our log
    assert len(site.events()) == 6


def test_a_full_disk_is_told_and_what_was_acknowledged_stays(start, monkeypatch):
    site = start()
    site.once("/predict", {"features": RECORD, "id": "kept"})
    site.log._writer.execute("PRAGMA max_page_count = 14")  # SQLite's own way of having no space
    long = {**RECORD, "town": "x" * 60_000}
    for reply in site.together(("/predict", {"features": long}), ("/feedback", {"id": "kept", "label": "no"})):
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert [event.payload.id for event in site.events()] == ["kept"]
    assert site.once("/predict", {"features": RECORD, "id": "kept"}).status == 200  # which writes nothing
    assert site.once("/healthz", method="GET").status == 503
    monkeypatch.setattr(hot_path, "UNWELL", 0.0)
    assert site.once("/healthz", method="GET").status == 200
    monkeypatch.undo()
    site.log._writer.execute("PRAGMA max_page_count = 1000000")
    assert site.once("/predict", {"features": long}).status == 200
    assert site.once("/healthz", method="GET").status == 200


def test_predictions_do_not_wait_for_look_ups_in_a_log_that_takes_long(start, monkeypatch):
    site = start(quick=False)
    site.once("/predict", {"features": RECORD, "id": "known"})
    find, answered, waited = site.log.find, threading.Event(), list[bool]()

    def slow(key: str) -> Any:
        waited.append(answered.wait(60))
        return find(key)

    monkeypatch.setattr(site.log, "find", slow)

    async def act(site: Site) -> list[Reply]:
        asked = [("known", "yes"), ("unknown", "no"), ("known", "no")]
        judging = [asyncio.create_task(site.ask("/feedback", {"id": id, "label": label})) for id, label in asked]
        await asyncio.sleep(0)
        first = await site.ask("/predict", {"features": RECORD})
        assert not any(task.done() for task in judging)
        answered.set()
        return [first, *await asyncio.gather(*judging)]

    assert [reply.status for reply in site.run(act)] == [200, 200, 404, 200]
    assert waited == [True] * 3
    assert [event.payload.value for event in site.events() if isinstance(event.payload, Label)] == ["yes", "no"]


def test_requests_that_are_looked_up_are_bounded(start, monkeypatch):
    monkeypatch.setattr(groups, "WAITING", 3)
    site = start(quick=False)
    site.once("/predict", {"features": RECORD, "id": "known"})
    find, go_on = site.log.find, threading.Event()
    monkeypatch.setattr(site.log, "find", lambda key: go_on.wait(60) and find(key))

    async def act(site: Site) -> list[Reply]:
        judging = [
            asyncio.create_task(site.ask("/feedback", {"id": "known", "label": "yes", "weight": weight}))
            for weight in range(1, 4)
        ]
        await asyncio.sleep(0.05)  # they are under way now
        refused = await site.ask("/predict", {"features": RECORD})
        go_on.set()
        return [refused, *await asyncio.gather(*judging)]

    assert [reply.status for reply in site.run(act)] == [503, 200, 200, 200]


def test_while_another_process_writes_what_waits_is_bounded_and_nothing_is_lost(start, monkeypatch):
    monkeypatch.setattr(groups, "WAITING", 5)
    site = start()
    other = sqlite3.connect(site.log.path, isolation_level=None)

    async def act(site: Site) -> list[Reply]:
        other.execute("BEGIN IMMEDIATE")
        asking = [asyncio.create_task(site.ask("/predict", {"features": {**RECORD, "a": a}})) for a in range(8)]
        await asyncio.sleep(0.05)
        assert [task.done() for task in asking] == [False] * 5 + [True] * 3
        other.execute("ROLLBACK")
        return await asyncio.gather(*asking)

    replies = site.run(act)
    assert [reply.status for reply in replies] == [200] * 5 + [503] * 3
    assert replies[-1].headers["retry-after"] == "1"
    assert [one.features["a"] for one in site.predictions()] == list(range(5))
    assert site.counts["full"] == 3
    other.close()


def test_a_loop_whose_room_was_full_of_bytes_takes_requests_again(start, monkeypatch):
    site = start()
    monkeypatch.setattr(site.worker._hot._groups, "_room", groups.Room(256, 100, 429))
    other = sqlite3.connect(site.log.path, isolation_level=None)

    async def act(site: Site) -> list[Reply]:
        other.execute("BEGIN IMMEDIATE")
        asking = [asyncio.create_task(site.ask("/predict", {"features": {**RECORD, "a": a}})) for a in range(4)]
        await asyncio.sleep(0.05)
        other.execute("ROLLBACK")
        replies = await asyncio.gather(*asking)
        return [*replies, await site.ask("/predict", {"features": RECORD})]

    assert [reply.status for reply in site.run(act)] == [200, 200, 429, 429, 200]
    other.close()


def test_bytes_that_are_looked_up_take_room(start, monkeypatch):
    site = start(quick=False)
    site.once("/predict", {"features": RECORD, "id": "known"})
    monkeypatch.setattr(site.worker._hot._groups, "_room", groups.Room(256, 60, 429))
    find, go_on = site.log.find, threading.Event()
    monkeypatch.setattr(site.log, "find", lambda key: go_on.wait(60) and find(key))

    async def act(site: Site) -> list[Reply]:
        bodies = [{"id": "known", "label": "yes", "weight": weight} for weight in range(1, 4)]
        judging = [asyncio.create_task(site.ask("/feedback", body)) for body in bodies[:2]]
        await asyncio.sleep(0.05)  # they are under way now
        refused = await site.ask("/feedback", bodies[2])
        go_on.set()
        return [refused, *await asyncio.gather(*judging), await site.ask("/feedback", bodies[2])]

    assert [reply.status for reply in site.run(act)] == [429, 200, 200, 200]
