"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.events import Log, connect
from everlearn.spec import LogSpec
from tests.support.database import server, url

__all__ = ["server", "url"]


@pytest.fixture
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    """A new log: in SQLite, or where `every_log` puts it."""
    where = getattr(request, "param", "sqlite")
    opened = connect(request.getfixturevalue("url") if where == "postgresql" else str(tmp_path / "log.db"))
    if where == "encrypted":
        pytest.importorskip("cryptography", reason="needs everlearn[keys]")
        from everlearn.scale.encrypted import encrypted

        opened = encrypted(opened, tmp_path, LogSpec(encrypt=True))
    yield opened
    opened.close()
