"""Durable events per second of the log in PostgreSQL, beside a bare COPY of the same bytes and the log in SQLite.

    python bench/log_postgres.py [--url postgresql://...] [--writers 4] [--seconds 4]

Events are those of `bench/log.py`, about 270 bytes of JSON. "bare" copies ready-made rows into a table with the same
columns and keys, one commit a group. The log starts from records, so it also encodes, checks and numbers them. Several
writers are processes. Without --url, a server of this machine is started, with its defaults (fsync on).
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psycopg

from everlearn.events import connect, row
from everlearn.records import Payload, Prediction
from log import predictions

GROUPS = (1, 10, 100, 1000)


def named(name: str, number: int, size: int) -> list[Payload]:
    """Return `size` new events."""
    return [
        Prediction(f"{name}-{number}-{i}", one.features, one.value, one.proba, one.version)  # type: ignore[union-attr]
        for i, one in enumerate(predictions(size))
    ]


def write(url: str, name: str, group: int, seconds: float) -> float:
    """Append groups for some seconds; return events per second."""
    log, number = connect(url), 0
    log.append(named(name, -1, 1))
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        log.append(named(name, number, group))
        number += 1
    spent = time.perf_counter() - began
    log.close()
    return number * group / spent


def bare(url: str, group: int, seconds: float) -> float:
    """Copy groups of ready-made rows; return events per second."""
    rows = [row(one, 1.0) for one in predictions(group)]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS bare")
        columns = "position bigint PRIMARY KEY, time double precision, kind text, key bytea UNIQUE, payload text"
        connection.execute(f"CREATE TABLE bare ({columns})")
        number, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            with connection.cursor() as cursor, cursor.copy("COPY bare FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int8", "float8", "text", "bytea", "text"])
                for i, (at, kind, key, text) in enumerate(rows):
                    place = number * group + i
                    copy.write_row((place, at, kind, f"{key}{place}".encode(), text))
            number += 1
        spent = time.perf_counter() - began
        connection.execute("DROP TABLE bare")
    return number * group / spent


def together(url: str, writers: int, group: int, seconds: float, round: int) -> float:
    """Let several processes append at once; return the sum of their rates."""
    with multiprocessing.get_context("spawn").Pool(writers) as pool:
        return sum(pool.starmap(write, [(url, f"w{round}-{i}", group, seconds) for i in range(writers)]))


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--url", default="")
    options.add_argument("--writers", type=int, default=4)
    options.add_argument("--seconds", type=float, default=4.0)
    given = options.parse_args(arguments)
    server = None
    if not given.url:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.support.postgres import Server

        server = Server()
    url = given.url or server.url  # type: ignore[union-attr]
    loop = f"{url}?loop=bench"
    many = f"log, {given.writers} writers"
    print(f"{'group':>6} {'bare COPY':>12} {'log':>12} {many:>16} {'SQLite log':>12}   events/s")
    for round, group in enumerate(GROUPS):
        with tempfile.TemporaryDirectory() as folder:
            rates = (
                bare(url, group, given.seconds),
                write(loop, f"one{round}", group, given.seconds),
                together(loop, given.writers, group, given.seconds, round),
                write(f"{folder}/log.db", "one", group, given.seconds),
            )
        print(f"{group:6,} {rates[0]:12,.0f} {rates[1]:12,.0f} {rates[2]:16,.0f} {rates[3]:12,.0f}", flush=True)
    if server is not None:
        server.stop()


if __name__ == "__main__":
    main()
