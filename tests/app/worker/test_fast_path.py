"""The short way of a request: who may take it, that it says what the long way says, and what becomes of connections."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from everlearn.app.problems import Refused
from everlearn.app.worker import connections
from everlearn.app.worker.connections import Connections
from everlearn.app.worker.fast_path import Exchange, FastProtocol
from everlearn.app.worker.known_heads import RequestHead

HEAD = b"POST /hot HTTP/1.1\r\nhost: localhost\r\n"


class Taking:
    """Answers "short" with what came, at once or, when `held` is a list, when it is told to."""

    def __init__(self) -> None:
        self.paths: Mapping[bytes, str] = {b"/hot": "hot"}
        self.longest = 100
        self.held: list[Exchange] | None = None
        self.counted: list[tuple[str, int]] = []
        self.connections = Connections()

    def take(self, head: RequestHead, client: str, body: bytes, reply: Exchange) -> None:
        assert (head.name, client) == ("hot", "127.0.0.1")
        if self.held is not None:
            self.held.append(reply)
        elif body == b"refuse":
            reply.set_exception(Refused(429, "", "too many", headers=[(b"retry-after", b"7")]))
        elif body == b"end":
            reply.set_exception(Refused(503, "", "full", headers=[(b"connection", b"close")]))
        else:
            reply.set_result(b"short " + head.query + b" " + body)

    def count(self, name: str, status: int, seconds: float) -> None:
        assert 0 <= seconds < 60
        self.counted.append((name, status))


async def long(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application: answers "long" with what came."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    reply = b"long " + scope["query_string"] + b" " + body
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(reply))]})
    await send({"type": "http.response.body", "body": reply})


Act = Callable[[Taking, "Caller", ServerState], Awaitable[None]]


class Caller:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        """Send these one by one, each to be read for itself."""
        for part in parts:
            self.writer.write(part)
            await asyncio.sleep(0.01)

    async def reply(self) -> tuple[bytes, bytes]:
        """The head and the body of the next response."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head, await asyncio.wait_for(self.reader.readexactly(length), 5)

    async def ended(self, within: float = 5.0) -> bool:
        """Whether the server ends the connection in this time."""
        try:
            return await asyncio.wait_for(self.reader.read(1), within) == b""
        except TimeoutError:
            return False


def served(act: Act, rest: float = 5.0) -> Taking:
    """Let something be done on one connection to a server of its own."""
    taking = Taking()

    async def main() -> None:
        config = uvicorn.Config(long, log_config=None, access_log=False, timeout_keep_alive=rest)  # type: ignore[arg-type]
        state = ServerState()
        state.default_headers = [(b"date", b"today")]
        loop = asyncio.get_running_loop()
        server = await loop.create_server(partial(FastProtocol, taking, config, state, {}), "127.0.0.1")
        async with server, asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await act(taking, Caller(reader, writer), state)
            writer.close()
            with suppress(ConnectionError):  # the server may have closed it before
                await writer.wait_closed()
            while state.connections:
                await asyncio.sleep(0.001)

    asyncio.run(main())
    return taking


