"""A worker as an application and as a process: methods, tokens, rates, its start and its end."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx

from everlearn import model
from everlearn.app import auth
from everlearn.app.auth import Access
from everlearn.app.counters import read
from everlearn.app.worker.application import Worker
from everlearn.serve.snapshot import Reader
from tests.support.workers import RECORD, SENT, posted, raw, with_serve


def test_the_hot_paths_take_posts(start):
    reply = start().once("/predict", method="GET")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    reply = start().once("/healthz")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")


def test_tokens_are_asked_for_and_name_the_source(start, monkeypatch):
    site = start()
    secret = auth.create(site.setup.tokens, "shop", ["predict", "feedback"], 1)
    weak = auth.create(site.setup.tokens, "reader", ["read"], 1)
    site.worker = Worker(
        site.setup,
        site.log,
        Reader(Path(site.setup.serving), model.build),
        Access(site.setup),
        site.tally,
        lambda: None,
    )
    assert site.once("/predict", {"features": RECORD}).status == 401
    assert (
        site.once("/predict", {"features": RECORD}, headers={**SENT, "authorization": f"Bearer {weak}"}).status == 403
    )
    good = {**SENT, "authorization": f"Bearer {secret}"}
    assert site.once("/predict", {"features": RECORD, "id": "p"}, headers=good).status == 200
    for own in ("", "anna"):
        site.once("/feedback", {"id": "p", "label": "yes", "source": own}, headers=good)
    assert [event.payload.source for event in site.events()[1:]] == ["shop", "shop/anna"]


def test_one_caller_may_send_so_many_a_second(start):
    site = start(with_serve(rate=2.0))
    replies = site.together(*[("/predict", {"features": RECORD})] * 5)
    assert sorted(reply.status for reply in replies) == [200, 200, 429, 429, 429]
    assert site.counts["limited"] == 3


def test_a_worker_ends_when_it_is_asked_to_and_finishes_what_it_began(running):
    site, server = running
    with closing(sqlite3.connect(site.log.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # so that a request is under way for as long as we like
        replies: list[httpx.Response] = []
        asking = threading.Thread(
            target=lambda: replies.append(httpx.post(f"{server.url}/predict", json={"features": RECORD}, timeout=30))
        )
        asking.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        other.execute("ROLLBACK")
        asking.join()
    assert server.process.wait(10) == 0
    assert replies[0].status_code == 200
    assert [one.id for one in site.predictions()] == [replies[0].json()["id"]]


def test_what_comes_in_parts_is_answered_as_what_comes_whole(running):
    """The ASGI path and the fast path give equal replies."""
    site, server = running
    asked = [
        {"features": RECORD},
        {"features": RECORD, "id": "k"},
        {"instances": [RECORD] * 2},
        {"features": {"a": "x"}},
        [1],
    ]
    ends = b"\r\nconnection: close\r\n\r\n"
    for sent in [posted(json.dumps(body).encode()) for body in asked] + [
        posted(b"{"),
        posted(b"{}").replace(b"localhost", b"x"),
    ]:
        request = sent.replace(b"\r\n\r\n", ends)
        told = []
        for parts in ([request], [request[:-1], request[-1:]]):
            head, _, body = b"".join(raw(server.url, *parts)).partition(b"\r\n\r\n")
            headers = [line for line in head.split(b"\r\n") if not line.startswith((b"date", b"content-length"))]
            said = json.loads(re.sub(rb'"(id|staleness)":[^,}]*', rb'"\1":0', body))
            told.append((sorted(headers), said))
        assert told[0] == told[1]
    counts = read(site.setup.counters(1))["counts"]
    assert (counts["predict_2xx"], counts["predict_4xx"]) == (6, 8)


def test_what_is_refused_for_good_is_told_before_the_connection_ends(running):
    _, server = running
    reply = b"".join(raw(server.url, posted(b"x" * 1_200_000, length=2_000_000)))
    assert reply.startswith(b"HTTP/1.1 413 ")
    assert reply.endswith(b"}")
    (reply,) = raw(server.url, b"HEAD /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"\r\n\r\n")


def test_a_worker_ends_with_its_supervisor(running):
    _, server = running
    assert httpx.get(f"{server.url}/healthz").json()["status"] == "ok"
    server.process.stdin.close()
    assert server.process.wait(10) == 0


def test_other_routes_are_refused_while_the_admin_process_is_down(running):
    _, server = running
    reply = httpx.get(f"{server.url}/versions")
    assert (reply.status_code, reply.headers["content-type"]) == (502, "application/problem+json")
    assert "not running now" in reply.json()["detail"]
