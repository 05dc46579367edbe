"""Requests passed on to the admin process, and their responses: a real server at a Unix socket, and the proxy."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from everlearn.app.auth import CLIENT
from everlearn.app.problems import Refused
from everlearn.app.worker.body_reader import BodyReader
from everlearn.app.worker.proxy import Proxy

MOST = 1 << 20
BLOB = random.Random(1).randbytes(3_000_000)


async def echo(request: Request) -> Response:
    body = await request.body()
    headers = [[name.decode(), value.decode("latin-1")] for name, value in request.headers.raw]
    digest = hashlib.sha256(body).hexdigest()
    seen = {"method": request.method, "raw": request.scope["raw_path"].decode(), "headers": headers, "digest": digest}
    answer = JSONResponse(seen | {"query": request.scope["query_string"].decode()}, 201)
    answer.headers["x-own"] = "kept"
    answer.headers["connection"] = "x-secret"
    answer.headers["x-secret"] = "of this connection only"
    answer.raw_headers += [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    return answer


async def blob(request: Request) -> Response:
    return Response(BLOB)


class Endless:
    """An answer that never ends, and knows whether anyone still listens."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def answer(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"data: tick\n\n"
                    await asyncio.sleep(0.01)
            finally:
                self.left.set()

        return StreamingResponse(parts(), media_type="text/event-stream")


class AdminServer(uvicorn.Server):
    """A server in a thread, at a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.endless = Endless()
        methods = ["GET", "POST", "DELETE", "PUT"]
        routes = [
            Route("/blob", blob),
            Route("/endless", self.endless.answer),
            Route("/{path:path}", echo, methods=methods),
        ]
        super().__init__(uvicorn.Config(Starlette(routes=routes), uds=str(path), log_config=None, lifespan="off"))
        self.thread = threading.Thread(target=self.run)

    def __enter__(self) -> AdminServer:
        self.thread.start()
        while not self.started:
            assert self.thread.is_alive()
        return self

    def __exit__(self, *_: object) -> None:
        self.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    with AdminServer(tmp_path_factory.mktemp("serving") / "admin.sock") as running:
        yield running


Messages = list[dict[str, Any]]


def passed(
    admin: Path,
    method: str = "GET",
    path: bytes = b"/x",
    query: bytes = b"",
    headers: tuple[tuple[bytes, bytes], ...] = ((b"host", b"example"),),
    body: tuple[bytes, ...] = (b"",),
    leaves: Callable[[Messages], bool] = lambda sent: False,
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Send one request through the proxy; the client leaves when `leaves` says so of what it has got."""
    scope = {"type": "http", "method": method, "raw_path": path, "query_string": query, "headers": list(headers)}
    scope["client"] = ("192.0.2.7", 4711)
    waiting, sent = list(body), Messages()

    async def receive() -> dict[str, Any]:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}
        while not leaves(sent):
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def main() -> None:
        proxy = Proxy(admin, BodyReader(MOST, lambda: Refused(503, "", "full")))
        try:
            async with asyncio.timeout(20):
                await proxy(scope, receive, send)  # type: ignore[arg-type]
        finally:
            await proxy.close()

    asyncio.run(main())
    return sent[0]["status"], sent[0]["headers"], b"".join(one.get("body", b"") for one in sent[1:])


def seen(admin: AdminServer, **asked: Any) -> dict[str, Any]:
    status, _, body = passed(admin.path, **asked)
    assert status == 201
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("path", [b"/versions/a%2Fb/diff/c", b"//twice", b"/events/%C3%BC%20x", b"/a;b=c"])
def test_a_path_arrives_as_it_was_sent(admin: AdminServer, path: bytes) -> None:
    found = seen(admin, method="DELETE", path=path, query=b"a=1&a=%20&b")
    assert (found["method"], found["raw"], found["query"]) == ("DELETE", path.decode(), "a=1&a=%20&b")


def test_what_is_about_one_connection_stays_there_and_the_address_is_ours_to_say(admin: AdminServer) -> None:
    sent = (
        (b"host", b"example:8000"),
        (b"cookie", b"everlearn=abc"),
        (b"authorization", b"Bearer t"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"connection", b"keep-alive, X-Gone"),
        (b"x-gone", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"upgrade", b"websocket"),
        (CLIENT, b"127.0.0.1"),
    )
    headers = [tuple(one) for one in seen(admin, headers=sent)["headers"]]
    kept = [("host", "example:8000"), ("cookie", "everlearn=abc"), ("authorization", "Bearer t")]
    kept += [("x-forwarded-for", "1.2.3.4"), (CLIENT.decode(), "192.0.2.7")]
    assert sorted(headers) == sorted(kept)


