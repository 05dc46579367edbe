"""A real HTTP server that replies as its script says, and clients of both forms to call it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
import pytest

from everlearn.app.problems import headers, problem
from everlearn.client import AsyncClient, Client

ANSWER = b'{"id": "a", "value": true, "proba": [0.25, 0.75], "version": "v1", "position": 7, "staleness": 0.5}'


@dataclass
class Received:
    """A request as the server received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Stage:
    """A real HTTP server that replies as its script says; "drop" is a connection that breaks."""

    script: list[Any] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)
    url: str = ""

    def replies(self, *script: Any) -> None:
        self.script[:] = script


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()

    class Actor(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def act(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            content = msgspec.json.decode(body) if body else None
            made.received.append(
                Received(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, content)
            )
            turn = made.script.pop(0) if len(made.script) > 1 else made.script[0]
            if turn == "drop":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if turn == "sleep":
                time.sleep(0.5)
                turn = ANSWER
            if isinstance(turn, Exception):
                status, content = problem(turn)
                more = [(name.decode(), value.decode()) for name, value in headers(turn)]
            else:
                status, content, more = 200, turn, [("content-type", "application/json")]
            self.send_response(status)
            for name, value in more:
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = act

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Actor)
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long between attempts, in every test of a module that imports this."""
    monkeypatch.setattr("everlearn.client.wire.random.uniform", lambda *_: 0.01)
    monkeypatch.setattr("everlearn.client.wire._LONGEST", 0.01)


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, stage: Stage) -> Callable[..., Any]:
    """Call a method of a client of either form."""
    if request.param == "sync":

        def call_sync(method: str, *args: Any, **more: Any) -> Any:
            with Client(stage.url, token="el_a_0123456789abcdef", timeout=5.0) as client:
                return getattr(client, method)(*args, **more)

        return call_sync

    async def call_async(method: str, *args: Any, **more: Any) -> Any:
        async with AsyncClient(stage.url, token="el_a_0123456789abcdef", timeout=5.0) as client:
            return await getattr(client, method)(*args, **more)

    return lambda *args, **more: asyncio.run(call_async(*args, **more))


@contextmanager
def closed_port() -> Iterator[str]:
    """Yield the address of a port at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
