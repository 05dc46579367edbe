"""Decode compressed bodies of requests (RFC 9110, 8.4), within the same bound of bytes as plain ones."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from everlearn.app.problems import Refused
from everlearn.app.worker.requests import too_large

CODINGS = ("gzip", "deflate")
MEMBERS = 64  # streams in a row in one body

_ACCEPTED = (b"accept-encoding", b", ".join(coding.encode() for coding in CODINGS))
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def coding_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the coding of a request's body; "" for a plain one. Raises Refused (415) for an unknown one.

    The names of `headers` are lower case.
    """
    named = [value for name, value in headers if name == b"content-encoding"]
    if not named:
        return ""
    text = b",".join(named).decode("latin-1").strip().lower()
    if text in ("", "identity"):
        return ""
    if text not in _WINDOW:
        expected = " or ".join(CODINGS)
        members = {"where": "Content-Encoding", "got": text[:100], "expected": expected}
        detail = f"Content-Encoding: got {text[:100]!r}, expected {expected}, or none"
        raise Refused(415, "", detail, members, headers=[_ACCEPTED])
    return text


def decoded(body: bytes, coding: str, most: int) -> bytes:
    """Return the bytes of a compressed body. Raises Refused: 400 (damaged) or 413 (more than `most` bytes).

    A body of "deflate" may lack the header of zlib, as some clients send it.

    >>> import gzip
    >>> decoded(gzip.compress(b"{}"), "gzip", 100)
    b'{}'
    """
    if not coding:
        return body
    try:
        return _inflated(body, _WINDOW[coding], most)
    except zlib.error as error:
        if coding == "deflate":
            try:
                return _inflated(body, -zlib.MAX_WBITS, most)
            except zlib.error:
                pass
        members = {"where": "the body", "fix": f"compress it with {coding}, or send it without Content-Encoding"}
        raise Refused(400, "", f"the body is not compressed with {coding}, or is cut short", members) from error


def _inflated(body: bytes, window: int, most: int) -> bytes:
    """Decompress one stream, or several in a row as gzip allows."""
    parts, size = list[bytes](), 0
    for _ in range(MEMBERS):
        stream = zlib.decompressobj(window)
        parts.append(stream.decompress(body, most + 1 - size))
        size += len(parts[-1])
        if size > most:
            raise too_large(most)
        if not stream.eof:
            raise zlib.error("the stream has no end")
        body = stream.unused_data
        if not body:
            return b"".join(parts)
    members = {"where": "the body", "expected": f"at most {MEMBERS} streams", "fix": "compress it as one stream"}
    raise Refused(400, "", f"the body has more than {MEMBERS} compressed streams in a row; send one", members)
