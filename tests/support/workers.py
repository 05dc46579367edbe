"""A worker on a real log and a real snapshot, in this process without a socket or as a process of its own."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from everlearn import config, model, schema
from everlearn.app.auth import Access
from everlearn.app.counters import Counters, read
from everlearn.app.process import Setup
from everlearn.app.worker import serving
from everlearn.app.worker.application import Worker
from everlearn.events import SqliteLog
from everlearn.families.linear.model import Linear
from everlearn.records import Batch, Event, Prediction, Singles
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Answering, Publisher, Reader
from everlearn.spec import Spec

FIELDS = {"a": "numeric", "b": "numeric", "town": "categorical"}


BINARY: dict[str, Any] = {
    "schema": {"label": "y", "task": "binary", "classes": ["no", "yes"], "fields": FIELDS},
    "model": {"family": "linear"},
}


RECORD = {"a": 0.5, "b": -1.25, "town": "Delft"}


SENT = {"host": "localhost", "content-type": "application/json"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


class Site:
    """A worker on a real log and a real snapshot, without a socket."""

    def __init__(
        self, home: Path, spec: Mapping[str, Any] = BINARY, build: Any = model.build, quick: bool = True
    ) -> None:
        self.home, self.spec = home, config.convert(dict(spec))
        self.setup = Setup(spec=self.spec, home=str(home), serving=str(snapshot.folder(home)))
        self.encoder = schema.reading(self.spec.schema)
        self.publisher = Publisher(Path(self.setup.serving))
        self.log = SqliteLog(home / "log.sqlite")
        self.log.quick = quick
        self.tally = Counters(self.setup.counters(0))
        self.model = trained(self.spec)
        self.publish()
        reader = Reader(Path(self.setup.serving), build, patience=0.0)
        self.worker = Worker(self.setup, self.log, reader, Access(self.setup), self.tally, lambda: None)

    def publish(self, name: str = "v1", canary: model.Model | None = None, position: int = 7, **extra: Any) -> None:
        second = Answering("v2", canary) if canary is not None else None
        self.publisher.publish(Answering(name, self.model), second, position, extra)
        self.publisher.fresh(time.monotonic())
        time.sleep(serving.KEPT)

    def run(self, act: Callable[[Site], Awaitable[Any]]) -> Any:
        """Do something while the worker is alive."""

        async def main() -> Any:
            ends = asyncio.Event()
            told = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
            said: list[str] = []

            async def receive() -> dict[str, Any]:
                if said:
                    await ends.wait()
                return next(told)

            async def send(message: Any) -> None:
                said.append(message["type"])

            living = asyncio.create_task(self.worker({"type": "lifespan"}, receive, send))
            while not said:
                await asyncio.sleep(0)
            try:
                return await act(self)
            finally:
                ends.set()
                await living
                assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

        return asyncio.run(main())

    async def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        headers: Mapping[str, str] = SENT,
        parts: int = 1,
    ) -> Reply:
        """One request, its body in so many parts."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        step = -(-len(content) // parts) or 1
        pieces = [content[start : start + step] for start in range(0, len(content), step)] or [b""]
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50_000),
        }
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                return {"type": "http.disconnect"}
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.worker(scope, receive, send)
        start, *rest = sent
        head = {name.decode(): value.decode() for name, value in start["headers"]}
        reply = Reply(start["status"], head, b"".join(one["body"] for one in rest))
        assert int(head["content-length"]) == len(reply.content)
        assert start["status"] == 200 or head["content-type"] == "application/problem+json"
        return reply

    def once(self, path: str, body: Any = None, **more: Any) -> Reply:
        reply: Reply = self.run(lambda site: site.ask(path, body, **more))
        return reply

    def together(self, *asked: tuple[str, Any]) -> list[Reply]:
        """Several requests at once, so that they are one group."""

        async def act(site: Site) -> list[Reply]:
            return await asyncio.gather(*(site.ask(path, body) for path, body in asked))

        replies: list[Reply] = self.run(act)
        return replies

    def events(self) -> list[Event]:
        return self.log.read(limit=10_000)

    def predictions(self) -> list[Prediction]:
        return [event.payload for event in self.events() if isinstance(event.payload, Prediction)]

    @property
    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = read(self.setup.counters(0))["counts"]
        return counts

    def close(self) -> None:
        self.log.close()
        self.tally.close()
        self.publisher.close()


def trained(spec: Spec, seed: int = 0) -> model.Model:
    """A model of a spec that has learned something; which, depends on the seed. One of pairs is untrained."""
    made = model.build({"family": "linear"}, schema.shape(spec.schema))
    if spec.schema.task == "preference":
        return made
    draw = np.random.default_rng(seed)
    encoder = schema.Encoder(spec.schema)
    rows = [{"a": float(x), "b": float(y), "town": "Delft"} for x, y in draw.normal(size=(200, 2))]
    y = np.array([row["a"] > 0.0 for row in rows], np.float64)
    made.learn(encoder.records(rows)[0], y, np.ones(200, np.float32))
    return made


def with_serve(**changes: Any) -> dict[str, Any]:
    return {**BINARY, "serve": changes}


class Picky(Linear):
    """A model that does not survive one kind of row."""

    def predict(self, batch: Batch) -> Singles:
        if (batch.dense[:, 0] == 13.0).any():
            raise FloatingPointError("thirteen")
        if (batch.dense[:, 0] == 14.0).any():
            return np.full((len(batch), 2), np.nan, np.float32)
        return super().predict(batch)


def picky(spec: Mapping[str, Any]) -> Picky:
    made = model.build(spec)
    made.__class__ = Picky
    return made  # type: ignore[return-value]


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    url: str


def raw(url: str, *sent: bytes) -> list[bytes]:
    """Send on one connection; return what each reading then gets, until the server closes or half a second is quiet."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(0.5)
        for part in sent:
            connection.sendall(part)
        got: list[bytes] = []
        with suppress(TimeoutError):
            while part := connection.recv(1 << 20):
                got.append(part)
        return got


def posted(body: bytes, length: int = 0) -> bytes:
    head = "POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: "
    return f"{head}{length or len(body)}\r\n\r\n".encode() + body
