"""Cost of serving forests, mixes and the automatic model while they learn, and of one prediction from Python.

    python bench/serve_families.py [--only single,forest,mix,auto] [--seconds 8] [--rounds 3] [--warm 30000]

single      p50 and p99 in microseconds of `predict` of one encoded row, and of `everlearn.predict.score` of one record,
            of a linear model, a forest of ten trees, a mix, and `auto`; ten numbers, 20,000 rows learned before.
forest      a server in live mode, 1,000 requests a second in an open loop, half of them /predict and half /feedback for
mix, auto   an earlier prediction: p99 from the due time, staleness, snapshots and their size, time of one publication,
            memory; with learning on, and with learning paused, in turn. The mix has a linear model, a forest and the
            last label. `--warm` labelled rows are learned first, so that trees have grown.

A server needs two idle cores; ratios within a round are compared. It reads what the server reports in GET /status.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import serve
from everlearn import model, schema
from everlearn.app.supervisor import Server
from everlearn.client import Client
from everlearn.events import SqliteLog
from everlearn.predict import score
from everlearn.records import Batch, Example
from everlearn.serve import snapshot

MIX = {"family": "mix", "members": [{"family": "linear"}, {"family": "forest"}, {"family": "last"}]}
MODELS: dict[str, dict[str, Any]] = {
    "linear": {"family": "linear"},
    "forest": {"family": "forest"},
    "mix": MIX,
    "auto": {"family": "auto"},
}


def label(record: Mapping[str, float], draw: random.Random) -> bool:
    """Return a label that a linear model cannot learn alone: a product, a step and noise."""
    return (record["f0"] * record["f1"] > 0.0) != (record["f2"] > 0.5) if draw.random() < 0.95 else draw.random() < 0.5


def records(count: int, draw: random.Random) -> list[dict[str, float]]:
    return [{name: round(draw.gauss(0, 1), 4) for name in serve.FIELDS} for _ in range(count)]


# ---- one prediction ------------------------------------------------------------------------------------------------


def single(options: argparse.Namespace) -> None:
    encoder, draw = schema.Encoder(serve.SPEC.schema), random.Random(1)
    rows = records(20_000, draw)
    batch = encoder.records(rows)[0]
    y = np.array([label(row, draw) for row in rows], np.float64)
    print(f"{'model':<10}{'predict p50 us':>16}{'p99':>8}{'score p50 us':>16}{'p99':>8}")
    for name, spec in MODELS.items():
        made = model.build(spec, schema.shape(serve.SPEC.schema))
        made.learn(batch, y, np.ones(len(y), np.float32))
        one = encoder.record(rows[0])
        calls: list[Callable[[], Any]] = [
            lambda made=made, one=one: made.predict(one),
            lambda made=made: score(made, encoder, unclipped, rows[:1]),
        ]
        found = [np.percentile(timed(call), [50, 99]) for call in calls]
        print(f"{name:<10}" + "".join(f"{p50:>16.2f}{p99:>8.2f}" for p50, p99 in found))
    print("target: p50 below 5 us (linear) and 15 us (forest of ten)")


def unclipped(batch: Batch) -> Batch:
    return batch


def timed(call: Callable[[], Any], count: int = 20_000) -> np.ndarray:
    """Return the microseconds of each of many calls."""
    seconds = np.empty(count)
    for i in range(-100, count):
        began = time.perf_counter()
        call()
        seconds[max(i, 0)] = time.perf_counter() - began
    return 1e6 * seconds


# ---- servers -------------------------------------------------------------------------------------------------------


def served(name: str, options: argparse.Namespace, folder: Path) -> None:
    spec = msgspec.structs.replace(serve.SPEC, model=MODELS[name])
    draw = random.Random(2)
    fill(folder / "home", options.warm, draw)
    with serve.ours(folder / "home", spec) as server, Client(server.url) as client:
        serve.await_learner(server)
        found: dict[str, list[float]] = {"learning": [], "paused": []}
        sent, paused = 0, False
        for turn in range(options.rounds):
            for kind in reversed(found) if turn % 2 else found:
                if paused != (kind == "paused"):
                    (client.resume if paused else client.pause)()
                    paused = not paused
                p99, line = load(server, draw, sent, options.seconds)
                sent += 1
                found[kind].append(p99)
                print(f"{name:<8}{kind:<10}{line}", flush=True)
        ratios = [on / off for on, off in zip(found["learning"], found["paused"], strict=True)]
        p99s = [statistics.median(column) for column in found.values()]
    print(
        f"{name}: p99 {p99s[0]:.2f} ms learning, {p99s[1]:.2f} ms paused: {statistics.median(ratios):.2f} x (aim: 1.2)"
    )


def fill(home: Path, rows: int, draw: random.Random) -> None:
    """Write a log with labelled rows."""
    home.mkdir()
    with SqliteLog(home / "log.sqlite") as log:
        for start in range(0, rows, 1000):
            made = records(min(1000, rows - start), draw)
            log.append([Example(f"b{start + i}", row, label(row, draw)) for i, row in enumerate(made)])


def load(server: Server, draw: random.Random, turn: int, seconds: float) -> tuple[float, str]:
    """Send predictions, and feedback half a second after them; return the p99 in ms and a line of measurements."""
    count, lag = int(serve.RATE * seconds) // 2, serve.RATE // 4
    rows = records(count, draw)
    requests: list[bytes] = []
    for i, row in enumerate(rows):
        requests.append(serve.request("/predict", {"id": f"p{turn}-{i}", "features": row}))
        if (then := i - lag) >= 0:
            judged = {"id": f"p{turn}-{then}", "label": label(rows[then], draw)}
            requests.append(serve.request("/feedback", judged))
    host, port = serve.address(server)
    before, began = status(server), time.monotonic()
    used = serve.used(server.processes["learner"])
    due, answered = serve.paced(host, port, requests)
    spent = time.monotonic() - began
    after, used = status(server), serve.used(server.processes["learner"]) - used
    p50, p99 = 1000 * np.percentile(answered - due, [50, 99])
    published = (after["learner"]["published"] - before["learner"]["published"]) / spent
    size = (snapshot.folder(Path(server.home)) / snapshot.CURRENT).stat().st_size / 1e6
    memory = [serve.private(server.processes[name]) / 1e6 for name in ("worker-0", "learner")]
    line = (
        f"p50 {p50:6.2f} ms  p99 {p99:7.2f} ms  stale {1000 * (after['staleness']['seconds'] or 0):6.0f} ms  "
        f"{published:5.1f} snapshots/s of {size:5.2f} MB, {1000 * after['learner']['publish_seconds']:5.1f} ms each  "
        f"learner {used / spent:4.0%} of a core  worker {memory[0]:4.0f} MB  learner {memory[1]:4.0f} MB"
    )
    return float(p99), line


def status(server: Server) -> Any:
    with urllib.request.urlopen(f"{server.url}/status", timeout=30) as reply:
        return json.load(reply)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="single,forest,mix,auto", help="parts to run, separated by commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--warm", type=int, default=30_000, help="labelled rows to learn first")
    options = parser.parse_args()
    for name in options.only.split(","):
        print(f"\n== {name}", flush=True)
        if name == "single":
            single(options)
        else:
            with tempfile.TemporaryDirectory(prefix="everlearn-bench-") as folder:
                served(name, options, Path(folder))


if __name__ == "__main__":
    main()
