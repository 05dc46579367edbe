"""Request bodies: bounds on size and time, alone and together."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from everlearn.app.worker import body_reader
from everlearn.spec import MOST_BYTES
from tests.support.workers import RECORD, SENT, Site


@pytest.mark.parametrize("parts", [1, 7])
def test_a_body_has_its_bound(start, parts):
    site = start()
    fits = json.dumps({"features": RECORD}).encode().ljust(MOST_BYTES)
    assert site.once("/predict", fits, parts=parts).status == 200
    reply = site.once("/predict", fits + b" ", parts=parts)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    assert f"at most {MOST_BYTES} bytes" in reply.json()["detail"]


def test_bodies_on_their_way_have_a_bound_together(start, monkeypatch):
    monkeypatch.setattr(body_reader, "HELD", 100)
    site = start()
    body = json.dumps({"features": RECORD}).encode().ljust(500)
    assert site.once("/predict", body, parts=5).status == 503
    assert site.once("/predict", body).status == 200  # what comes in one piece need not be held


def test_a_body_has_its_time(start, monkeypatch):
    monkeypatch.setattr(body_reader, "SLOWEST", 0.05)
    site, sent = start(), []

    async def act(site: Site) -> None:
        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        for path in ("/predict", "/orders"):
            scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "client": None}
            scope |= {
                "headers": [(name.encode(), text.encode()) for name, text in SENT.items()],
                "raw_path": path.encode(),
            }
            await site.worker(scope, receive, send)

    site.run(act)
    assert [message["status"] for message in sent[::2]] == [408, 408]


def test_a_connection_that_breaks_off_is_no_request(start):
    site = start()

    async def act(site: Site) -> None:
        whole = json.dumps({"features": RECORD}).encode()
        messages = [{"type": "http.request", "body": whole, "more_body": True}, {"type": "http.disconnect"}]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "client": None}
        scope["headers"] = [(name.encode(), value.encode()) for name, value in SENT.items()]

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            assert message.get("status", 400) == 400

        await site.worker(scope, receive, send)

    site.run(act)
    assert site.events() == []