def posted(body: bytes, head: bytes = HEAD, more: bytes = b"") -> bytes:
    return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, more, len(body), body)


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        ([posted(b"x")], b"short  x"),
        ([posted(b"x", HEAD.replace(b"/hot", b"/hot?q=1"))], b"short q=1 x"),
        ([posted(b"")], b"short  "),
        ([posted(b"x" * 100)], b"short  " + b"x" * 100),
        ([CHUNKED + b"2\r\nab\r\n0\r\n\r\n"], b"short  ab"),
        ([posted(b"xy")[:-1], b"y"], b"long  xy"),  # in parts, of all kinds
        ([posted(b"xy")[:-2], b"xy"], b"long  xy"),
        ([posted(b"xy")[:-2], b"x", b"y"], b"long  xy"),
        ([CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"], b"long  abc"),
        ([CHUNKED, b"2\r\nab\r\n", b"0\r\n\r\n"], b"long  ab"),
        ([posted(b"x" * 101)], b"long  " + b"x" * 101),  # too long, which the long way says
        ([posted(b"x", HEAD.replace(b"/hot", b"/cold"))], b"long  x"),
        ([posted(b"x", HEAD.replace(b"/hot", b"/%68ot?q"))], b"long q x"),
        ([posted(b"x", HEAD.replace(b"POST", b"PUT"))], b"long  x"),
        ([posted(b"x", HEAD.replace(b"1.1", b"1.0"))], b"long  x"),
        ([posted(b"x", more=b"connection: upgrade\r\nupgrade: h2c\r\n")], b"long  "),  # the rest is another protocol's
        ([posted(b"xy")[:20], posted(b"xy")[20:]], b"short  xy"),  # what is slow in its head is not slow in its body
    ],
)
def test_what_comes_whole_goes_the_short_way(sent, answer):
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(*sent)
        head, body = await caller.reply()
        assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: today\r\n")
        assert body == answer

    assert served(act).counted == ([("hot", 200)] if answer.startswith(b"short") else [])


def test_who_waits_for_a_word_before_it_sends_gets_that_word():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"x", more=b"expect: 100-continue\r\n")[:-1])
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(b"x")
        assert (await caller.reply())[1] == b"long  x"

    served(act)


def test_replies_come_in_the_order_of_their_requests_however_these_are_cut():
    draw = random.Random(3)
    bodies = [b"%d" % i for i in range(40)]
    whole = b"".join(posted(body, HEAD if i % 3 else HEAD.replace(b"/hot", b"/cold")) for i, body in enumerate(bodies))

    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        for _ in range(10):
            cuts = [0, *sorted(draw.sample(range(1, len(whole)), draw.randrange(8))), len(whole)]
            await caller.send(*(whole[a:b] for a, b in pairwise(cuts)))
            assert [(await caller.reply())[1].split()[-1] for _ in bodies] == bodies
        assert state.total_requests == 10 * len(bodies)

    served(act)


def test_a_request_behind_one_that_waits_is_answered_behind_it():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"1") + posted(b"2") + posted(b"3"))
        (first,) = taking.held
        taking.held = None
        assert not await caller.ended(0.05)
        first.set_result(b"first")
        assert [(await caller.reply())[1] for _ in range(3)] == [b"first", b"long  2", b"long  3"]
        await caller.send(posted(b"4"))
        assert (await caller.reply())[1] == b"short  4"

    served(act)


def test_a_refusal_has_its_headers():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"refuse"))
        head, body = await caller.reply()
        assert head.startswith(
            b"HTTP/1.1 429 Too Many Requests\r\ndate: today\r\ncontent-type: application/problem+json"
        )
        assert b"\r\nretry-after: 7\r\n" in head
        assert b'"instance":"/hot"' in body
        await caller.send(posted(b"end"))
        head, _ = await caller.reply()
        assert head.endswith(b"\r\nconnection: close\r\n\r\n")
        assert head.count(b"connection") == 1
        assert await caller.ended()

    assert served(act).counted == [("hot", 429), ("hot", 503)]


def test_who_wants_no_more_is_told_so_and_let_go():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"x", more=b"connection: close\r\n"))
        head, body = await caller.reply()
        assert (b"connection: close" in head, body) == (True, b"short  x")
        assert await caller.ended()

    served(act)


def test_an_answer_for_someone_who_has_gone_is_counted_and_thrown_away():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"x"))
        caller.writer.transport.abort()
        while state.connections:
            await asyncio.sleep(0.001)
        taking.held[0].set_result(b"late")
        assert taking.held[0].done()

    assert served(act).counted == [("hot", 200)]


def test_what_is_no_http_ends_the_connection_and_what_was_asked_before_it_harms_nobody():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"x") + b"\0\0\0\r\n\r\n")
        assert (await caller.reply())[0].startswith(b"HTTP/1.1 400 ")
        assert await caller.ended()
        taking.held[0].set_result(b"late")

    served(act)


