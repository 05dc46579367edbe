"""The files of the dashboard: HTML, style sheets and ES modules, written by hand and served without a build step.

A file name comes in; its media type, content and ETag go out. The pages read everything else over the HTTP interface of
`app/admin`. They load no third-party code and hold nothing inline, so the strictest content security policy suffices;
`docs/why/dependencies.md` gives the reasons.
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
    """A file as it is served: its media type, its content, and a tag that changes with the content."""

    media: str
    content: bytes
    etag: str


@cache
def files() -> dict[str, File]:
    """Return every file, keyed by file name; read once. "index.html" is served at /, and all files at /static/NAME.

    >>> page = files()["index.html"]
    >>> page.media, page.content[:15]
    ('text/html; charset=utf-8', b'<!doctype html>')
    """
    found = {}
    for path in resources.files("everlearn.app.dashboard").iterdir():
        ending = f".{path.name.rpartition('.')[2]}"
        if ending in MEDIA and path.is_file():
            content = path.read_bytes()
            found[path.name] = File(MEDIA[ending], content, f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return found
