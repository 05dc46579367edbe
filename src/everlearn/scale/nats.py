"""A broker on NATS JetStream: one stream, and one subject in it, for each loop.

Publishing waits for the acknowledgement of the stream, which its leader gives once a majority of the replicas has the
message. A message is sent again with the same id until it is acknowledged, so that it is stored once. The client runs
in a thread with an event loop, and connects to another server where one goes away.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

from everlearn.errors import ConfigError, LogError
from everlearn.events.log import without_secrets
from everlearn.scale.broker import Message

try:
    import nats
    from nats.aio.client import Client
    from nats.errors import Error as NatsError
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import NotFoundError

    from everlearn.scale.nats_publications import AGAIN, PATIENCE, PAUSE, Publications, passes
except ImportError as missing:
    raise ConfigError("a log in NATS needs nats-py; pip install 'everlearn[nats]'") from missing

log = logging.getLogger("everlearn.nats")

WINDOW = 120.0  # seconds for which the stream remembers ids; longer than PATIENCE
READ_BYTES = 8 << 20  # of one answer
_FRONT = 1024  # bytes of a message that are not body: its subject and headers
_CONNECT, _RECONNECT = 10.0, 0.1  # seconds to connect at first, and between two attempts later
_URL = re.compile(
    r"nats://(?:(?P<login>[^/@]+)@)?(?P<hosts>[^/@,?]+(?:,[^/@,?]+)*)/(?P<stream>[A-Za-z0-9_-]{1,100})(?:\?(?P<query>.*))?"
)
_REPLICAS = ("1", "3", "5")
_OLDEST = (2, 11)  # the first release that reads several messages in one request

Found = TypeVar("Found")
Answer = list[tuple[dict[str, str], bytes]]


class _Login(NamedTuple):
    user: str = ""
    password: str = ""
    token: str = ""


_NO_LOGIN = _Login()


def _before_gap(answer: Answer) -> list[tuple[int, bytes]]:
    """Return sequence and body of the messages before the first that was lost on its way, as in a reconnect.

    Each message names the one that was sent before it, and the first one names 0.
    """
    whole, last = list[tuple[int, bytes]](), 0
    for headers, body in answer:
        if int(headers["Nats-Last-Sequence"]) != last:
            break
        last = int(headers["Nats-Sequence"])
        whole.append((last, body))
    return whole


class NatsBroker:
    """One JetStream stream as a `Broker`. Close it, or its thread lives on."""

    def __init__(self, servers: Sequence[str], stream: str, replicas: int = 1, login: _Login = _NO_LOGIN) -> None:
        """Connect, and create the stream unless it is there. Raises `LogError` if that fails."""
        self.place = f"in the NATS stream {stream}"
        self._stream, self._subject = stream, f"everlearn.{stream}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="everlearn-nats", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._client = self._run(_connected(servers, login), "cannot be reached")
        except BaseException:
            self._stop()
            raise
        try:
            self._check_release()
            self._context = self._client.jetstream(timeout=PATIENCE)
            self._publications = Publications(self._client, self._stream, self._subject)
            self._run(self._created(replicas), "could not be opened")
            self.most_bytes = self._client.max_payload - _FRONT
        except BaseException:
            self.close()
            raise

    def _check_release(self) -> None:
        version = self._client.connected_server_version
        if (version.major, version.minor) < _OLDEST:
            raise LogError(
                f"the log {self.place}: the server is NATS {version}; expected {'.'.join(map(str, _OLDEST))}"
            )

    async def _created(self, replicas: int) -> None:
        """Create the stream unless it is there."""
        config = StreamConfig(
            name=self._stream,
            subjects=[self._subject],
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,  # a full stream refuses events: it never drops old ones for them
            storage=StorageType.FILE,
            num_replicas=replicas,
            duplicate_window=WINDOW,
            allow_direct=True,
        )

        async def create() -> None:
            try:
                await self._context.stream_info(self._stream)
            except NotFoundError:
                await self._context.add_stream(config)

        await self._again(create)
        await self._publications.listen()

    # ---- writing -----------------------------------------------------------------------------------------------

    def publish(self, messages: Sequence[Message]) -> list[int]:
        """Write messages durably, as `Broker.publish` does."""
        what = "an event" if len(messages) == 1 else f"all of {len(messages)} messages"
        return self._run(self._publications.send(messages), f"did not acknowledge {what}")

    def check(self, patience: float) -> None:
        """Raise `LogError` if the stream has no leader with a majority of its replicas within `patience` seconds."""
        self._run(self._led(patience), "cannot be written")

    async def _led(self, patience: float) -> None:
        info = await self._again(lambda: self._context.stream_info(self._stream), patience)
        others = info.cluster.replicas or [] if info.cluster is not None else []
        if (gone := sum(bool(one.offline) for one in others)) > len(others) / 2:
            raise LogError(f"the log {self.place} cannot be written: {gone} of {len(others) + 1} replicas are gone")

    # ---- reading -----------------------------------------------------------------------------------------------

    def read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return messages after a sequence, as `Broker.read` does."""
        return self._run(self._batch(after, limit), "could not be read")

    async def _batch(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Ask any replica for messages; where it has none, ask the leader whether that is the end."""
        until = time.monotonic() + PATIENCE
        while True:
            wanted = {"seq": after + 1, "batch": limit, "max_bytes": READ_BYTES, "next_by_subj": self._subject}
            if found := _before_gap(await self._direct(wanted)):
                return found
            state = await self._again(self._state)
            if state.last_seq <= after or state.messages == 0:
                return []
            if time.monotonic() > until:
                raise TimeoutError
            await asyncio.sleep(PAUSE)

    async def _direct(self, wanted: dict[str, Any]) -> Answer:
        """Send one request for messages to the replicas, and return what came before the mark of the end."""
        inbox = self._client.new_inbox()
        answers: asyncio.Queue[Any] = asyncio.Queue()
        subscription = await self._client.subscribe(inbox, cb=answers.put)
        found: Answer = []
        try:
            await self._client.publish(f"$JS.API.DIRECT.GET.{self._stream}", json.dumps(wanted).encode(), reply=inbox)
            while True:
                message = await asyncio.wait_for(answers.get(), AGAIN)
                headers = message.headers or {}
                if headers.get("Status"):  # 204: the end of the answer; 404: no such message
                    return found
                found.append((headers, message.data))
        except (NatsError, TimeoutError):
            return found
        finally:
            await subscription.unsubscribe()

    def get(self, sequence: int) -> bytes | None:
        """Return the body of a message, as its leader has it; None if there is none."""
        return self._run(self._again(lambda: self._one(sequence)), "could not be read")

    async def _one(self, sequence: int) -> bytes | None:
        try:
            found: bytes | None = (await self._context.get_msg(self._stream, seq=sequence)).data
            return found or b""
        except NotFoundError:
            return None

    def first(self) -> int:
        """Return the sequence of the oldest message that is still there; that of the next one if there is none."""
        return int(self._run(self._again(self._state), "could not be read").first_seq or 1)

    def end(self) -> int:
        """Return the sequence of the newest message."""
        return int(self._run(self._again(self._state), "could not be read").last_seq)

    async def _state(self) -> Any:
        return (await self._context.stream_info(self._stream)).state

    async def _again(self, ask: Callable[[], Awaitable[Found]], patience: float | None = None) -> Found:
        """Send a request, and send it again each second, until one of them is answered.

        A request that is sent while a stream has no leader has no answer. On a busy machine an answer may take long.
        """
        until = time.monotonic() + (PATIENCE if patience is None else patience)
        sent: set[asyncio.Future[Found]] = set()
        try:
            while True:
                sent.add(asyncio.ensure_future(ask()))
                wait = max(min(AGAIN, until - time.monotonic()), PAUSE)
                answered, sent = await asyncio.wait(sent, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                errors = [error for one in answered if (error := one.exception()) is not None]
                for one in answered:
                    if one.exception() is None:
                        return one.result()
                if lasting := [error for error in errors if not passes(error)]:
                    raise lasting[0]
                if time.monotonic() > until:
                    raise errors[0] if errors else TimeoutError()
                if errors:
                    await asyncio.sleep(PAUSE)
        finally:
            for one in sent:
                one.cancel()

    # ---- the thread --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; closing twice is allowed."""
        if not self._closed:
            self._closed = True
            with suppress(NatsError, TimeoutError):
                asyncio.run_coroutine_threadsafe(self._client.close(), self._loop).result(AGAIN)
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Found], what: str) -> Found:
        """Run work in the thread, and wait for its result."""
        if self._closed:
            work.close()
            raise LogError(f"the log {self.place} is closed; open it again to use it")
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (NatsError, OSError, TimeoutError) as error:
            words = " ".join(str(error).split()) or "no answer"
            advice = (
                "check that the servers of log.url run, that a majority of the replicas does, and the login in log.url"
            )
            if "authorization" in words.lower() or "permissions" in words.lower():
                advice = "check the user name, password or token in log.url, or NATS_CREDS, and what that user may do"
            raise LogError(f"the log {self.place} {what}: {words}; {advice}. What was acknowledged is kept") from error


