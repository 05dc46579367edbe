"""Speed of the event log, against bare SQLite writing the same bytes.

    python bench/log.py [--rounds 3] [--folder /tmp]

Both write the same events of about 270 bytes of JSON, in groups of 1, 10 and 100, under both durabilities. "bare" is
`executemany` of ready-made text into a table of positions and payloads, one commit a group; "bare with key" also has
the log's four columns and its unique key. The log starts from records, so it also encodes and checks them. Each round
runs all three in turn; the table shows the medians of events per second, and the ratios of log to bare. Rates depend on
the disk and on other load: compare the ratios.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from everlearn.events import Durability, SqliteLog, key
from everlearn.records import Payload, Prediction

Row = TypeVar("Row")

EVENTS = {1: 10_000, 10: 40_000, 100: 100_000}
TABLES = {
    "bare": ("position INTEGER PRIMARY KEY, payload TEXT", "(payload) VALUES (?)"),
    "bare with key": (
        "position INTEGER PRIMARY KEY, time REAL, kind TEXT, key TEXT UNIQUE, payload TEXT",
        "(time, kind, key, payload) VALUES (?, ?, ?, ?)",
    ),
}


def predictions(number: int) -> list[Payload]:
    return [
        Prediction(f"id-{i:09d}", {f"f{j}": 0.1234567 * j + i for j in range(10)}, True, (0.25, 0.75), "abcdef123456")
        for i in range(number)
    ]


def cut(rows: Sequence[Row], group: int) -> list[Sequence[Row]]:
    return [rows[start : start + group] for start in range(0, len(rows), group)]


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def write_log(home: Path, durability: Durability, events: list[Payload], group: int) -> float:
    groups = cut(events, group)
    with SqliteLog(home / "log.db", durability) as log:
        return timed(lambda: [log.append(rows) for rows in groups])


def write_bare(home: Path, durability: Durability, events: list[Payload], group: int, table: str) -> float:
    texts = [msgspec.json.encode(event).decode() for event in events]
    keyed = [(1.5, "prediction", key(event), text) for event, text in zip(events, texts, strict=True)]
    columns, values = TABLES[table]
    every: list[tuple[Any, ...]] = [(text,) for text in texts] if table == "bare" else [*keyed]
    groups = cut(every, group)
    database = sqlite3.connect(home / f"{table}.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    database.execute(f"CREATE TABLE events ({columns})")

    def write() -> None:
        for rows in groups:
            if len(rows) == 1:  # a single statement is a transaction, as in the log
                database.execute(f"INSERT INTO events {values}", rows[0])
                continue
            database.execute("BEGIN IMMEDIATE")
            database.executemany(f"INSERT INTO events {values}", rows)
            database.execute("COMMIT")

    try:
        return timed(write)
    finally:
        database.close()


def read_log(home: Path, events: list[Payload]) -> float:
    with SqliteLog(home / "log.db") as log:
        log.append(events)

        def read() -> None:
            after = 0
            while found := log.read(after, 2000):
                after = found[-1].position
            assert after == len(events)

        return timed(read)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--folder", default=None, help="folder to write to, on the disk that is measured")
    given = arguments.parse_args()
    durabilities: tuple[Durability, Durability] = ("process", "power")
    print(f"{'durability':<12}{'group':>6}{'log/s':>10}{'bare/s':>10}{'with key/s':>12}{'log/bare':>10}{'log/key':>9}")
    for durability in durabilities:
        for group, number in EVENTS.items():
            events = predictions(number)
            rates: dict[str, list[float]] = {"log": [], **{table: [] for table in TABLES}}
            for _ in range(given.rounds):
                with tempfile.TemporaryDirectory(dir=given.folder) as home:
                    rates["log"].append(number / write_log(Path(home), durability, events, group))
                    for table in TABLES:
                        rates[table].append(number / write_bare(Path(home), durability, events, group, table))
            log, bare, keyed = (statistics.median(rates[name]) for name in ("log", *TABLES))
            ratios = f"{log / bare:>10.2f}{log / keyed:>9.2f}"
            print(f"{durability:<12}{group:>6}{log:>10,.0f}{bare:>10,.0f}{keyed:>12,.0f}{ratios}")
    events = predictions(100_000)
    with tempfile.TemporaryDirectory(dir=given.folder) as home:
        print(f"read, decoding included: {len(events) / read_log(Path(home), events):,.0f} events/s")


if __name__ == "__main__":
    main()
