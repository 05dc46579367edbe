"""Measure on this machine what `bench/simulate.py` is fed with, and compare its forecasts with real processes.

    python bench/simulate_costs.py measure [--out bench/simulate_costs.json] [--seconds 3] [--nats URL]
    python bench/simulate_costs.py validate [--rates 1000,3000,6000] [--seconds 10] [--family linear]

measure   each operation by itself, at several sizes; a line (fixed + each * n) is fitted with relative errors.
validate  a real server under a steady load of half predictions, half labels (open loop); the processor time of worker
          and learner and the time from a label to what serves are printed beside those of the simulation.

Both need a quiet machine with two cores, and wrk. PostgreSQL, three servers
of NATS and moto are started here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import nnls

import serve
from everlearn.app import supervisor
from everlearn.app.counters import read as read_counters
from everlearn.app.learner import IDLE
from everlearn.events import Log, SqliteLog, connect, row, url_of
from everlearn.loop.loop import Loop
from everlearn.records import Label, Payload, Prediction
from everlearn.scale.objects import shared
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Publisher
from everlearn.spec import Spec
from serve import ROW, SPEC, address, await_learner, await_port, ours, paced, request, used, watch, wrk_script
from simulate import WARM, Costs, Line, Partition, numbers

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.support.nats import NatsServers
from tests.support.postgres import Server

FAMILIES = ("linear", "auto")
SIZES = (8, 64, 512, 4096)  # of pieces and groups
POSTED = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
DONE = """
done = function(summary, latency)
  local bad = summary.errors
  bad = bad.status + bad.connect + bad.read + bad.write + bad.timeout
  print(string.format("RESULT %d %d %d %d", summary.requests, summary.duration, latency:percentile(99), bad))
