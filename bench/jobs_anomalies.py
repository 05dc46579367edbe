"""Anomaly scores beside River's half-space trees: ROC AUC, average precision, and rows per CPU second.

    python bench/jobs_anomalies.py                     # all streams, our methods and River's trees; a minute
    python bench/jobs_anomalies.py --rows 5000 --stream phishing
    python bench/jobs_anomalies.py --fresh             # streams that no constant was chosen on

Each row is scored before it is learned, by all in one process and on the same rows. River's trees follow MinMaxScaler,
since they take numbers to be in [0, 1]. The streams: rare attacks among the connections of kdd99 (all, or one service),
a rare kind of forest in covtype, phishing pages, and three generated ones, of which one drifts fast. The files are read
from $EVERLEARN_DATA, or from the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import average_precision_score, roc_auc_score

from everlearn import model
from everlearn.records import Batch

RARE = {
    *("guess_passwd", "ftp_write", "imap", "phf", "multihop", "warezmaster", "warezclient", "spy"),
    *("buffer_overflow", "loadmodule", "perl", "rootkit"),
}
PROBES = {"satan", "ipsweep", "nmap", "portsweep"}
METHODS = ("auto", "half_space", "quantile", "isolation")
Rows = tuple[np.ndarray, np.ndarray]


def folder() -> Path:
    """Return the folder of the streams."""
    return Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def kdd() -> Iterator[tuple[str, Rows]]:
    """Yield streams of kdd99: columns of numbers alone."""
    table = pq.read_table(folder() / "kdd99_10pct.parquet")
    attack = np.array([str(name).strip(".") for name in table["attack"].to_pylist()])
    service, names = np.array(table["f2"].to_pylist()), [f"f{j}" for j in range(41) if j not in (1, 2, 3)]
    x, odd = np.stack([table[name].to_numpy() for name in names], 1).astype(np.float32), attack != "normal"
    fifth = np.arange(len(odd)) % 5 == 0
    for name, keep, part in (
        ("kdd99, rare attacks", ~odd | np.isin(attack, list(RARE)), slice(0, 20_000)),
        ("kdd99, probes", ~odd | (np.isin(attack, list(PROBES)) & fifth), slice(0, 40_000)),
        ("kdd99, http", service == "http", slice(-20_000, None)),
        ("kdd99, smtp", service == "smtp", slice(None)),
    ):
        yield name, (x[keep][part], odd[keep][part].astype(int))


def streams() -> Iterator[tuple[str, Rows]]:
    """Yield the streams: name, numbers float32 (n, d), and 1 for anomalies."""
    yield from kdd()
    table = pq.read_table(folder() / "covtype20k.parquet")
    y, x = table["label"].to_numpy(), np.stack([table[f"f{j}"].to_numpy() for j in range(10)], 1).astype(np.float32)
    keep = (y <= 1) | ((y == 3) & (np.arange(len(y)) % 20 == 0))
    yield "covtype, willow", (x[keep], (y[keep] == 3).astype(int))
    table = pq.read_table(folder() / "phishing.parquet")
    x = np.stack([table[name].to_numpy() for name in table.schema.names[:9]], 1).astype(np.float32)
    yield "phishing", (x, table["label"].to_numpy().astype(int))
    yield from generated()


def fresh() -> Iterator[tuple[str, Rows]]:
    """Yield streams that played no part when constants were chosen: other services and classes, and another seed."""
    table = pq.read_table(folder() / "kdd99_10pct.parquet")
    odd = np.array([str(name).strip(".") != "normal" for name in table["attack"].to_pylist()])
    service, names = np.array(table["f2"].to_pylist()), [f"f{j}" for j in range(41) if j not in (1, 2, 3)]
    x = np.stack([table[name].to_numpy() for name in names], 1).astype(np.float32)
    for name in ("ftp_data", "other", "finger"):
        keep = (service == name) & (~odd | (np.cumsum(odd & (service == name)) % 20 == 0))
        yield f"kdd99, {name}", (x[keep], odd[keep].astype(int))
    table = pq.read_table(folder() / "covtype20k.parquet")
    y, x = table["label"].to_numpy(), np.stack([table[f"f{j}"].to_numpy() for j in range(10)], 1).astype(np.float32)
    keep = (y <= 1) | ((y == 4) & (np.arange(len(y)) % 20 == 0))
    yield "covtype, aspen", (x[keep], (y[keep] == 4).astype(int))
    table = pq.read_table(folder() / "insects_gradual.parquet")
    y, x = table["label"].to_numpy(), np.stack([table[f"f{j}"].to_numpy() for j in range(33)], 1).astype(np.float32)
    keep = (y < 5) | ((y == 5) & (np.arange(len(y)) % 40 == 0))
    yield "insects, one species", (x[keep], (y[keep] == 5).astype(int))
    yield from generated(seed=11)


def generated(seed: int = 5) -> Iterator[tuple[str, Rows]]:
    """Yield generated streams: broken correlations under slow drift, heavy tails, and fast drift."""
    random, n = np.random.default_rng(seed), 20_000
    y, mixing = (random.random(n) < 0.01).astype(int), random.normal(size=(8, 8)) * 0.5
    x = (random.normal(size=(3, 8)) * 4)[random.integers(0, 3, n)] + random.normal(size=(n, 8)) @ mixing
    x += np.linspace(0, 6, n)[:, None]
    broken = np.stack([random.permutation(column) for column in x[y == 1].T], 1)
    x[y == 1] = broken + random.normal(size=broken.shape) * 2
    yield "broken correlations", (x.astype(np.float32), y)
    x = np.exp(random.normal(size=(n, 5)) * 2)
    x[y == 1] = np.exp(random.normal(size=(int(y.sum()), 5)) * 3 + 1)
    yield "heavy tails", (x.astype(np.float32), y)
    x = random.normal(size=(n, 4)) + np.linspace(0.0, 66.0, n)[:, None]
    x[y == 1] += random.choice([-4.0, 4.0], (int(y.sum()), 4))
    yield "fast drift", (x.astype(np.float32), y)


def ours(x: np.ndarray, method: str) -> tuple[np.ndarray, float]:
    """Return scores, and seconds of CPU time."""
    batch = Batch(x, np.zeros(len(x) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    detector = model.build({"family": "anomaly", "method": method, "task": "binary", "dense": x.shape[1]})
    start = time.process_time()
    scores = detector.learn(batch, np.zeros(len(x)), np.ones(len(x), np.float32))[:, 1]
    return scores, time.process_time() - start


def rivers(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the scores of River's half-space trees, and seconds of CPU time."""
    from river import anomaly, preprocessing

    detector: Any = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(seed=42)
    names, scores = [f"x{j}" for j in range(x.shape[1])], []
    records = [dict(zip(names, row, strict=True)) for row in x.tolist()]
    start = time.process_time()
    for record in records:
        scores.append(detector.score_one(record))
        detector.learn_one(record)
    return np.array(scores), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=0, help="of each stream at most; 0: all")
    parser.add_argument("--stream", default="", help="only streams whose names hold this")
    parser.add_argument("--fresh", action="store_true", help="streams that no constant was chosen on")
    arguments = parser.parse_args()
    for method in METHODS:
        ours(np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32), method)  # load the kernels
    print(f"{'stream':22}{'rows':>8}{'odd':>6}  {'detector':12}{'ROC AUC':>9}{'AP':>8}{'rows/s':>10}{'x River':>9}")
    for name, (x, y) in fresh() if arguments.fresh else streams():
        if arguments.stream not in name:
            continue
        x, y = (x[: arguments.rows], y[: arguments.rows]) if arguments.rows else (x, y)
        peer, seconds = rivers(x)
        for detector, scores, took in (("River", peer, seconds), *((method, *ours(x, method)) for method in METHODS)):
            quality = f"{roc_auc_score(y, scores):9.3f}{average_precision_score(y, scores):8.3f}"
            rate = f"{len(y) / took:10,.0f}{seconds / took:9.1f}"
            print(f"{name:22}{len(y):8,d}{y.sum():6d}  {detector:12}{quality}{rate}", flush=True)


if __name__ == "__main__":
    main()
