"""A realistic client: it requests predictions and sends labels late, and sometimes wrong or twice.

Start a server, then this client, and watch the dashboard:

    everlearn demo --serve
    python examples/traffic.py

It plays the electricity stream from the end of the demo's offline training. A row is half an hour of the market, and
its label comes one row later, at whatever speed the rows are played. The client waits while the weights that
answer lack more than a few of the labels that it has sent, so the result depends little on the speed of the machine.

Of a hundred labels a few are sent twice, a few are wrong at first and corrected later, and a few never come; some
feedback has an unknown prediction id.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from importlib.resources import as_file, files
from typing import Any, NamedTuple, TypeVar

import everlearn as el
from everlearn.client import Unreachable

T = TypeVar("T")
Record = tuple[dict[str, Any], Any]
BACKLOG = 4  # labels that the weights may lack before this client waits
PATIENCE = 60.0  # seconds that it waits at most: a learner may be away


class Waiting(NamedTuple):
    """A prediction whose label is to be sent at the row `due`; `wrong` if a wrong label went before it."""

    due: int
    answered: asyncio.Task[str]
    label: Any
    wrong: bool = False


def records(skip: float) -> list[Record]:
    """Return the demo's stream, without the share used for offline training."""
    with as_file(files("everlearn") / "data" / "elec2.parquet") as path:
        stream = el.read(path, label="label")
        rows = [row for part in stream.records() for row in zip(part.features, part.labels, strict=True)]
    return rows[int(skip * len(rows)) :]


class Traffic:
    """All requests and labels in flight, and the pace at which rows are played."""

    def __init__(self, client: el.AsyncClient, rate: float, delay: int, seed: int, classes: list[Any]) -> None:
        self.client = client
        self.rate = rate
        self.delay = delay
        self.classes = classes
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.slots = asyncio.Semaphore(16)  # requests at a time; others wait in this client
        self.slowest = self.stale = 0.0
        self.unlearned: deque[float] = deque()  # when labels were sent that the weights may lack

    async def play(self, rows: list[Record]) -> None:
        """Play rows in order; each label follows its prediction after `delay` further rows."""
        waiting: deque[Waiting] = deque()
        shown = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number, (features, label) in enumerate(rows):
                began = time.perf_counter()
                waiting.append(Waiting(number + self.delay, group.create_task(self.predict(features, label)), label))
                while waiting and waiting[0].due <= number:
                    waiting.extend(await self.deliver(waiting.popleft(), number))
                if began - shown > 5:
                    shown = began
                    show(self)
                await self.wait()
                await asyncio.sleep(max(0.0, began + 1.0 / self.rate - time.perf_counter()))
            while waiting:
                waiting.extend(await self.deliver(waiting.popleft(), len(rows)))
        show(self)

    async def wait(self) -> None:
        """Wait while the weights that answer lack more than `BACKLOG` of the labels sent, but not for ever."""
        until = time.perf_counter() + PATIENCE
        while len(self.unlearned) > BACKLOG:
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            self.learned(began - (await self.retry(self.client.health)).staleness)
            if began > until:
                self.counts["waits that were given up"] += 1
                self.unlearned.clear()

    def learned(self, upto: float) -> None:
        """Note that the weights have learned every label sent before this time."""
        while self.unlearned and self.unlearned[0] < upto:
            self.unlearned.popleft()

    async def predict(self, features: dict[str, Any], label: Any) -> str:
        """Request a prediction, and return its id."""
        async with self.slots:
            began = time.perf_counter()
            answer = await self.retry(self.client.predict, features)
            self.slowest = max(self.slowest, time.perf_counter() - began)
        self.learned(began - answer.staleness)
        self.stale = max(self.stale, answer.staleness)
        self.counts["predictions"] += 1
        self.counts["right"] += answer.value == label
        return answer.id

    async def deliver(self, one: Waiting, number: int) -> list[Waiting]:
        """Send the label of one prediction; return the correction that is due later, if this label is a wrong one."""
        id, fate = await one.answered, self.random.random()
        if one.wrong:
            self.counts["corrected"] += 1
        elif fate < 0.02:
            self.counts["never labelled"] += 1
            return []
        elif fate < 0.04:
            await self.label(id, next(value for value in self.classes if value != one.label))
            return [one._replace(due=number + self.delay, wrong=True)]
        await self.label(id, one.label)
        if fate > 0.97:  # the queue delivers at least once
            await self.label(id, one.label)
            self.counts["sent twice"] += 1
        if fate > 0.995:
            await self.stray()
        return []

    async def label(self, id: str, label: Any) -> None:
        async with self.slots:
            await self.retry(self.client.feedback, id, label)
        self.counts["labels"] += 1
        self.unlearned.append(time.perf_counter())

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
        traffic = Traffic(client, arguments.rate, arguments.delay, arguments.seed, classes)
        await traffic.play(rows)
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
    parser.add_argument("--rate", type=float, default=150.0, help="predictions a second, at most")
    parser.add_argument("--delay", type=int, default=1, help="rows between a prediction and its label")
    parser.add_argument("--rows", type=int, default=0, help="rows to play (0: the whole stream)")
    parser.add_argument("--skip", type=float, default=0.1, help="share of the stream used for offline training")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(play(parser.parse_args()))


if __name__ == "__main__":
    main()