def test_who_does_not_read_gets_no_more_until_it_does():
    long_ago = b"z" * 30_000_000

    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"1"))
        taking.held[0].set_result(long_ago)  # more than the system holds for a reader
        await caller.send(posted(b"2"))
        assert len(taking.held) == 1
        assert (await caller.reply())[1] == long_ago
        assert (await caller.reply())[1] == b"long  2"

    served(act)


def test_a_connection_may_rest_for_so_long():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"x"))
        await caller.reply()
        for _ in range(4):  # each request begins the rest anew
            assert not await caller.ended(0.2)
            await caller.send(posted(b"x"))
            await caller.reply()
        taking.held = []
        await caller.send(posted(b"x"))
        assert not await caller.ended(0.6)  # who waits does not rest
        taking.held[0].set_result(b"done")
        assert (await caller.reply())[1] == b"done"
        await caller.send(HEAD)
        assert not await caller.ended(0.6)  # nor does who is sending
        await caller.send(b"content-length: 0\r\n\r\n")
        taking.held[1].set_result(b"done")
        await caller.reply()
        assert await caller.ended(1.5)

    served(act, rest=0.4)


def test_a_server_that_ends_lets_go_of_who_rests_and_answers_who_waits():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"x"))
        (protocol,) = state.connections
        protocol.shutdown()
        assert not await caller.ended(0.05)
        taking.held[0].set_result(b"done")
        head, body = await caller.reply()
        assert (b"connection: close" in head, body) == (True, b"done")
        assert await caller.ended()

    async def resting(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"x"))
        await caller.reply()
        (protocol,) = state.connections
        protocol.shutdown()
        assert await caller.ended()

    served(act)
    served(resting)


# ---- bounds on heads, time and number ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        [HEAD, *[b"x: " + b"a" * 9_000] * 8],  # a header without an end
        [HEAD + b"x: " + b"a" * 40_000 + b"\r\ncontent-length: 0\r\n\r\n"],  # too long, and whole
        [HEAD + b"a:b\r\n" * 1_000 + b"content-length: 0\r\n\r\n"],  # too many
        [b"POST /" + b"a" * 20_000, b"a" * 20_000],
        [CHUNKED + b"2\r\nab\r\n0\r\n", *[b"t: " + b"a" * 9_000] * 8],  # a trailer without an end
        [CHUNKED + b"2", *[b";a=" + b"a" * 9_000] * 8],  # an extension of a chunk without an end
    ],
)
def test_a_head_that_is_too_large_is_refused(sent):
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # what is sent after it may reset the connection
            await caller.send(*sent)
            head = await asyncio.wait_for(caller.reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 431 ")
            assert b"application/problem+json" in head
            await asyncio.wait_for(caller.reader.read(), 5)  # to the end
        assert len(taking.connections) == 0
        assert taking.counted == []

    served(act)


def test_a_large_body_in_small_chunks_is_no_large_head():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(CHUNKED, *[b"1\r\na\r\n" * 1_000] * 50, b"0\r\n\r\n")
        assert (await caller.reply())[1] == b"long  " + b"a" * 50_000

    served(act)


@pytest.mark.parametrize("sent", [[], [HEAD], [HEAD, b"a: b\r\n", b"c: d\r\n"]])
def test_a_head_has_its_time_however_slowly_it_comes(sent, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(*sent)
        head, _ = await caller.reply()
        assert head.startswith(b"HTTP/1.1 408 ")
        assert await caller.ended()

    served(act)


def test_bytes_between_requests_prolong_no_rest():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"x"))
        await caller.reply()
        with suppress(ConnectionError):
            for _ in range(12):
                await caller.send(b"\r\n")
                await asyncio.sleep(0.1)
        assert caller.reader.at_eof()

    served(act, rest=0.4)