end
"""


def fitted(points: Sequence[tuple[float, float]]) -> Line:
    """Return the line with the least squares of relative errors, without negative parts."""
    n, seconds = np.array(points, float).T
    design = np.stack([np.ones_like(n), n], 1) / seconds[:, None]
    fixed, each = nnls(design, np.ones_like(n))[0]
    return Line(float(fixed), float(each))


def with_family(family: str) -> Spec:
    return msgspec.structs.replace(SPEC, model={"family": family})


# ---- the learner --------------------------------------------------------------------------------------------------


def traffic(family: str, folder: Path, pairs: int) -> list[Payload]:
    """Return predictions and labels in turn, each label 100 predictions late, as a server would have logged them."""
    draw, payloads, ids = random.Random(1), list[Payload](), list[tuple[str, bool]]()
    with Loop(with_family(family), folder / f"made-{family}") as loop:
        for _ in range(pairs):
            x = {name: draw.gauss(0, 1) for name in ROW}
            answer = loop.predict(x)
            ids.append((answer.id, sum(x.values()) > 0))
            if len(ids) > 100:
                loop.feedback(ids[-101][0], ids[-101][1])
        kinds = ("prediction", "label")
        after = 0
        while events := loop.log.read(after, 4096, kinds):
            payloads += [event.payload for event in events]
            after = events[-1].position
    return payloads


def fold_costs(family: str, folder: Path) -> tuple[Line, float, Line]:
    """Return the seconds of a piece of n events, the bytes of a snapshot, and the seconds of publishing."""
    payloads = traffic(family, folder, 20_000 if family == "linear" else 6_000)
    home = folder / f"fold-{family}"
    home.mkdir()
    points = []
    with Loop(with_family(family), home, behind=True) as loop:
        loop.ready()
        for start in range(0, len(payloads), 1000):
            loop.log.append(payloads[start : start + 1000])
        loop.catch_up(512)  # the first piece loads kernels
        for size in SIZES:
            spent = []
            for _ in range(max(2, min(60, len(payloads) // (6 * size)))):
                began = time.thread_time()
                if loop.catch_up(size) == size:
                    spent.append(time.thread_time() - began)
            if spent:
                points.append((size, statistics.median(spent)))
        serving = folder / f"serving-{family}"
        serving.mkdir(mode=0o700)
        publisher, answering = Publisher(serving), loop.fold.serving()
        spent = []
        for number in range(50):
            began = time.thread_time()
            publisher.publish(answering, None, number, loop.fold.bounds)
            spent.append(time.thread_time() - began)
        size = float((serving / snapshot.CURRENT).stat().st_size)
        publisher.close()
    return fitted(points), size, Line(statistics.median(spent), 0.0)


def look_cost(folder: Path, seconds: float) -> float:
    """Return the processor time of a step of a learner that finds no event, from that of an idle server."""
    with ours(folder / "idle") as server:
        await_learner(server)
        time.sleep(1.0)
        before, began = used(server.processes["learner"]), time.monotonic()
        time.sleep(4 * seconds)
        share = (used(server.processes["learner"]) - before) / (time.monotonic() - began)
    return share * IDLE / (1 - share)


# ---- the worker ---------------------------------------------------------------------------------------------------


def worker_costs(folder: Path, seconds: float) -> tuple[Line, Line]:
    """Return the processor time of a group of n predictions, and of n labels, in a worker with the log in SQLite."""
    found = []
    for path in ("/predict", "/feedback"):
        points = []
        for connections in (1, 8, 64):
            home = folder / f"worker{path.replace('/', '-')}-{connections}"
            with ours(home) as server, server.client() as client:
                script = folder / "load.lua"
                if path == "/predict":
                    script.write_text(f"{POSTED}wrk.body = {json.dumps(json.dumps({'features': ROW}))}\n{DONE}")
                else:
                    script.write_text(labelling(client, int(seconds * 30_000)))
                await_learner(server)
                counters = snapshot.folder(home) / "worker-0.counters"
                before, cpu = read_counters(counters)["counts"], used(server.processes["worker-0"])
                wrk_at(f"{server.url}{path}", script, seconds, connections)
                after = read_counters(counters)["counts"]
                cpu = used(server.processes["worker-0"]) - cpu
            commits = after["commits"] - before.get("commits", 0)
            rows = after["commit_rows"] - before.get("commit_rows", 0)
            points.append((rows / commits, cpu / commits))
        found.append(fitted(points))
    return found[0], found[1]


def labelling(client: Any, count: int) -> str:
    """Return a script that sends a label for each of `count` predictions, which are made here, and then starts over."""
    ids = [answer.id for _ in range(0, count, 1000) for answer in client.predict_many([ROW] * 1000)]
    listed = ",".join(f'"{id}"' for id in ids)
    body = 'string.format(\'{"id":"%s","label":%s}\', ids[n], n % 3 == 0 and "true" or "false")'
    return (
        f"{POSTED}local ids, n = {{{listed}}}, 0\n"
        f"request = function() n = n % #ids + 1 return wrk.format(nil, nil, nil, {body}) end\n{DONE}"
    )


def wrk_at(url: str, script: Path, seconds: float, connections: int) -> None:
    before, serve.CONNECTIONS = serve.CONNECTIONS, connections
    try:
        wrk_script(url, script, seconds)
    finally:
        serve.CONNECTIONS = before


# ---- logs and objects ---------------------------------------------------------------------------------------------


def commit_costs(log: Log, name: str, seconds: float) -> tuple[Line, Line]:
    """Return the elapsed seconds of writing a group of n events, and the processor time of the client in it."""
    number, elapsed, cpu = itertools.count(), [], []
    for size in (1, 16, 256, 1024):
        spent, busy, until = [], [], time.perf_counter() + seconds
        while time.perf_counter() < until or len(spent) < 5:
            features = dict(ROW)
            rows = [
                row(Prediction(f"{name}-{next(number)}", features, True, (0.4, 0.6), "v"), 1.0) for _ in range(size)
            ]
            began, used_before = time.perf_counter(), time.process_time()
            log.write(rows)
            spent.append(time.perf_counter() - began)
            busy.append(time.process_time() - used_before)
        elapsed.append((size, statistics.mean(spent)))
        cpu.append((size, statistics.mean(busy)))
    return fitted(elapsed), fitted(cpu)


@contextmanager
def bucket() -> Iterator[str]:
    """Serve an empty bucket by moto, in another process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await_port(port, process)
        url = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{url}/simulated", method="PUT"))
        os.environ.update(
            AWS_ENDPOINT=url, AWS_REGION="us-east-1", AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test"
        )
        yield "s3://simulated/loop"
    finally:
        process.kill()
        process.wait()


