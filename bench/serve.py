"""Cost of serving while learning: real `everlearn serve` processes against peers, and against themselves.

    python bench/serve.py [--only throughput,paced,network,torn,fresh,memory] [--rounds 5] [--seconds 4]
                          [--reads 10000000] [--requests 1000000] [--python mlflow=/path/to/python]
                          [--python bentoml=/path/to/python]

throughput  requests per second of POST /predict with 10 numbers: one worker, 16 connections (wrk), each prediction
            durably logged before the response, with the learner running. Peers log nothing: a bare Starlette endpoint
            with the same dot product, FastAPI with pydantic models, MLflow's model server and a BentoML service of the
            same model (the last two only where they are installed, here or in the given interpreter).
paced       p99 at 1,000 requests per second, open loop, from the due time of each request: with the learner at full
            load, and with a process in its place that burns as much CPU at the same priority.
network     the same with a perceptron (10-64-2, PyTorch) in place of the linear model.
torn        snapshots read while they are replaced continuously; each read is compared with its checksum.
fresh       time from the acknowledgement of feedback to the first snapshot that has learned it, at 1,000 feedback per
            second in live mode.
memory      memory of worker and learner over a million requests, half of them feedback.

Every round runs ours and the peers in turn; ratios are taken within a round, and their medians are shown. The benchmark
needs two idle cores, and wrk (a Debian package).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from everlearn import model, schema
from everlearn.app.counters import read as read_counters
from everlearn.app.supervisor import Server
from everlearn.events import SqliteLog
from everlearn.records import Example, Label
from everlearn.serve import snapshot
from everlearn.serve.snapshot import Answering, Publisher, Reader
from everlearn.spec import LogSpec, Schema, ServeSpec, Spec

HERE = Path(__file__).resolve().parent
FIELDS = [f"f{i}" for i in range(10)]
ROW = {name: round(0.123456 * i - 0.5, 6) for i, name in enumerate(FIELDS)}
SPEC = Spec(
    schema=Schema(label="y", task="binary", classes=(False, True), fields=dict.fromkeys(FIELDS, "numeric")),
    model={"family": "linear"},
    mode="live",
    log=LogSpec(rows="always"),
    serve=ServeSpec(port=0, workers=1),
)
NETWORK = msgspec.structs.replace(SPEC, model={"family": "neural", "arguments": {"hidden": [64]}})
CONNECTIONS = 16
RATE = 1000  # paced requests per second
PEERS = ("starlette", "fastapi", "mlflow", "bentoml")


# ---- servers ------------------------------------------------------------------------------------------------------


@contextmanager
def ours(home: Path, spec: Spec = SPEC) -> Iterator[Server]:
    """Run an Everlearn server; its output is discarded."""
    with Server(spec, home) as server:
        yield server


@contextmanager
def peer(name: str, python: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Run a peer in a separate process group; yield the address of its endpoint, and the group."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python, str(HERE / "peers.py"), name, str(port), str(folder)]
    process = subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        await_port(port, process)
        yield f"http://127.0.0.1:{port}/{'invocations' if name == 'mlflow' else 'predict'}", process.pid
    finally:
        end(process)


def end(leader: subprocess.Popen[bytes]) -> None:
    """End a process group; kill it where it does not end in time."""
    for number in (15, 9):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(leader.pid, number)
            leader.wait(30)
            return
    leader.wait(30)


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            time.sleep(2.0)  # a front server may listen before its back end
            return
        time.sleep(0.1)
    raise RuntimeError(f"the peer did not start: {process.args!r}")


def installed(name: str, python: str) -> bool:
    return subprocess.run([python, "-c", f"import {name}"], capture_output=True).returncode == 0


# ---- load makers --------------------------------------------------------------------------------------------------


DONE = """
done = function(summary, latency)
  local bad = summary.errors
  bad = bad.status + bad.connect + bad.read + bad.write + bad.timeout
  print(string.format("RESULT %d %d %d %d", summary.requests, summary.duration, latency:percentile(99), bad))
end
"""


def wrk(url: str, body: str, seconds: float, folder: Path) -> tuple[float, float]:
    """Run `wrk_script`, posting one body repeatedly."""
    script = folder / "post.lua"
    head = 'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\n'
    script.write_text(f"{head}wrk.body = {json.dumps(body)}\n{DONE}")
    return wrk_script(url, script, seconds)


def wrk_script(url: str, script: Path, seconds: float) -> tuple[float, float]:
    """Return requests per second, and the 99th percentile in milliseconds."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    count, microseconds, p99, bad = (int(part) for part in done.partition("RESULT ")[2].split()[:4])
    if bad:
        raise RuntimeError(f"{bad} of {count} requests to {url} failed")
    return 1e6 * count / microseconds, p99 / 1000


