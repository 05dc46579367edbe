"""Derive the synchronous client from the asynchronous one: `python -m everlearn.client._generate`."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

SOURCE = Path(__file__).with_name("_async.py")
TARGET = Path(__file__).with_name("_sync.py")

_NAMES = {
    "AsyncClient": "Client",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncSlots": "Slots",
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "asyncio": "time",
}
_PROSE = {"All tasks": "All threads", "AsyncClient": "Client"}
_FIRST = (
    '"""The synchronous client, generated from `_async.py` by `python -m everlearn.client._generate`; do not edit."""\n'
)


def generated(source: str) -> str:
    """Return the synchronous form of asynchronous source: without async and await, and with synchronous names."""
    lines = source.splitlines(keepends=True)
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    for token in reversed(tokens):
        row, start, end = token.start[0] - 1, token.start[1], token.end[1]
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            lines[row] = lines[row][:start] + lines[row][end:].lstrip()
        elif token.type == tokenize.NAME and token.string in _NAMES:
            lines[row] = lines[row][:start] + _NAMES[token.string] + lines[row][end:]
    _, _, rest = "".join(lines).partition("\n")
    pattern = re.compile("|".join(map(re.escape, _PROSE)))
    return _FIRST + pattern.sub(lambda found: _PROSE[found[0]], rest)


if __name__ == "__main__":
    TARGET.write_text(generated(SOURCE.read_text(encoding="utf-8")), encoding="utf-8")
