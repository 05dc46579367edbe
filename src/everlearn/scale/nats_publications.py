"""Messages on their way into a stream of NATS: many in flight, in order, each sent again until it is acknowledged.

nats-py has a request with a timer and a task for each message. That takes most of its time where a message is small.
Here all acknowledgements come to one subject of this client, and one coroutine sends all messages of a call.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import AuthorizationError, ConnectionClosedError, MaxPayloadError
from nats.errors import Error as NatsError
from nats.js.errors import APIError

from everlearn.scale.broker import Message

PATIENCE = 30.0  # seconds until a message must be acknowledged, or an answer read
IN_FLIGHT = 256  # messages of one call that wait for their acknowledgement at a time
AGAIN = 1.0  # seconds until a request is sent again that has no answer
PAUSE = 0.05  # seconds until a request is sent again that was refused
_FULL, _BUSY = 10077, (10158, 10201)  # numbers of errors: a full stream, and a message that is being stored already


class Publications:
    """Publishes the messages of a stream over one client, on the event loop of that client."""

    def __init__(self, client: Client, stream: str, subject: str) -> None:
        self._client = client
        self._stream, self._subject = stream, subject
        self._inbox = client.new_inbox()
        self._number = 0
        self._waiting: dict[str, _Sent] = {}  # by the subject of the acknowledgement

    async def listen(self) -> None:
        """Receive acknowledgements; call it once, before `send`."""
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def send(self, messages: Sequence[Message]) -> list[int]:
        """Send messages in order until all of them are acknowledged; return their sequences.

        A message goes out again with the same id each second, to the same subject of acknowledgement: the first
        acknowledgement counts. Raises `TimeoutError` for one that has none for 30 seconds, and the error of NATS where
        it refuses one for good.
        """
        call = _Call(asyncio.get_running_loop())
        rest = deque(self._named(call, message) for message in messages)
        all_sent = [*rest]
        try:
            while rest or call.left:
                due, call.due = call.due, []
                due += [rest.popleft() for _ in range(min(len(rest), IN_FLIGHT - call.left))]
                for sent in due:
                    await self._out(sent)
                await call.moved()
            return [sent.sequence for sent in all_sent]
        finally:
            call.end()
            for sent in all_sent:
                self._waiting.pop(sent.reply, None)

    def _named(self, call: _Call, message: Message) -> _Sent:
        self._number += 1
        return _Sent(call, message, f"{self._inbox}.{self._number}")

    async def _out(self, sent: _Sent) -> None:
        """Send a message, unless it was acknowledged meanwhile."""
        if sent.sequence:
            return
        if not sent.until:
            sent.call.left += 1
            sent.until = time.monotonic() + PATIENCE
            self._waiting[sent.reply] = sent
        sent.call.unanswered[sent.reply] = sent, time.monotonic() + AGAIN
        headers = {"Nats-Msg-Id": sent.message.id, "Nats-Expected-Stream": self._stream}
        try:
            await self._client.publish(self._subject, sent.message.body, sent.reply, headers)
        except NatsError as error:
            sent.call.refused(sent, error)

    async def _answered(self, answer: Msg) -> None:
        """Take an acknowledgement or a refusal."""
        sent = self._waiting.get(answer.subject)
        if sent is None:
            return
        if answer.headers and answer.headers.get("Status"):  # 503: the stream has no leader now
            sent.call.refused(sent, APIError(code=503))
        elif (refusal := (found := _decode(answer.data)).error) is not None:
            sent.call.refused(sent, APIError(refusal.code, refusal.description, refusal.err_code))
        else:
            del self._waiting[answer.subject]
            sent.call.acknowledged(sent, found.seq)


class _Call:
    """The messages of one call that are on their way."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.left = 0  # messages that were sent and have no acknowledgement
        self.due: list[_Sent] = []  # to be sent again
        self.unanswered: dict[str, tuple[_Sent, float]] = {}  # and when to send them again
        self._error: BaseException | None = None
        self._news = loop.create_future()
        self._timer = loop.call_later(AGAIN, self._look)

    async def moved(self) -> None:
        """Wait for an acknowledgement, or until a message must be sent again. Raises what refuses one for good."""
        await self._news
        self._news = self._loop.create_future()
        if self._error is not None:
            raise self._error

    def acknowledged(self, sent: _Sent, sequence: int) -> None:
        """Note the sequence of a message."""
        sent.sequence = sequence
        self.unanswered.pop(sent.reply, None)
        self.left -= 1
        self._wake()

    def refused(self, sent: _Sent, error: BaseException) -> None:
        """Send a message again in a moment, or give up where that does not help."""
        self.unanswered.pop(sent.reply, None)
        if not passes(error) or time.monotonic() > sent.until:
            self._error = error
            self._wake()
        else:
            self._loop.call_later(PAUSE, self._send_again, sent)

    def end(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _look(self) -> None:
        """Send again, in their order, the messages without an answer; give up after a while."""
        now = time.monotonic()
        late = [sent for sent, again in self.unanswered.values() if again <= now]
        if any(sent.until < now for sent in late):
            self._error = TimeoutError()
        for sent in late:
            self._send_again(sent)
        self._wake()
        self._timer = self._loop.call_later(AGAIN / 4, self._look)

    def _send_again(self, sent: _Sent) -> None:
        self.unanswered.pop(sent.reply, None)
        self.due.append(sent)
        self._wake()

    def _wake(self) -> None:
        if not self._news.done():
            self._news.set_result(None)


class _Sent(msgspec.Struct, eq=False):
    """A message, the subject of its acknowledgement, its sequence once it has one, and its last moment."""

    call: _Call
    message: Message
    reply: str
    sequence: int = 0
    until: float = 0.0


class _Refusal(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct):
    seq: int = 0  # no message has the sequence 0
    error: _Refusal | None = None


_decode = msgspec.json.Decoder(_Ack).decode


def passes(error: BaseException) -> bool:
    """Return True for an error that ends once the cluster has a leader, or the client another server."""
    if isinstance(error, APIError):
        return error.err_code in _BUSY or (error.code == 503 and error.err_code != _FULL)
    lasting = ConnectionClosedError | AuthorizationError | MaxPayloadError
    return isinstance(error, NatsError | TimeoutError) and not isinstance(error, lasting)