@pytest.mark.parametrize("behind", [[], [posted(b"2")], [HEAD], [posted(b"2")[:-1]]])
def test_a_reply_that_is_not_read_has_its_time_whatever_comes_behind_it(behind, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.5)
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)  # how often the timer looks

    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"1"))
        taking.held[0].set_result(b"z" * 30_000_000)
        await caller.send(*behind)
        (protocol,) = state.connections
        assert (protocol.phase, protocol.flow.write_paused) == (connections.UNREAD, True)
        async with asyncio.timeout(3.0):
            while state.connections:
                await asyncio.sleep(0.01)

    served(act, rest=60.0)


def test_a_connection_that_rests_holds_no_body():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"x" * 100))
        await caller.reply()
        (protocol,) = state.connections
        assert (protocol.cycle.response_complete, protocol.cycle.body) == (True, b"")

    served(act)


def test_a_client_that_reads_again_goes_on():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"1"))
        taking.held[0].set_result(b"z" * 30_000_000)
        await caller.send(HEAD)
        (protocol,) = state.connections
        assert len((await caller.reply())[1]) == 30_000_000
        assert protocol.phase == connections.HEAD
        await caller.send(b"content-length: 1\r\n\r\nx")
        assert protocol.phase == connections.BUSY
        taking.held[1].set_result(b"done")
        assert (await caller.reply())[1] == b"done"
        assert protocol.phase == connections.IDLE

    served(act)


@pytest.mark.parametrize("held", [False, True])
def test_a_head_behind_a_whole_request_has_its_bounds(held, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)

    async def act(taking: Taking, caller: Caller, state: ServerState, sent: list[bytes], status: bytes) -> None:
        taking.held = [] if held else None
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # what is sent after it may reset the connection
            await caller.send(posted(b"x") + HEAD)
            if taking.held:
                taking.held[0].set_result(b"short  x")
            assert (await caller.reply())[1] == b"short  x"
            await caller.send(*sent)
            head = await asyncio.wait_for(caller.reader.readuntil(b"\r\n\r\n"), 3)
            assert head.startswith(status)
            await asyncio.wait_for(caller.reader.read(), 3)  # to the end
        async with asyncio.timeout(3.0):
            while state.connections:
                await asyncio.sleep(0.01)

    served(partial(act, sent=[b"x: " + b"a" * 9_000] * 8, status=b"HTTP/1.1 431 "), rest=60.0)
    served(partial(act, sent=[b"x: a\r\n"], status=b"HTTP/1.1 408 "), rest=60.0)


