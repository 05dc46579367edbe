"""Everything that is not the hot path is passed on to the desk, over its socket, body by body as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from pathlib import Path
from typing import Any

import httpx

from everlearn.app.access import CLIENT
from everlearn.app.problems import Refused
from everlearn.app.worker.requests import too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

CONNECTIONS = 64  # to the desk, at most
CONNECT, READ = 2.0, 60.0  # seconds: the desk answers an order within five

# RFC 9110, 7.6.1: these are about one connection, not about the request.
_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)


class Proxy:
    """Passes requests of at most `most` bytes on to the server at a Unix socket."""

    def __init__(self, socket: Path, most: int) -> None:
        self._most = most
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._transport = httpx.AsyncHTTPTransport(uds=str(socket), limits=limits, retries=1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises Refused (400, 413, 502, 503, 504), as long as nothing was sent."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            raise too_large(self._most)
        request = httpx.Request(
            scope["method"],
            _target(scope),
            headers=_onward(scope),
            stream=_Body(receive, self._most),
            extensions={"timeout": {"connect": CONNECT, "pool": CONNECT, "read": READ, "write": READ}},
        )
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.PoolTimeout as error:
            raise Refused(503, "", "too many requests wait for the desk", headers=[(b"retry-after", b"1")]) from error
        except httpx.TimeoutException as error:
            raise Refused(504, "", "the desk, which answers this, did not do so in time") from error
        except httpx.TransportError as error:
            detail = "the desk, which answers this, is not running at the moment; predictions and feedback are taken"
            raise Refused(502, "", detail, headers=[(b"retry-after", b"1")]) from error
        try:
            await _until_gone(_pass_back(response, send), receive)
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Let go of the connections."""
        await self._transport.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a request, as it comes."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = self._left = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise httpx.ReadError("the client has gone")
            part = message.get("body", b"")
            self._left -= len(part)
            if self._left < 0:
                raise too_large(self._most)
            more = message.get("more_body", False)
            if part:
                yield part


async def _pass_back(response: httpx.Response, send: Send) -> None:
    headers = [one for one in _kept(response.headers.raw) if one[0] != b"date"]  # uvicorn puts its own
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    async for part in response.aiter_raw():
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _target(scope: Scope) -> httpx.URL:
    path, query = scope["raw_path"], scope["query_string"]
    try:
        return httpx.URL(scheme="http", host="desk", raw_path=path + b"?" + query if query else path)
    except httpx.InvalidURL as error:
        raise Refused(400, "", f"this is no address: {error}") from error


async def _until_gone(passing: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Pass a response back until it ends, or until nobody listens any more."""
    task, gone = asyncio.ensure_future(passing), asyncio.ensure_future(receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def _onward(scope: Scope) -> Headers:
    """The headers for the desk, with the address that the request came from."""
    chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
    dropped = {CLIENT, b"content-length"} if chunked else {CLIENT}
    headers = [one for one in _kept(scope["headers"]) if one[0] not in dropped]
    if scope.get("client") is not None:
        headers.append((CLIENT, scope["client"][0].encode()))
    return [*headers, (b"transfer-encoding", b"chunked")] if chunked else headers


def _kept(headers: Headers) -> Headers:
    """Without what is about one connection only."""
    small = [(name.lower(), value) for name, value in headers]
    named = {part.strip().lower() for name, value in small if name == b"connection" for part in value.split(b",")}
    return [(name, value) for name, value in small if name not in _HOP and name not in named]
