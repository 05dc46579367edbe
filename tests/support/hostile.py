"""Clients that mean harm: each holds a connection in its way, and opens another one as soon as it is closed."""

from __future__ import annotations

import asyncio
import gzip
import random
import select
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle, islice

import numpy as np

HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
DEEP = b'{"features": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
RATE = 600  # clients that come in a second
PATIENCE = 60.0  # seconds for which a crowd waits for its last client, and then for its end


@cache
def bomb() -> bytes:
    """Return a body that grows a thousandfold."""
    return gzip.compress(bytes(100 << 20))


async def endless_head(writer: asyncio.StreamWriter) -> None:
    """Send one header without an end."""
    writer.write(HEAD + b"x-long: ")
    while True:
        writer.write(b"a" * 4096)
        await writer.drain()
        await asyncio.sleep(0.05)


async def half_head(writer: asyncio.StreamWriter) -> None:
    """Send half a head, then a byte now and then."""
    writer.write(HEAD)
    while True:
        await asyncio.sleep(1.0)
        writer.write(b"a")


async def slow_body(writer: asyncio.StreamWriter) -> None:
    """Send a body byte by byte."""
    writer.write(HEAD + b"content-length: 100000\r\n\r\n{")
    while True:
        await asyncio.sleep(0.5)
        writer.write(b" ")


async def wrong_coding(writer: asyncio.StreamWriter) -> None:
    """Send compressed bodies that are none, of an unknown coding, or that grow a thousandfold."""
    bodies = [(b"br", b"abc"), (b"gzip", b"abc"), (b"gzip", bomb())]
    for coding, body in cycle(bodies):
        writer.write(HEAD + b"content-encoding: %b\r\ncontent-length: %d\r\n\r\n" % (coding, len(body)) + body)
        await writer.drain()
        await asyncio.sleep(random.uniform(5.0, 15.0))


async def deep_json(writer: asyncio.StreamWriter) -> None:
    """Send JSON that is nested too deeply."""
    while True:
        writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(DEEP) + DEEP)
        await writer.drain()
        await asyncio.sleep(random.uniform(5.0, 15.0))


async def idle(writer: asyncio.StreamWriter) -> None:
    """Send nothing."""
    await asyncio.sleep(3600)


KINDS = (endless_head, half_head, slow_body, wrong_coding, deep_json, idle)


@dataclass
class Crowd:
    """What came of the connections of all hostile clients.

    `came` counts the clients that have had a connection, `open` the connections that are open, `most` the most of them.
    """

    came: int = 0
    open: int = 0
    most: int = 0
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def crowd(host: str, port: int, count: int) -> Iterator[Crowd]:
    """Let `count` hostile clients work while the block runs."""
    seen, over = Crowd(), threading.Event()

    async def one(act, delay: float) -> None:  # type: ignore[no-untyped-def]
        await asyncio.sleep(delay)
        came = False
        while not over.is_set():
            writer = acting = None
            try:
                reader, writer = await asyncio.open_connection(host, port)
                seen.came += not came
                came = True
                seen.open += 1
                seen.most = max(seen.most, seen.open)
                acting = asyncio.ensure_future(act(writer))
                acting.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                reply = await reader.read()  # until the server closes
                seen.counts[f"{act.__name__} {reply[9:12].decode()}"] += 1
            except OSError as error:
                seen.counts[type(error).__name__] += 1
            finally:
                if acting is not None:
                    acting.cancel()
                if writer is not None:
                    seen.open -= 1
                    writer.close()
            await asyncio.sleep(1.0)

    async def main() -> None:
        random.seed(1)
        tasks = [
            asyncio.ensure_future(one(act, number / RATE)) for number, act in enumerate(islice(cycle(KINDS), count))
        ]
        while not over.is_set():
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def main() -> None:
    """Run a crowd in a separate process until standard input closes; print when it is there, and what came of it."""
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    patience = float(sys.argv[4]) if len(sys.argv) > 4 else PATIENCE
    bomb()  # made beforehand, because it takes the time of many connections
    with crowd(host, port, count) as seen:
        deadline = time.monotonic() + patience
        while seen.came < count and time.monotonic() < deadline:
            time.sleep(0.05)
        print(f"{seen.came} came", flush=True)
        select.select([sys.stdin], [], [], patience)
    print(seen.most, dict(seen.counts))


def p99(seconds: list[float]) -> float:
    """Return the 99th percentile in milliseconds."""
    return 1000 * float(np.percentile(seconds, 99))


if __name__ == "__main__":
    main()