def paced(host: str, port: int, requests: Sequence[bytes], rate: float = RATE) -> tuple[np.ndarray, np.ndarray]:
    """Send requests at a steady rate, independent of the responses; return due times and response times.

    Synchronous, on as many connections as needed, with timing in microseconds; any status other than 200 is an error.
    """
    idle = [connected(host, port) for _ in range(CONNECTIONS)]
    busy: dict[socket.socket, int] = {}
    start = time.monotonic() + 0.05
    due = start + np.arange(len(requests)) / rate
    answered = np.zeros(len(requests))
    sent = 0
    while sent < len(requests) or busy:
        while sent < len(requests) and time.monotonic() >= due[sent]:
            connection = idle.pop() if idle else connected(host, port)
            connection.sendall(requests[sent])
            busy[connection] = sent
            sent += 1
        wait = due[sent] - time.monotonic() if sent < len(requests) else 5.0
        for connection in select.select(list(busy), [], [], max(0.0, wait))[0]:
            reply = connection.recv(1 << 16)
            if not (reply.startswith(b"HTTP/1.1 200") and reply.endswith(b"}")):
                raise RuntimeError(f"got {reply[:300]!r}")
            answered[busy.pop(connection)] = time.monotonic()
            idle.append(connection)
    for connection in idle:
        connection.close()
    return due, answered


def connected(host: str, port: int) -> socket.socket:
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(path: str, body: Any) -> bytes:
    content = json.dumps(body)
    head = ["host: localhost", "content-type: application/json", f"content-length: {len(content)}", "", content]
    return "\r\n".join([f"POST {path} HTTP/1.1", *head]).encode()


def address(server: Server) -> tuple[str, int]:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return host, int(port)


# ---- throughput ---------------------------------------------------------------------------------------------------


def throughput(options: argparse.Namespace, folder: Path) -> None:
    named, listed = json.dumps({"features": ROW}), json.dumps({"inputs": [list(ROW.values())]})
    with ExitStack() as stack:
        server = stack.enter_context(ours(folder / "throughput"))
        urls, pids = {"everlearn": f"{server.url}/predict"}, {"everlearn": server.processes["worker-0"]}
        for name in PEERS:
            python = options.pythons.get(name, sys.executable)
            if installed(name, python):
                urls[name], pids[name] = stack.enter_context(peer(name, python, folder))
            else:
                print(f"{name} is not installed; left out (see --python)")
        measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in urls}
        for turn in range(options.rounds + 1):
            for name, url in urls.items():
                await_learner(server)
                seconds = options.seconds if turn else 1.0  # the first turn warms the caches
                before = used(pids[name])
                rate, p99 = wrk(url, listed if name == "mlflow" else named, seconds, folder)
                if turn:
                    measured[name].append((rate, p99, 1e6 * (used(pids[name]) - before) / (rate * seconds)))
        counts = read_counters(snapshot.folder(folder / "throughput") / "worker-0.counters")["counts"]
    print(f"\n{'server':<12}{'requests/s':>12}{'p99 ms':>9}{'CPU us each':>13}{'everlearn is':>15}")
    for name, rounds in measured.items():
        rate, p99, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
        pairs = zip(measured["everlearn"], rounds, strict=True)
        ratio = statistics.median(mine[0] / other[0] for mine, other in pairs)
        each = f"{cpu:.1f}" if cpu else "unknown"  # for processes that leave their group
        print(f"{name:<12}{rate:>12,.0f}{p99:>9.2f}{each:>13}{ratio:>13.2f} x")
    print(f"{counts['commit_rows'] / counts['commits']:.1f} events a commit; {counts['commit_rows']:,} events logged")
    print("target: at least 0.5 x starlette, at least 2 x fastapi")


def await_learner(server: Server) -> None:
    """Wait until the learner has learned everything logged so far."""
    pid = server.processes["learner"]
    busy = True
    while busy:
        before = used(pid)
        time.sleep(0.5)
        busy = used(pid) - before > 0.15


# ---- the price of learning, in latency ----------------------------------------------------------------------------


def network(options: argparse.Namespace, folder: Path) -> None:
    latency(options, folder, NETWORK)