@pytest.mark.parametrize(
    "last",
    [
        posted(b"a", more=b"connection: close\r\n"),
        posted(b"a", HEAD.replace(b"1.1", b"1.0")),
        posted(b"refuse", more=b"connection: close\r\n"),
        posted(b"end"),
        posted(b"a" * 101, more=b"connection: close\r\n"),  # for the other path
        posted(b"a", HEAD.replace(b"POST", b"GET"), b"connection: close\r\n"),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_request_behind_one_that_closes_the_connection_is_not_carried_out(last, cut):
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        take, bodies = taking.take, list[bytes]()

        def noted(head: RequestHead, client: str, body: bytes, reply: Exchange) -> None:
            bodies.append(body)
            take(head, client, body, reply)

        taking.take = noted  # type: ignore[method-assign]
        more = posted(b"b") + posted(b"b" * 101) + HEAD
        with suppress(ConnectionError):  # where some is sent after the end
            await caller.send(*([last, more, more] if cut else [last + more]))
            await caller.reply()
            assert await asyncio.wait_for(caller.reader.read(), 5) == b""
        assert b"b" not in bodies

    served(act)


def test_a_flood_behind_one_request_is_refused():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        taking.held = []
        await caller.send(posted(b"x") * 500)
        assert (await caller.reply())[0].startswith(b"HTTP/1.1 400 ")
        assert await caller.ended()

    served(act)


def test_where_there_are_too_many_connections_the_idle_ones_make_room():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        (protocol,) = state.connections
        address = protocol.server
        await caller.send(posted(b"x"))
        await caller.reply()
        taking.connections.most = 3
        silent = [Caller(*await asyncio.open_connection(*address)) for _ in range(2)]
        await asyncio.sleep(0.05)
        last = Caller(*await asyncio.open_connection(*address))
        assert await silent[0].ended()  # the oldest without a request
        await last.send(posted(b"y"))
        assert (await last.reply())[1] == b"short  y"
        assert not await caller.ended(0.05)  # it asked something, and rests
        taking.held = []
        assert (len(taking.connections), await silent[1].ended(0.05)) == (3, False)
        busy = [caller, last, Caller(*await asyncio.open_connection(*address))]
        for one in busy:
            await one.send(posted(b"z"))
        assert len(taking.held) == 3
        assert await silent[1].ended()
        beyond = Caller(*await asyncio.open_connection(*address))
        assert (await beyond.reply())[0].startswith(b"HTTP/1.1 503 ")
        for reply in taking.held:
            reply.set_result(b"done")
        for one in busy:
            assert (await one.reply())[1] == b"done"
        for one in (*busy[1:], *silent, beyond):
            one.writer.close()

    served(act)


# ---- heads that are known --------------------------------------------------------------------------------------------


def test_a_head_that_is_known_is_not_parsed_and_answered_alike():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        replies, protocol = [], None
        for body in (b"one", b"two", b"refuse", b"six", b"refuse", b"end"):
            await caller.send(posted(body, HEAD.replace(b"/hot", b"/hot?q")))
            replies.append(await caller.reply())
            protocol = next(iter(state.connections), protocol)
        assert protocol.headers == [(b"host", b"localhost"), (b"content-length", b"3")]  # the others differ in it alone
        assert [body for _, body in replies[:2]] == [b"short q one", b"short q two"]
        assert replies[0][0] == replies[1][0] == replies[3][0]
        assert replies[2] == replies[4]
        assert replies[5][0].endswith(b"\r\nconnection: close\r\n\r\n")
        assert await caller.ended()
        assert state.total_requests == 6

    counted = served(act).counted
    assert counted == [("hot", 200)] * 2 + [("hot", 429), ("hot", 200), ("hot", 429), ("hot", 503)]


def test_bytes_of_a_body_that_look_like_a_known_head_are_a_body():
    known = posted(b"evil")

    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        for _ in range(2):
            await caller.send(known)
            assert (await caller.reply())[1] == b"short  evil"
        whole = b"a" * 10 + known
        sent = posted(whole)
        for cut in (len(sent) - len(known), len(sent) - len(known) - 1):  # what is read last is, or ends in, a request
            await caller.send(sent[:cut], sent[cut:])
            assert (await caller.reply())[1] == b"long  " + whole
        await caller.send(CHUNKED + b"%x\r\n" % len(known), known, b"\r\n0\r\n\r\n")
        assert (await caller.reply())[1] == b"long  " + known
        await caller.send(b"\r\n", known)  # after an empty line, which is allowed
        assert (await caller.reply())[1] == b"short  evil"

    assert served(act).counted == [("hot", 200)] * 3


def test_an_early_reply_does_not_turn_the_rest_of_a_body_into_a_request():
    known = posted(b"evil")

    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        for _ in range(2):
            await caller.send(known)
            await caller.reply()
        (protocol,) = state.connections
        whole = posted(known + b"!")
        await caller.send(whole[: -len(known) - 1])  # the head alone, which leaves the fast path
        protocol.cycle.response_complete = True
        protocol._rest()  # as if the application had replied before the body came
        await caller.send(known)
        assert len(taking.counted) == 2

    served(act)


def test_requests_of_known_heads_wait_behind_each_other():
    async def act(taking: Taking, caller: Caller, state: ServerState) -> None:
        await caller.send(posted(b"1"))
        await caller.reply()
        await caller.send(posted(b"2"))
        await caller.reply()
        taking.held = []
        await caller.send(posted(b"3"), posted(b"4"))
        (third,) = taking.held
        taking.held = None
        third.set_result(b"third")
        assert [(await caller.reply())[1] for _ in range(2)] == [b"third", b"long  4"]

    served(act)
