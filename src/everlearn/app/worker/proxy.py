"""Pass requests that are not on the hot path on to another process, over its Unix socket.

A body is read whole before a connection to that process is taken, so a slow client cannot hold a connection from
the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx

from everlearn.app.auth import CLIENT
from everlearn.app.problems import Refused
from everlearn.app.worker.body_reader import BodyReader, Message, Receive, Scope
from everlearn.app.worker.requests import too_large

Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CONNECTIONS = 64  # the most to one process
CONNECT, READ = 2.0, 60.0  # seconds: the admin process answers a command within five

# RFC 9110, 7.6.1: headers that describe one connection, not the request.
_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
# Headers that identify a request and its sender: "Connection" must not remove them.
_ESSENTIAL = frozenset(b"host content-length content-type authorization cookie origin referer sec-fetch-site".split())

_REPLACED = (CLIENT, b"content-length", b"content-encoding")  # the body is passed on as it was before compression


class Proxy:
    """Passes requests on to the server at a Unix socket; `bodies` reads their bodies.

    `name` names that process in messages, and it may send nothing for `patience` seconds (None: READ).
    """

    def __init__(
        self, socket: Path, bodies: BodyReader, name: str = "the admin process", patience: float | None = None
    ) -> None:
        self._bodies = bodies
        self._name, self._patience = name, READ if patience is None else patience
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits, retries=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request. Raises Refused (400, 408, 413, 415, 502, 503, 504) before anything is sent back.

        Raises ConnectionAbortedError where the reply breaks off.
        """
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._bodies.most:
            raise too_large(self._bodies.most)
        target, body = _target(scope), await self._bodies.whole(receive, scope["headers"])
        request = httpx.Request(
            scope["method"],
            target,
            headers=_onward(scope, body),
            stream=httpx.ByteStream(body),
            extensions={"timeout": {"connect": CONNECT, "pool": CONNECT, "read": self._patience, "write": READ}},
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.PoolTimeout as error:
            detail = f"too many requests wait for {self._name}"
            raise Refused(503, "", detail, headers=[(b"retry-after", b"1")]) from error
        except httpx.TimeoutException as error:
            raise Refused(504, "", f"{self._name}, which answers this, did not do so in time") from error
        except httpx.LocalProtocolError as error:
            raise Refused(400, "", f"this request cannot be passed on: {error}") from error
        except httpx.TransportError as error:
            detail = f"{self._name}, which answers this, is not running now; predictions and feedback are taken"
            raise Refused(502, "", detail, headers=[(b"retry-after", b"1")]) from error
        try:
            await _until_disconnect(_pass_back(response, send), receive)
        except httpx.TransportError as error:  # the reply has begun, and cannot become another one
            raise ConnectionAbortedError(f"{self._name} broke off its reply") from error
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


async def _pass_back(response: httpx.Response, send: Send) -> None:
    headers = [header for header in _kept(response.headers.raw) if header[0] != b"date"]  # uvicorn adds its date
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for part in response.aiter_raw():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _target(scope: Scope) -> httpx.URL:
    path, query = scope["raw_path"], scope["query_string"]
    try:
        return httpx.URL(scheme="http", host="admin", raw_path=path + b"?" + query if query else path)
    except httpx.InvalidURL as error:
        raise Refused(400, "", f"this address cannot be used: {error}") from error


async def _until_disconnect(passing: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Pass a response back until it ends, or until the client disconnects."""
    task, gone = asyncio.ensure_future(passing), asyncio.ensure_future(receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for started in (task, gone):
            started.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _onward(scope: Scope, body: bytes) -> Headers:
    """Return the headers for the admin process, with the address of the client and the length of the body."""
    kept = [(name, value.strip()) for name, value in _kept(scope["headers"])]
    headers = [header for header in kept if header[0] not in _REPLACED]
    if not any(name == b"host" for name, _ in headers):
        headers.append((b"host", b""))  # the admin process refuses it
    if scope.get("client") is not None:
        headers.append((CLIENT, scope["client"][0].encode()))
    if body or any(name == b"content-length" for name, _ in kept):
        headers.append((b"content-length", b"%d" % len(body)))
    return headers


def _kept(headers: Headers) -> Headers:
    """Return the headers without those that describe one connection."""
    small = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in small if name == b"connection" for part in value.split(b",")}
    named -= _ESSENTIAL
    return [(name, value) for name, value in small if name not in _HOP and name not in named]