async def _connected(servers: Sequence[str], login: _Login) -> Client:
    """Connect to one of the servers; later the client knows all servers of their cluster."""
    last: list[Exception] = []

    async def noted(error: Exception) -> None:
        last[:] = [error]
        log.debug("the connection to NATS: %s", error)

    try:
        return await asyncio.wait_for(
            nats.connect(
                list(servers),
                name="everlearn",
                error_cb=noted,
                connect_timeout=2,
                reconnect_time_wait=_RECONNECT,
                max_reconnect_attempts=-1,
                ping_interval=5,
                user=login.user or None,
                password=login.password or None,
                token=login.token or None,
                user_credentials=os.environ.get("NATS_CREDS") or None,
                tls=_tls(),
            ),
            _CONNECT,
        )
    except TimeoutError:
        if last:
            raise last[0] from None
        raise


def _tls() -> ssl.SSLContext | None:
    """Return the trust in the authority of the environment; None for that of the system."""
    authority = os.environ.get("NATS_CA")
    return ssl.create_default_context(cafile=authority) if authority else None


def connect(url: str) -> NatsBroker:
    """Open the stream at `nats://[USER:PASSWORD@]HOST[:PORT][,HOST...]/STREAM[?replicas=N]`, or create it.

    A single word before `@` is a token. The file in the environment variable NATS_CREDS has credentials, that in
    NATS_CA the certificate of an authority. Raises `ConfigError` for another form, and `LogError` if no server answers.
    """
    match = _URL.fullmatch(url)
    parameters = parse_qsl(match["query"] or "", keep_blank_values=True) if match is not None else []
    replicas = dict(parameters).get("replicas", "1")
    if match is None or [name for name, _ in parameters if name != "replicas"] or replicas not in _REPLICAS:
        raise ConfigError(
            f"log.url: got {without_secrets(url)!r}; expected nats://HOST/STREAM or "
            "nats://HOST,HOST,HOST/STREAM?replicas=3, where STREAM has letters, digits, - and _, and replicas is one "
            f"of {', '.join(_REPLICAS)}"
        )
    first, has_password, second = (match["login"] or "").partition(":")
    login = _Login(unquote(first), unquote(second), "") if has_password else _Login("", "", unquote(first))
    return NatsBroker([f"nats://{host}" for host in match["hosts"].split(",")], match["stream"], int(replicas), login)