def latency(options: argparse.Namespace, folder: Path, spec: Spec = SPEC) -> None:
    backlog = folder / "backlog"
    fill(backlog, options.backlog)
    found: dict[str, list[float]] = {"alone": [], "learner": [], "other process": []}
    for turn in range(options.rounds):
        for name in found:
            home = folder / f"paced-{turn}"
            home.mkdir()
            if name == "learner":
                for part in backlog.iterdir():
                    shutil.copy(part, home)
            found[name].append(paced_p99(name, home, options.seconds, spec))
            shutil.rmtree(home)
    for name, p99s in found.items():
        print(f"p99 with {name:<14} {statistics.median(p99s):7.2f} ms   ({', '.join(f'{p99:.2f}' for p99 in p99s)})")
    ratios = [mine / other for mine, other in zip(found["learner"], found["other process"], strict=True)]
    print(f"learner at full load over another process: {statistics.median(ratios):.2f} x   (target: at most 1.2)")


def paced_p99(name: str, home: Path, seconds: float, spec: Spec) -> float:
    """Return the 99th percentile in milliseconds, with the learner busy, another process busy, or neither."""
    with ours(home, spec) as server, ExitStack() as stack:
        learner = server.processes["learner"]
        if name == "other process":
            stack.enter_context(burning(os.getpriority(os.PRIO_PROCESS, learner)))
        host, port = address(server)
        paced(host, port, [request("/predict", {"features": ROW})] * RATE)  # warm
        before = used(learner)
        due, answered = paced(host, port, [request("/predict", {"features": ROW})] * int(RATE * seconds))
        share = (used(learner) - before) / (answered.max() - due.min())
        if name == "learner" and share < 0.3:
            raise RuntimeError(f"the learner used {share:.0%} of a core: its backlog has run out; raise --backlog")
        return 1000 * float(np.percentile(answered - due, 99))


def fill(home: Path, rows: int) -> None:
    """Write a log with examples that no model has learned yet."""
    home.mkdir()
    draw = random.Random(1)
    with SqliteLog(home / "log.sqlite") as log:
        for start in range(0, rows, 1000):
            xs = [[draw.gauss(0, 1) for _ in FIELDS] for _ in range(1000)]
            log.append(
                [
                    Example(f"b{start + i}", dict(zip(FIELDS, x, strict=True)), x[0] + draw.gauss(0, 1) > 0)
                    for i, x in enumerate(xs)
                ]
            )


@contextmanager
def burning(priority: int) -> Iterator[None]:
    """Run an unrelated process that takes all the CPU it can get."""
    code = f"import os\nos.setpriority(os.PRIO_PROCESS, 0, {priority})\nwhile True: sum(range(1000))"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.kill()
        process.wait(60)


