"""Fixtures of a real PostgreSQL server, one for each process of a test run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.support.postgres import Server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    pytest.importorskip("psycopg", reason="needs everlearn[postgres]")
    pytest.importorskip("psycopg_pool", reason="needs everlearn[postgres]")
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def url(server: Server) -> str:
    """The URL of a log that does not exist yet."""
    return f"{server.url}?loop=test {next(_numbers)}"