def object_costs(seconds: float) -> tuple[Line, Line]:
    """Return the seconds of putting and of getting an object of n bytes, over HTTP."""
    puts, gets = [], []
    with bucket() as url:
        store = shared(url)
        for size in (1_000, 30_000, 300_000, 3_000_000):
            data, put, got, until = random.Random(1).randbytes(size), [], [], time.perf_counter() + seconds
            while time.perf_counter() < until or len(put) < 5:
                began = time.perf_counter()
                store.put(f"object-{size}", data)
                put.append(time.perf_counter() - began)
                began = time.perf_counter()
                store.get(f"object-{size}")
                got.append(time.perf_counter() - began)
            puts.append((size, statistics.median(put)))
            gets.append((size, statistics.median(got)))
    return fitted(puts), fitted(gets)


def merge_cost() -> Line:
    """Return the processor time of averaging two models with n bytes in all."""
    points = []
    for size in (1_000, 100_000, 10_000_000):
        parts = [np.ones(size // 16), np.ones(size // 16)]
        began, turns = time.process_time(), max(5, 10_000_000 // size)
        for _ in range(turns):
            np.average(parts, axis=0, weights=(1.0, 2.0))
        points.append((size, max(1e-7, (time.process_time() - began) / turns)))
    return fitted(points)


# ---- all of it ----------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace, folder: Path) -> Costs:
    """Measure each operation, and print it."""
    commits, clients = dict[str, Line](), dict[str, Line]()
    with SqliteLog(folder / "log.sqlite") as log:
        commits["sqlite"], clients["sqlite"] = commit_costs(log, "one", options.seconds)
    server = Server()
    try:
        with connect(f"{server.url}?loop=costs") as log:
            commits["postgresql"], clients["postgresql"] = commit_costs(log, "one", options.seconds)
    finally:
        server.stop()
    servers = NatsServers(3)
    try:
        with connect(url_of(folder / "nats", f"{servers.url}/costs?replicas=3")) as log:
            commits["nats"], clients["nats"] = commit_costs(log, "one", options.seconds)
    finally:
        servers.stop()
    folds, sizes, published = dict[str, Line](), dict[str, float](), list[tuple[float, float]]()
    for family in FAMILIES:
        folds[family], sizes[family], line = fold_costs(family, folder)
        published.append((sizes[family], line.fixed))
    answer, label = worker_costs(folder, options.seconds)
    put, get = object_costs(options.seconds / 3)
    each = [row(payload, 1.0)[3] for payload in traffic("linear", folder / "events", 500)]
    return Costs(
        answer=without(answer, clients["sqlite"]),
        label=without(label, clients["sqlite"]),
        fold=folds,
        look=look_cost(folder, options.seconds),
        publish=fitted(published),
        commit=commits,
        committing=clients,
        put=put,
        get=get,
        size=sizes,
        event=2.0 * statistics.mean(map(len, each)),  # with keys, indexes and the database's own records
        merge=merge_cost(),
    )


def without(whole: Line, part: Line) -> Line:
    """Return what is left of a cost without a part of it."""
    return Line(max(0.0, whole.fixed - part.fixed), max(0.0, whole.each - part.each))


def validate(options: argparse.Namespace, folder: Path, costs: Costs) -> None:
    """Print measured and simulated figures of one server at several rates."""
    print(f"{'events/s':>9} {'':<22} {'measured':>10} {'simulated':>10} {'ratio':>6}")
    for rate in options.rates:
        found, client = observed(options.family, rate, options.seconds, folder / f"at-{rate:.0f}")
        part = Partition(costs, rate, options.family, "sqlite", 1, 2, client=client / rate)
        seen = part.run(options.seconds + WARM)
        guess = {
            "worker, of a core": seen.busy["worker"] / options.seconds,
            "learner, of a core": seen.busy["learner"] / options.seconds,
            "label to serving, ms": 1000 * statistics.median(seen.served),
        }
        for name, value in found.items():
            print(f"{rate:9,.0f} {name:<22} {value:10.3f} {guess[name]:10.3f} {guess[name] / value:6.2f}", flush=True)
    followed(costs, 200.0, options.seconds, folder / "followed")


def followed(costs: Costs, rate: float, seconds: float, folder: Path) -> None:
    """Print the time from a label to what a server that follows answers with, over PostgreSQL and an object store."""
    database = Server()
    try:
        with bucket() as url:
            places = msgspec.structs.replace(SPEC.log, url=f"{database.url}?loop=followed", blobs=url)
            spec = msgspec.structs.replace(SPEC, log=places)
            follower = folder / "two" / "loop"
            with ours(folder / "one" / "loop", spec) as server, supervisor.Server(spec, follower, follow=True):
                found = 1000 * float(np.median(label_delays(server, rate, seconds, follower, places.url)))
    finally:
        database.stop()
    seen = Partition(costs, rate, "linear", "postgresql", 1, 2).run(seconds + WARM)
    guess = 1000 * statistics.median(seen.followed)
    print(f"{rate:9,.0f} {'label to follower, ms':<22} {found:10.3f} {guess:10.3f} {guess / found:6.2f}", flush=True)


def label_delays(server: Any, rate: float, seconds: float, watched: Path, url: str) -> Any:
    """Send labels at a steady rate; return the seconds from each acknowledgement to a snapshot that has learned it."""
    count = int(rate * seconds / 2)
    with server.client() as client:
        ids = [one.id for one in client.predict_many([ROW] * count)]
    await_learner(server)
    stop, results = multiprocessing.Event(), multiprocessing.Queue()
    watching = multiprocessing.Process(target=watch, args=(snapshot.folder(watched), stop, results))
    watching.start()
    results.get()
    draw = random.Random(3)
    sent = [request("/feedback", {"id": id, "label": draw.random() < 0.7}) for id in ids]
    _, answered = paced(*address(server), sent, rate / 2)
    time.sleep(2.0)
    stop.set()
    seen = results.get()
    watching.join()
    with connect(url) as log:
        events = log.read(limit=10 * count, kinds=("label",))
    position = {event.payload.id: event.position for event in events if isinstance(event.payload, Label)}
    moments, positions = np.array([moment for moment, _ in seen]), np.array([at for _, at in seen])
    first = np.searchsorted(positions, [position[id] for id in ids])
    return moments[np.minimum(first, len(moments) - 1)] - answered


def observed(family: str, rate: float, seconds: float, home: Path) -> tuple[dict[str, float], float]:
    """Run a server under a steady load; return its figures, and the processor time of this client in a second."""
    pairs = int(rate * seconds / 2)
    with ours(home, with_family(family)) as server, server.client() as client:
        ids = [
            one.id for start in range(0, pairs, 1000) for one in client.predict_many([ROW] * min(1000, pairs - start))
        ]
        await_learner(server)
        draw = random.Random(2)
        asks = request("/predict", {"features": ROW})
        requests = [
            each for id in ids for each in (asks, request("/feedback", {"id": id, "label": draw.random() < 0.7}))
        ]
        stop, results = multiprocessing.Event(), multiprocessing.Queue()
        watching = multiprocessing.Process(target=watch, args=(snapshot.folder(home), stop, results))
        watching.start()
        results.get()
        names = {"worker, of a core": "worker-0", "learner, of a core": "learner"}
        before = {name: used(server.processes[process]) for name, process in names.items()}
        mine = time.process_time()
        due, answered = paced(*address(server), requests, rate)
        mine, spent = time.process_time() - mine, answered.max() - due.min()
        found = {name: (used(server.processes[process]) - before[name]) / spent for name, process in names.items()}
        time.sleep(1.0)
        stop.set()
        seen = results.get()
        watching.join()
        with SqliteLog(home / "log.sqlite") as log:
            events = log.read(limit=10 * len(requests), kinds=("label",))
    position = {event.payload.id: event.position for event in events if isinstance(event.payload, Label)}
    moments, positions = np.array([moment for moment, _ in seen]), np.array([at for _, at in seen])
    first = np.searchsorted(positions, [position[id] for id in ids])
    delays = moments[np.minimum(first, len(moments) - 1)] - answered[1::2]
    return found | {"label to serving, ms": 1000 * float(np.median(delays))}, mine / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "validate"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("simulate_costs.json"))
    parser.add_argument("--rates", type=numbers, default=[1000.0, 3000.0, 6000.0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--family", default="linear", choices=FAMILIES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everlearn-bench-") as name:
        if options.what == "measure":
            text = msgspec.json.format(msgspec.json.encode(measure(options, Path(name))), indent=1)
            options.out.write_bytes(text + b"\n")
            print(text.decode())
        else:
            validate(options, Path(name), msgspec.json.decode(options.out.read_bytes(), type=Costs))


if __name__ == "__main__":
    main()
