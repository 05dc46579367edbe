"""The same application on one machine and on many: it asks for predictions, and sends each label a day later.

    export MARKET_HOME=market MARKET_LOG= MARKET_BOOK= MARKET_BLOBS=
    everlearn serve examples/engines/market.toml --port 8000
    python examples/engines/market.py --url http://127.0.0.1:8000

MARKET_HOME is the folder of the loop. The other variables say where the log, the book and the snapshots are; an empty
one means in that folder. For instance:

    MARKET_LOG=postgresql://ml@db.example/ml  MARKET_BLOBS=s3://models/market
    MARKET_LOG=nats://nats-1,nats-2,nats-3/market?replicas=3  MARKET_BOOK=postgresql://ml@db.example/ml

Neither this file nor `market.toml` changes. Several URLs are asked in turn, as a load balancer would.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from contextlib import ExitStack
from importlib.resources import as_file, files
from itertools import cycle, islice
from typing import Any

import everlearn as el

DAY = 48  # half-hours


def records(count: int) -> list[tuple[dict[str, Any], Any]]:
    """Return the first half-hours of the electricity market that comes with Everlearn."""
    with as_file(files("everlearn") / "data" / "elec2.parquet") as path:
        parts = el.read(path, label="label").records()
        rows = (row for part in parts for row in zip(part.features, part.labels, strict=True))
        return list(islice(rows, count))


def play(clients: list[el.Client], count: int) -> float:
    """Ask for each row, and send its label a day later; return the share of right answers."""
    waiting: deque[tuple[str, Any]] = deque()
    turns, right = cycle(clients), 0
    for number, (features, label) in enumerate(records(count)):
        features = {name: value for name, value in features.items() if name != "date"}
        answer = next(turns).predict(features, id=f"half-hour-{number}")
        right += answer.value == label
        waiting.append((answer.id, label))
        if len(waiting) > DAY:
            next(turns).feedback(*waiting.popleft())
    for one in waiting:
        next(turns).feedback(*one)
    return right / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", nargs="+", default=["http://127.0.0.1:8000"])
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    began = time.perf_counter()
    with ExitStack() as stack:
        share = play([stack.enter_context(el.Client(url)) for url in options.url], options.rows)
    print(f"{options.rows:,} answers in {time.perf_counter() - began:.1f} s, {share:.1%} right")


if __name__ == "__main__":
    main()