def used(pid: int) -> float:
    """Return the CPU seconds used by a process, or by its whole group if it leads one."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parts = path.read_text().rpartition(")")[2].split()
            if path.parent.name == str(pid) or parts[2] == str(pid):
                total += int(parts[11]) + int(parts[12])
    return total / os.sysconf("SC_CLK_TCK")


# ---- torn reads ---------------------------------------------------------------------------------------------------


def torn(options: argparse.Namespace, folder: Path) -> None:
    readers, serving = 1, folder / "serving"
    serving.mkdir(mode=0o700)
    stop = multiprocessing.Event()
    results: Any = multiprocessing.Queue()
    publisher = multiprocessing.Process(target=publish, args=(serving, stop, results))
    publisher.start()
    reading = [
        multiprocessing.Process(target=check, args=(serving, options.reads // readers, results)) for _ in range(readers)
    ]
    for process in reading:
        process.start()
    outcomes = [results.get() for _ in reading]
    stop.set()
    published = results.get()
    for process in (publisher, *reading):
        process.join()
    reads, seen, bad = (sum(column) for column in zip(*outcomes, strict=True))
    print(f"{bad} torn reads in {reads:,}; {published:,} snapshots published meanwhile, {seen:,} of them read")


def publish(serving: Path, stop: Any, results: Any) -> None:
    """Publish without a pause; every weight of a snapshot is its sequence number."""
    made = model.build(SPEC.model, schema.shape(SPEC.schema))
    publisher = Publisher(serving)
    while not stop.is_set():
        for array in made.arrays.values():
            array[:] = publisher.sequence + 1
        publisher.publish(Answering("v", made), None, publisher.sequence + 1, {})
    results.put(publisher.sequence)


def check(serving: Path, reads: int, results: Any) -> None:
    """Compare every read with its checksum, and all arrays of a snapshot with each other."""
    reader = Reader(serving, model.build)
    bad = seen = last = 0
    for _ in range(reads):
        serves = reader.current()
        try:
            reader.check()
        except Exception:
            bad += 1
        if serves.sequence != last:
            numbers = {number for array in serves.champion.model.arrays.values() for number in np.unique(array)}
            bad += numbers != {float(serves.sequence)} or serves.sequence < last
            last, seen = serves.sequence, seen + 1
    results.put((reads, seen, bad))


# ---- from feedback to serving -------------------------------------------------------------------------------------


def freshness(options: argparse.Namespace, folder: Path) -> None:
    home, count = folder / "fresh", int(RATE * options.seconds * 2)
    with ours(home) as server, server.client() as client:
        ids = [
            answer.id
            for start in range(0, count, 1000)
            for answer in client.predict_many([ROW] * min(1000, count - start))
        ]
        await_learner(server)
        draw = random.Random(2)
        requests = [request("/feedback", {"id": id, "label": draw.random() < 0.7}) for id in ids]
        stop, results = multiprocessing.Event(), multiprocessing.Queue()
        watching = multiprocessing.Process(target=watch, args=(snapshot.folder(home), stop, results))
        watching.start()
        results.get()
        due, answered = paced(*address(server), requests)
        time.sleep(2.0)
        stop.set()
        seen = results.get()
        watching.join()
        with SqliteLog(home / "log.sqlite") as log:
            events = log.read(limit=10 * count)
    position = {event.payload.id: event.position for event in events if isinstance(event.payload, Label)}
    moments, positions = np.array([moment for moment, _ in seen]), np.array([at for _, at in seen])
    first = np.searchsorted(positions, [position[id] for id in ids])
    delays = 1000 * (moments[np.minimum(first, len(moments) - 1)] - answered)
    missing = int((first == len(positions)).sum())
    p50, p99 = np.percentile(delays, [50, 99])
    print(f"acknowledged to serving: p50 {p50:.1f} ms, p99 {p99:.1f} ms, most {delays.max():.1f} ms; target: p99 < 50")
    print(f"{count:,} feedback at {RATE} per second, {len(seen):,} snapshots seen; {missing} never served")
    print(f"acknowledgement itself: p99 {1000 * np.percentile(answered - due, 99):.2f} ms")


def watch(serving: Path, stop: Any, results: Any) -> None:
    """Record when each position was first served, as a worker sees it."""
    reader = Reader(serving, model.build)
    seen = [(time.monotonic(), reader.current().position)]
    results.put("ready")
    while not stop.is_set():
        position = reader.current().position
        if position > seen[-1][1]:
            seen.append((time.monotonic(), position))
        time.sleep(0.0005)
    results.put(seen)


# ---- memory -------------------------------------------------------------------------------------------------------


HALF_FEEDBACK = """
local ids, label = {}, 0
local headers = {["content-type"] = "application/json"}
request = function()
  local id = table.remove(ids)
  if not id then return wrk.format("POST", "/predict", headers, asked) end
  label = label + 1
  local body = string.format('{"id":"%s","label":%s}', id, label % 3 == 0 and "true" or "false")
  return wrk.format("POST", "/feedback", headers, body)
end
response = function(status, headers, body)
  local id = string.match(body, '"id":"(%w+)"')
  if id then table.insert(ids, id) end
end
"""


def memory(options: argparse.Namespace, folder: Path) -> None:
    home, script = folder / "memory", folder / "memory.lua"
    script.write_text(f"local asked = {json.dumps(json.dumps({'features': ROW}))}\n{HALF_FEEDBACK}{DONE}")
    names = ("worker-0", "learner", "admin")
    with ours(home) as server, SqliteLog(home / "log.sqlite") as log:
        print(f"{'requests':>12}" + "".join(f"{name + ' MB':>13}" for name in names) + f"{'log events':>13}")
        requests, lines = 0.0, []
        while requests < options.requests:
            rate, _ = wrk_script(server.url, script, 5)
            requests += 5 * rate
            lines.append([private(server.processes[name]) / 1e6 for name in names])
            print(f"{requests:>12,.0f}" + "".join(f"{size:>13.1f}" for size in lines[-1]) + f"{log.end():>13,}")
    grown = [now - then for now, then in zip(lines[-1], lines[len(lines) // 5], strict=True)]
    print(f"from a fifth of the way to the end: worker {grown[0]:+.1f} MB, learner {grown[1]:+.1f} MB")


def private(pid: int) -> int:
    """Return the bytes of memory private to one process."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) * 1024


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {
    "throughput": throughput,
    "paced": latency,
    "network": network,
    "torn": torn,
    "fresh": freshness,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, separated by commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--reads", type=int, default=10_000_000, help="snapshots to read")
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests in the test of memory")
    parser.add_argument("--backlog", type=int, default=600_000, help="examples that keep the learner busy")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="an interpreter for a peer")
    options = parser.parse_args()
    options.pythons = dict(pair.split("=", 1) for pair in options.python)
    for name in options.only.split(","):
        print(f"\n== {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="everlearn-bench-") as folder:
            PARTS[name](options, Path(folder))


if __name__ == "__main__":
    main()
