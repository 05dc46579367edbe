"""Heads that are not parsed again: only whole, equal ones, and never more than there is room for."""

from __future__ import annotations

import pytest

from everlearn.app.worker import known_heads
from everlearn.app.worker.known_heads import KnownHeads, RequestHead

SENT = b"POST /hot HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\n"


def head(length: int) -> RequestHead:
    return RequestHead("hot", b"/hot", b"", [], length)


def test_a_head_is_found_with_as_many_bytes_behind_it():
    heads, kept = KnownHeads(), head(4)
    assert heads.find(SENT + b"body") is None
    heads.keep(SENT + b"body", kept)
    assert heads.find(SENT + b"ydob") == (kept, len(SENT))
    for length in (1, 3, 17, 2000):
        longer = SENT.replace(b"4", b"%d" % length)
        assert heads.find(longer + b"x" * length) == (kept, len(longer))
        assert heads.find(longer + b"x" * (length + 1)) is None
    for spelt in (
        b"-4",
        b"+4",
        b"4" * 5000,
        b"4 ",
        b" 4",
        b"0x4",
        b"4_0",
        b"",
        b"0",
        b"4\r\ncontent-length: 4",
        "４".encode(),
    ):
        assert heads.find(SENT.replace(b"4", spelt) + b"body") is None
    for other in (SENT, SENT + b"bod", SENT + b"body!", SENT + b"body" + SENT, SENT[1:] + b"body", b"", b"\r\n\r\n"):
        assert heads.find(other) is None


def test_digits_of_another_line_are_not_a_length():
    heads = KnownHeads()
    sent = SENT.replace(b"host", b"x-content-length: 9\r\nhost")
    heads.keep(sent + b"body", head(4))
    assert heads.find(sent + b"body") is not None
    assert heads.find(sent.replace(b"9", b"8") + b"body") is None
    heads.keep(sent.replace(b"\ncontent-length", b"\nCONTENT-LENGTH") + b"body", head(4))
    assert heads.find(sent.replace(b"\ncontent-length", b"\nCONTENT-LENGTH") + b"body") is None


@pytest.mark.parametrize(
    ("sent", "length"),
    [
        (SENT.replace(b"4", b"0"), 0),  # nothing comes behind it
        (SENT + b"2\r\nab\r\n0\r\n\r\n", 2),  # a chunked body is longer than what it holds
        (SENT + b"body" + SENT + b"body", 4),  # two requests
        (b"\r\n\r\n" + SENT + b"body", 4),
        (b"no end", 6),
        (SENT.replace(b"localhost", b"x" * known_heads.LONGEST) + b"body", 4),
    ],
)
def test_other_heads_are_not_kept(sent, length):
    heads = KnownHeads()
    heads.keep(sent, head(length))
    assert heads.find(sent) is None
    assert heads.find(sent[: sent.find(b"\r\n\r\n") + 4] + b"x" * length) is None


def test_heads_that_all_differ_take_no_more_room(monkeypatch):
    monkeypatch.setattr(known_heads, "MOST", 10)
    heads = KnownHeads()
    sent = [SENT.replace(b"localhost", b"h%d" % i) + b"body" for i in range(35)]
    for one in sent:
        heads.keep(one, head(4))
    assert [heads.find(one) is not None for one in sent] == [False] * 30 + [True] * 5
