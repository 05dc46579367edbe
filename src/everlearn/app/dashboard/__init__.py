"""The page: HTML, style sheets and ES modules written by hand, which the desk serves as they are.

No build step, no code of others, nothing inline: the strictest content security policy is enough.
`docs/why/dependencies.md` says why.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

MEDIA = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class File(NamedTuple):
    """A file as it is sent: its media type, its bytes, and a tag that changes when they do."""

    media: str
    content: bytes
    etag: str


@cache
def files() -> dict[str, File]:
    """Every file by name: "index.html" belongs at /, all of them at /static/NAME; read once.

    >>> page = files()["index.html"]
    >>> page.media, page.content[:15]
    ('text/html; charset=utf-8', b'<!doctype html>')
    """
    found = {}
    for one in resources.files("everlearn.app.dashboard").iterdir():
        ending = f".{one.name.rpartition('.')[2]}"
        if ending in MEDIA and one.is_file():
            content = one.read_bytes()
            found[one.name] = File(MEDIA[ending], content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found
