"""Cost of a log that encrypts, beside the same log in plain text.

    python bench/log_encrypted.py [--requests 2000] [--events 50000] [--rounds 3]

answer  p50 and p99 of POST /predict over HTTP, one connection, each answer durably logged before its reply; subjects
        come again, a thousand of them
append  events a second, in groups of 100
read    events a second, as a learner reads them

Rounds of both run in turn; medians are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.events import log_of, scan
from everlearn.records import Prediction
from everlearn.spec import LogSpec, Schema, ServeSpec, Spec

FIELDS = {f"f{number}": "numeric" for number in range(10)}
ROW = {name: 0.123456 * place for place, name in enumerate(FIELDS)}
SCHEMA = Schema(label="y", task="binary", classes=(False, True), fields=FIELDS)


def answers(encrypt: bool, requests: int, folder: Path) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    spec = Spec(
        schema=SCHEMA, model={"family": "linear"}, subject="user", serve=ServeSpec(port=0), log=LogSpec(encrypt=encrypt)
    )
    taken: list[float] = []
    with Server(spec, folder) as server, Client(server.url) as client:
        for number in range(-200, requests):
            began = time.perf_counter()
            client.predict({**ROW, "user": f"user-{number % 1000}"})
            if number >= 0:
                taken.append(1e3 * (time.perf_counter() - began))
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) * 99 // 100]


def rates(encrypt: bool, events: int, folder: Path) -> tuple[float, float]:
    """Return events a second appended, and read."""
    made = [Prediction(f"id-{n}", ROW, True, (0.25, 0.75), "v", subject=f"user-{n % 1000}") for n in range(events)]
    folder.mkdir()
    with closing(log_of(folder, LogSpec(encrypt=encrypt))) as log:
        began = time.perf_counter()
        for start in range(0, events, 100):
            log.append(made[start : start + 100])
        middle = time.perf_counter()
        assert sum(1 for _ in scan(log)) == events
        return events / (middle - began), events / (time.perf_counter() - middle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[bool, list[tuple[float, ...]]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for encrypt in (False, True):
                place = Path(folder) / f"{number}-{encrypt}"
                served = answers(encrypt, given.requests, place / "served")
                found[encrypt].append((*served, *rates(encrypt, given.events, place / "log")))
    for encrypt, rounds in found.items():
        p50, p99, append, read = map(statistics.median, zip(*rounds, strict=True))
        name = "encrypted" if encrypt else "plain    "
        print(f"{name}  answer p50 {p50:.2f} ms, p99 {p99:.2f} ms   append {append:,.0f}/s   read {read:,.0f}/s")


if __name__ == "__main__":
    main()
