"""Compressed bodies: they are decoded within the bound of plain ones, or refused."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from everlearn.spec import MOST_BYTES
from tests.support.workers import RECORD, SENT

BODY = json.dumps({"features": RECORD}).encode()


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BODY)),
        ("GZIP", gzip.compress(BODY[:7]) + gzip.compress(BODY[7:])),
        ("x-gzip", gzip.compress(BODY)),
        ("gzip", b"".join(gzip.compress(BODY[at : at + 1]) for at in range(60)) + gzip.compress(BODY[60:])),
        ("gzip", gzip.compress(b"") + gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("identity", BODY),
    ],
)
def test_a_compressed_body_is_the_plain_one(start, coding, body):
    reply = start().once("/predict", body, headers={**SENT, "content-encoding": coding}, parts=2)
    assert reply.status == 200, reply.content


@pytest.mark.parametrize(
    ("coding", "body", "status"),
    [
        ("br", BODY, 415),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-9], 400),
        ("deflate", BODY, 400),
        ("gzip", gzip.compress(bytes(100 * MOST_BYTES)), 413),
        ("gzip", gzip.compress(bytes(MOST_BYTES)) * 40, 413),
        ("deflate", raw_deflate(bytes(2 * MOST_BYTES)), 413),
        ("gzip", gzip.compress(b" ") * 49_000, 400),
        ("gzip", gzip.compress(b"") * 65, 400),
    ],
)
def test_what_cannot_be_decoded_is_refused(start, coding, body, status):
    reply = start().once("/predict", body, headers={**SENT, "content-encoding": coding})
    assert reply.status == status
    if status == 415:
        assert reply.headers["accept-encoding"] == "gzip, deflate"


def test_the_fast_path_leaves_compressed_bodies_to_the_other(running):
    import httpx

    _, worker = running
    sent = {**SENT, "content-encoding": "gzip"}
    with httpx.Client(base_url=worker.url) as client:
        assert client.post("/predict", content=gzip.compress(BODY), headers=sent).status_code == 200
        assert client.post("/predict", content=BODY, headers={**SENT, "content-encoding": "zstd"}).status_code == 415