def test_the_answer_comes_back_whole(admin: AdminServer) -> None:
    _, headers, _ = passed(admin.path)
    names = [name for name, _ in headers]
    assert {b"x-own", b"content-type", b"content-length"} <= set(names)
    assert not {b"connection", b"x-secret", b"date", b"transfer-encoding"} & set(names)
    assert [value for name, value in headers if name == b"set-cookie"] == [b"a=1", b"b=2"]
    assert passed(admin.path, path=b"/blob")[2] == BLOB


@pytest.mark.parametrize("headers", [((b"content-length", b"%d" % MOST),), ((b"transfer-encoding", b"chunked"),)])
def test_a_body_is_passed_on_in_parts_up_to_its_bound(
    admin: AdminServer, headers: tuple[tuple[bytes, bytes], ...]
) -> None:
    body = BLOB[:MOST]
    parts = tuple(body[start : start + 50_000] for start in range(0, MOST, 50_000))
    found = seen(admin, method="POST", body=parts, headers=((b"host", b"x"), *headers))
    assert found["digest"] == hashlib.sha256(body).hexdigest()


def test_a_body_beyond_its_bound_is_refused(admin: AdminServer) -> None:
    for about in ((b"transfer-encoding", b"chunked"), (b"content-length", b"%d" % (MOST + 1))):
        with pytest.raises(Refused, match=f"at most {MOST} bytes"):
            passed(admin.path, method="POST", body=(BLOB[:MOST], b"x"), headers=((b"host", b"x"), about))


def test_a_client_that_disconnects_ends_the_response(admin: AdminServer) -> None:
    admin.endless.left.clear()
    _, _, body = passed(admin.path, path=b"/endless", leaves=lambda sent: len(sent) > 5)
    assert body.startswith(b"data: tick\n\n")
    assert admin.endless.left.wait(10)


@pytest.mark.parametrize(
    "odd",
    [
        (b"authorization", b"Bearer "),
        (b"connection", b"content-length, host"),
        (b"connection", b"content-length,,"),
    ],
)
def test_odd_headers_are_passed_on(admin: AdminServer, odd: tuple[bytes, bytes]) -> None:
    found = seen(admin, method="POST", body=(b"ab", b"c"), headers=((b"host", b"x"), (b"content-length", b"3"), odd))
    assert found["digest"] == hashlib.sha256(b"abc").hexdigest()
    assert ["host", "x"] in found["headers"]


def test_a_request_without_a_host_is_passed_on(admin: AdminServer) -> None:
    assert ["host", ""] in seen(admin, headers=())["headers"]


@pytest.mark.parametrize("headers", [((b"host", b"x"), (b"host", b"y")), ((b"host", b"x"), (b"x-odd", b"a\x00b"))])
def test_what_cannot_be_passed_on_is_the_requests_fault(admin: AdminServer, headers: Any) -> None:
    with pytest.raises(Refused, match="cannot") as caught:
        passed(admin.path, headers=headers)
    assert caught.value.status == 400


def test_a_body_that_breaks_off_is_not_passed_on(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="closed before the body had come") as caught:
        passed(tmp_path / "nobody.sock", method="POST", body=(), leaves=lambda sent: True)
    assert caught.value.status == 400


def test_an_admin_process_that_is_down_is_reported(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="not running now") as caught:
        passed(tmp_path / "nobody.sock")
    assert caught.value.status == 502


def test_an_admin_process_that_does_not_answer_in_time_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everlearn.app.worker.proxy.READ", 0.1)

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "slow.sock"))
        silent.listen()
        with pytest.raises(Refused, match="in time") as caught:
            passed(tmp_path / "slow.sock")
    assert caught.value.status == 504


def test_a_bad_address_is_refused(admin: AdminServer) -> None:
    with pytest.raises(Refused, match="this address cannot be used") as caught:
        passed(admin.path, path=b"/" + b"x" * 100_000)
    assert caught.value.status == 400
