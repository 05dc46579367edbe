"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.events import Log, connect
from tests.support.database import server, url

__all__ = ["server", "url"]


@pytest.fixture
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """A new log: in SQLite, or where `every_log` puts it."""
    elsewhere = getattr(request, "param", "sqlite") == "postgresql"
    opened = connect(request.getfixturevalue("url") if elsewhere else str(tmp_path / "log.db"))
    yield opened
    opened.close()
