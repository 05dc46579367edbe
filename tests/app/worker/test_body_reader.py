"""Request bodies: bounds on size and time, alone and together."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from everlearn.app.problems import Refused
from everlearn.app.worker import body_reader
from everlearn.app.worker.body_reader import BodyReader
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


def test_a_body_in_bytes_takes_the_memory_of_one_in_one_piece():
    count = 20_000
    reader = BodyReader(MOST_BYTES, lambda: Refused(503, "", "full"))
    seen: list[int] = []

    async def read() -> bytes:
        parts = iter(range(count))

        async def receive() -> dict[str, Any]:
            number = next(parts)
            if number == count - 1:
                seen.append(tracemalloc.get_traced_memory()[0] - before)
            return {"type": "http.request", "body": bytes([number % 256]), "more_body": number < count - 1}

        return await reader.whole(receive)

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert asyncio.run(read()) == bytes(number % 256 for number in range(count))
    finally:
        tracemalloc.stop()
    assert seen[0] < 2 * count + 100_000  # what the event loop takes included


def test_held_bytes_are_given_back_whatever_happens():
    reader = BodyReader(10, lambda: Refused(503, "", "full"))

    async def read(*messages: dict[str, Any]) -> None:
        following = iter(messages)

        async def receive() -> dict[str, Any]:
            return next(following)

        with suppress(Refused):
            await reader.whole(receive)

    more = {"type": "http.request", "body": b"12345", "more_body": True}
    for messages in ([more, more, more], [more, {"type": "http.disconnect"}], [more, {**more, "more_body": False}]):
        asyncio.run(read(*messages))
        assert reader._held == 0
