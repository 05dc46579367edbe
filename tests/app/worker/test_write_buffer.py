"""Responses leave a worker in one piece."""

from __future__ import annotations

import json

from tests.support.workers import RECORD, posted, raw


def test_a_reply_leaves_in_one_piece_and_requests_may_follow_one_another(running):
    _, server = running
    body = json.dumps({"features": RECORD}).encode()
    (reply,) = raw(server.url, posted(body))
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n")
    assert reply.endswith(b"}")
    assert b"".join(raw(server.url, posted(body) * 3)).count(b"HTTP/1.1 200 OK\r\n") == 3
    assert b"".join(raw(server.url, posted(body)[:-5], posted(body)[-5:])).startswith(b"HTTP/1.1 200 OK\r\n")
