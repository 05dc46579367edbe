"""A realistic client: it requests predictions and sends labels late, out of order, and sometimes twice.

Start a server, then this client, and watch the dashboard:

    everlearn demo --serve
    python examples/traffic.py

It plays the electricity stream from the end of the demo's offline training. Of a hundred labels a few are sent twice, a
few are wrong at first and corrected later, and a few never come; some feedback has an unknown prediction id.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from importlib.resources import as_file, files
from typing import Any, TypeVar

import everlearn as el
from everlearn.client import Unreachable

T = TypeVar("T")
Record = tuple[dict[str, Any], Any]


def records(skip: float) -> list[Record]:
    """Return the demo's stream, without the share used for offline training."""
    with as_file(files("everlearn") / "data" / "elec2.parquet") as path:
        stream = el.read(path, label="label")
        rows = [row for part in stream.records() for row in zip(part.features, part.labels, strict=True)]
    return rows[int(skip * len(rows)) :]


class Traffic:
    """All requests and labels in flight; each label has a random delay."""

    def __init__(self, client: el.AsyncClient, delay: float, seed: int, classes: list[Any]) -> None:
        self.client = client
        self.delay = delay
        self.classes = classes
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.slots = asyncio.Semaphore(16)  # requests at a time; others wait in this client
        self.slowest = 0.0
        self.stale = 0.0

    async def play_row(self, features: dict[str, Any], label: Any) -> None:
        """Request a prediction, wait for the label's delay, and send the label."""
        async with self.slots:
            began = time.perf_counter()
            answer = await self.retry(self.client.predict, features)
            self.slowest = max(self.slowest, time.perf_counter() - began)
        self.stale = max(self.stale, answer.staleness)
        self.counts["predictions"] += 1
        self.counts["right"] += answer.value == label
        await asyncio.sleep(self.random.expovariate(1.0 / self.delay))
        fate = self.random.random()
        if fate < 0.02:
            self.counts["never labelled"] += 1
            return
        if fate < 0.04:  # a wrong label, corrected later
            await self.label(answer.id, next(value for value in self.classes if value != label))
            await asyncio.sleep(self.delay)
            self.counts["corrected"] += 1
        await self.label(answer.id, label)
        if fate > 0.97:  # the queue delivers at least once
            await self.label(answer.id, label)
            self.counts["sent twice"] += 1
        if fate > 0.995:
            await self.stray()

    async def label(self, id: str, label: Any) -> None:
        async with self.slots:
            await self.retry(self.client.feedback, id, label)
        self.counts["labels"] += 1

    async def retry(self, call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Retry while the server is away, for instance during a restart."""
        for _ in range(60):
            try:
                return await call(*arguments)
            except Unreachable:
                self.counts["tries while the server was away"] += 1
                await asyncio.sleep(1)
        return await call(*arguments)

    async def stray(self) -> None:
        """Send feedback with an unknown id, which is refused and changes nothing."""
        try:
            await self.client.feedback("unknown-id", label=self.classes[0])
        except el.errors.UnknownId:
            self.counts["refused as expected"] += 1


async def play(arguments: argparse.Namespace) -> Counter[str]:
    rows = records(arguments.skip)[: arguments.rows or None]
    classes = sorted({label for _, label in rows}, key=str)
    async with el.AsyncClient(arguments.url, token=arguments.token) as client:
        traffic = Traffic(client, arguments.delay, arguments.seed, classes)
        began = shown = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, (features, label) in enumerate(rows):
                group.create_task(traffic.play_row(features, label))
                due = began + (number + 1) / arguments.rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if time.perf_counter() - shown > 5:
                    shown = time.perf_counter()
                    show(traffic)
        show(traffic)
        return traffic.counts


def show(traffic: Traffic) -> None:
    counts = traffic.counts
    right = counts["right"] / max(1, counts["predictions"])
    rest = ", ".join(f"{number:,} {name}" for name, number in counts.items() if name not in ("predictions", "right"))
    print(
        f"{counts['predictions']:,} predictions, {right:.1%} right · {rest} · "
        f"slowest answer {1000 * traffic.slowest:.0f} ms, stalest weights {1000 * traffic.stale:.0f} ms",
        flush=True,
    )
    traffic.slowest = traffic.stale = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--token", default="", help="a token with the scopes predict and feedback, if required")
    parser.add_argument("--rate", type=float, default=150.0, help="predictions a second")
    parser.add_argument("--delay", type=float, default=3.0, help="mean delay of a label in seconds")
    parser.add_argument("--rows", type=int, default=0, help="rows to play (0: the whole stream)")
    parser.add_argument("--skip", type=float, default=0.1, help="share of the stream used for offline training")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(play(parser.parse_args()))


if __name__ == "__main__":
    main()
