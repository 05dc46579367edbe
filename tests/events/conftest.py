"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from everlearn.events import Log, connect, log_of, rests, url_of
from everlearn.spec import LogSpec
from tests.support.database import cluster, mock_kafka, nats, server, stream, tansu, topic_on, url

__all__ = ["cluster", "mock_kafka", "nats", "server", "stream", "tansu", "url"]


@pytest.fixture
def log(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """A new log: in SQLite, or where `every_log` puts it."""
    match getattr(request, "param", "sqlite"):
        case "postgresql":
            opened = connect(request.getfixturevalue("url"))
        case "nats":
            opened = connect(url_of(tmp_path, request.getfixturevalue("stream")))
        case "mock" | "tansu" | "cluster" as kind:
            opened = connect(url_of(tmp_path, topic_on(kind, request, monkeypatch)))
        case "encrypted":
            pytest.importorskip("cryptography", reason="needs everlearn[keys]")
            opened = log_of(tmp_path, LogSpec(encrypt=True))
        case kind:
            opened = connect(str(tmp_path / "log.db"))
            if kind == "economical":
                assert rests(opened)
                opened.economize()
    yield opened
    opened.close()
