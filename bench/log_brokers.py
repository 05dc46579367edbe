"""Durable events per second of each broker, of the logs made of them, and the wait for an acknowledged prediction.

    python bench/log_brokers.py [--only broker,log,predict] [--seconds 4] [--callers 8]

broker    messages through the broker alone, 256 in flight, with 1 and with 16 events each. "Durable" is a majority of
          three servers that sync each message to the disk; and one such server.
log       groups appended one after the other by one process, from records to positions: each is encoded, checked,
          acknowledged and numbered.
predict   p50 and p99 of POST /predict, each prediction in the log before its answer: one worker, some callers that send
          one request after the other, and the learner running.

"Tansu" speaks the protocol of Kafka. It keeps messages in memory, so that nothing there is durable, and must get
batches of one message.

Events are those of `bench/log.py`, about 270 bytes of JSON. Logs in SQLite and PostgreSQL stand beside the brokers.
Servers are started on this machine, with replicas on one disk; on separate machines they would share neither disk nor
processors.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everlearn.app.supervisor import Server
from everlearn.events import connect, row, url_of
from everlearn.records import Payload, Prediction
from everlearn.scale import kafka, nats
from everlearn.scale.broker import Broker, packed
from everlearn.spec import LogSpec, Schema, ServeSpec, Spec
from log import predictions

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.kafka import Tansu
from tests.support.nats import NatsServers
from tests.support.postgres import Server as Database

GROUPS = (1, 10, 100, 1000)
CALL = 2048  # messages of one call
FIELDS = [f"f{i}" for i in range(10)]


class Engine(NamedTuple):
    """A place for logs: its settings, and the broker alone, if it is one."""

    name: str
    log: LogSpec
    broker: Callable[[], Broker] | None = None


@contextmanager
def engines() -> Iterator[list[Engine]]:
    """Start all servers, and stop them at the end."""
    with ExitStack() as undo:
        database, one, three, tansu = Database(), NatsServers(), NatsServers(3), Tansu()
        for server in (database, one, three, tansu):
            undo.callback(server.stop)
        alone, together = f"{one.url}/bench", f"{three.url}/bench?replicas=3"

        def kafka_url(topic: str) -> str:
            return f"{tansu.url}/{topic}?{tansu.parameters}"

        yield [
            Engine("SQLite", LogSpec()),
            Engine("SQLite, power", LogSpec(durability="power")),
            Engine("PostgreSQL", LogSpec(url=database.url)),
            Engine("NATS, 1 server", LogSpec(url=alone), lambda: nats.connect(f"{one.url}/alone")),
            Engine("Tansu, memory", LogSpec(url=kafka_url("bench")), lambda: kafka.connect(kafka_url("alone"))),
            Engine("NATS, 3 servers", LogSpec(url=together), lambda: nats.connect(f"{three.url}/alone?replicas=3")),
        ]


def of_stream(url: str, name: str) -> str:
    """Return the URL of a log with the stream replaced."""
    return url.replace("/bench", f"/{name}") if url.startswith(("nats:", "kafka:")) else url


def named(name: str, size: int) -> list[Payload]:
    """Return `size` new events."""
    return [
        Prediction(f"{name}-{i}", one.features, one.value, one.proba, one.version)  # type: ignore[union-attr]
        for i, one in enumerate(predictions(size))
    ]


def published(broker: Broker, events: int, seconds: float) -> float:
    """Publish messages of so many events each for some seconds, and return events per second."""
    number, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        rows = [row(one, 1.0) for one in named(f"{events}-{number}", CALL)]
        groups = [rows[start : start + events] for start in range(0, CALL, events)]
        broker.publish([message for group in groups for message in packed(group, broker.most_bytes)])
        number += 1
    return number * CALL / (time.perf_counter() - began)


def appended(engine: Engine, folder: str, group: int, seconds: float) -> float:
    """Append groups for some seconds; return events per second."""
    home = Path(folder) / f"loop-{group}"
    home.mkdir()
    with closing(connect(url_of(home, of_stream(engine.log.url, f"log{group}")), engine.log.durability)) as log:
        number, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            log.append(named(f"{group}-{number}", group))
            number += 1
        return number * group / (time.perf_counter() - began)


def waited(engine: Engine, folder: str, callers: int, seconds: float) -> tuple[float, float, float]:
    """Return requests per second, and the p50 and p99 of their wait in milliseconds."""
    spec = Spec(
        schema=Schema(label="y", task="binary", classes=(0, 1), fields=dict.fromkeys(FIELDS, "numeric")),
        model={"family": "linear"},
        log=engine.log,
        serve=ServeSpec(port=0),
    )
    body = json.dumps({"features": {name: round(0.1 * i, 3) for i, name in enumerate(FIELDS)}})
    waits: list[float] = []

    def call(host: str) -> None:
        connection = http.client.HTTPConnection(host)
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            connection.request("POST", "/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            answer.read()
            waits.append(time.perf_counter() - began)
        connection.close()

    with Server(spec, Path(folder) / "served") as server:
        host = server.url.removeprefix("http://")
        threads = [threading.Thread(target=call, args=(host,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    p50, p99 = np.percentile(waits, [50, 99]) * 1000
    return len(waits) / seconds, float(p50), float(p99)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--only", default="broker,log,predict")
    options.add_argument("--seconds", type=float, default=4.0)
    options.add_argument("--callers", type=int, default=8)
    given = options.parse_args(arguments)
    parts = given.only.split(",")
    with engines() as all_engines, tempfile.TemporaryDirectory() as folder:
        if "broker" in parts:
            print(f"{'broker':<18}{'1 event':>10}{'16 events':>12}   events/s, messages of")
            for engine in (one for one in all_engines if one.broker is not None):
                with closing(engine.broker()) as broker:  # type: ignore[misc]
                    rates = [published(broker, events, given.seconds) for events in (1, 16)]
                print(f"{engine.name:<18}{rates[0]:>10,.0f}{rates[1]:>12,.0f}", flush=True)
        if "log" in parts:
            print(f"{'log':<18}" + "".join(f"{group:>10,}" for group in GROUPS) + "   events/s, groups of")
            for number, engine in enumerate(all_engines):
                place = Path(folder) / f"log-{number}"
                place.mkdir()
                rates = [appended(engine, str(place), group, given.seconds) for group in GROUPS]
                print(f"{engine.name:<18}" + "".join(f"{rate:>10,.0f}" for rate in rates), flush=True)
        if "predict" in parts:
            print(f"{'predict':<18}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
            for number, engine in enumerate(all_engines):
                rate, p50, p99 = waited(engine, str(Path(folder) / f"served-{number}"), given.callers, given.seconds)
                print(f"{engine.name:<18}{rate:>12,.0f}{p50:>9.1f}{p99:>9.1f}", flush=True)


if __name__ == "__main__":
    main()
