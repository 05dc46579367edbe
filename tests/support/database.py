"""Fixtures of a real PostgreSQL server and of an S3 server, one for each process of a test run."""

from __future__ import annotations

import itertools
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support import azure
from tests.support.postgres import Server

_numbers = itertools.count()
BUCKET = "everlearn-test"


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


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="needs moto").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT"))
    yield url
    server.stop()


@pytest.fixture
def place(endpoint: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    return f"s3://{BUCKET}/{request.node.name}"


@pytest.fixture(scope="session")
def azurite() -> Iterator[dict[str, str]]:
    yield from azure.running()


@pytest.fixture(params=["s3", "az"])
def any_place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A part of a bucket that does not exist yet, of each kind of object store for which there is a server to test."""
    if request.param == "s3":
        return str(request.getfixturevalue("place"))
    for name, value in request.getfixturevalue("azurite").items():
        monkeypatch.setenv(name, value)
    return f"az://{azure.CONTAINER}/{next(_numbers)}"
