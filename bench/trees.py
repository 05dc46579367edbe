"""Trees, forests and `auto` on real streams beside River and CapyMOA: accuracy, log loss and rows per CPU second.

    python bench/trees.py                                # our families; a minute
    python bench/trees.py --peers river capymoa --seeds 3 --peer-seeds 3 --record runs.jsonl   # two hours; the aims
    python bench/trees.py --stream elec2 --only forest auto --peers capymoa
    python bench/trees.py --numbers --river              # regression: MAE / RMSE / R2 / rows per CPU second; an hour

One pass, prequential, with the defaults of each family, and of each peer but for ten members. All columns are numbers,
categories too, so that each learner sees the same values. Peers run with labels at once, in the same process and on the
same rows. With peers, the last table has what was wanted beside what was measured (`bench/tree_aims.py`). Bind to one
core for a fair rate (`taskset -c 0`), since a Java machine compiles and collects on others. CapyMOA needs Java. The
streams are read from $EVERLEARN_DATA, or from the folder shared/data beside the checkout; kdd99_10pct and hflights
without columns that hold the label.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import everlearn as el
import tree_aims
import tree_peers
from everlearn.model import cut
from everlearn.records import Batch, Examples

STREAMS = {
    "elec2": 0,
    "covtype20k": 0,
    "insects_gradual": 0,
    "kdd99_10pct": 100_000,
    "hflights": 50_000,
}  # rows; 0: all
LEAKS = {"kdd99_10pct": ["attack"]}
SPECS: dict[str, dict[str, Any]] = {
    "tree, plain": {"family": "tree", "rate": 0.0, "grace": 200.0, "delta": 1e-3, "drift": False},
    "tree, no drift": {"family": "tree", "drift": False},
    "tree": {"family": "tree"},
    "forest": {"family": "forest"},
    "forest, share .6": {"family": "forest", "share": 0.6},
    "forest of 100": {"family": "forest", "trees": 100},
    "mondrian": {"family": "mondrian"},
    "linear": {"family": "linear"},
    "auto without last": {"family": "mix", "members": [{"family": one} for one in ("linear", "forest", "mondrian")]},
    "auto": {"family": "auto"},
}


def load(name: str) -> tuple[Batch, Any, int]:
    """Return the rows of a stream, its labels as numbers of classes, and how many classes there are."""
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / f"{name}.parquet").slice(0, STREAMS[name] or None).drop_columns(LEAKS.get(name, []))
    columns = []
    for column in table.column_names:
        values = table[column]
        if column != "label":
            codes = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
            columns.append(np.unique(values.to_pylist(), return_inverse=True)[1] if codes else values.to_numpy())
    dense = np.stack(columns, axis=1).astype(np.float32)
    classes, y = np.unique(table["label"].to_numpy(), return_inverse=True)
    empty = Batch(dense, np.zeros(len(y) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return empty, y.astype(np.float64), len(classes)


def measure(spec: dict[str, Any], rows: Batch, y: Any, classes: int, delay: int) -> tuple[float, float, float]:
    """Return accuracy, log loss, and rows per second of CPU time; with late labels metrics are counted in the time."""
    task = "binary" if classes == 2 else "multiclass"
    shape = {"task": task, "dense": rows.dense.shape[1], "hashed": 0, "classes": classes}
    weight = np.ones(len(y), np.float32)
    examples = Examples(rows, y, weight, np.arange(1, len(y) + 1))
    el.prequential(el.build(spec, shape), cut(examples, 0, 500), delay=delay)  # load the kernels
    model = el.build(spec, shape)
    start = time.process_time()
    if delay:
        found = el.prequential(model, examples, delay=delay).metrics
        return found["accuracy"], found["log_loss"], len(y) / (time.process_time() - start)
    scores = model.learn(rows, y, weight)
    return *quality(scores, y), len(y) / (time.process_time() - start)


def quality(proba: Any, y: Any) -> tuple[float, float]:
    """Return accuracy and log loss of probabilities (n, K); a probability counts as .001 at least."""
    right = np.maximum(proba[np.arange(len(y)), y.astype(int)], 0.001)
    return float((proba.argmax(1) == y).mean()), float(-np.log(right).mean())


def away(predictions: Any, y: Any) -> str:
    """Return MAE / RMSE / R2 after the first 100 rows."""
    error, late = (predictions - y)[100:], y[100:]
    squares = float((error**2).mean())
    return f"{np.abs(error).mean():.4g} / {squares**0.5:.4g} / {1 - squares / late.var():.3f}"


def numbers(rows: int, with_river: bool) -> None:
    """Print a row for each stream of numbers: four families, and River's tree and forest if asked for."""
    from number_streams import STREAMS as NUMBER_STREAMS

    for name, generate in NUMBER_STREAMS.items():
        x, y = generate(rows)
        batch = Batch(x.astype(np.float32), np.zeros(len(y) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))
        cells = []
        for family in ("linear", "tree", "forest", "mondrian"):
            model = el.build({"family": family, "task": "regression", "dense": x.shape[1]})
            start = time.process_time()
            found = model.learn(batch, y, np.ones(len(y), np.float32))[:, 0]
            cells.append(f"{family} {away(found, y)} / {len(y) / (time.process_time() - start):,.0f}")
        for label, found, rate in river_numbers(x, y) if with_river else ():
            cells.append(f"{label} {away(found, y)} / {rate:,.0f}")
        print(f"{name:<14}", "  ".join(cells), flush=True)


def river_numbers(x: Any, y: Any) -> Iterator[tuple[str, Any, float]]:
    """Yield River's adaptive tree and forest of ten: name, predictions, and rows per CPU second."""
    from river import forest, tree

    peers: dict[str, Any] = {
        "River's tree": tree.HoeffdingAdaptiveTreeRegressor(seed=1),
        "River's forest": forest.ARFRegressor(n_models=10, seed=1),
    }
    for label, peer in peers.items():
        found, start = np.empty(len(y)), time.process_time()
        for i, row in enumerate(x.tolist()):
            features = {f"c{j}": v for j, v in enumerate(row)}
            found[i] = peer.predict_one(features)
            peer.learn_one(features, float(y[i]))
        yield label, found, len(y) / (time.process_time() - start)


def classes_of(given: argparse.Namespace) -> None:
    """Print a row for each stream, learner and delay, means over seeds; with peers, the aims."""
    print(f"| {'stream':<15} | {'learner':<19} | delay | accuracy | log loss | rows/s |")
    print("|---|---|--:|--:|--:|--:|")
    runs: list[dict[str, Any]] = []
    for name in [given.stream] if given.stream else STREAMS:
        rows, y, classes = load(name)
        for label in given.only or SPECS:
            for delay in given.delays:
                for seed in range(given.seeds):
                    spec = {**SPECS[label], "seed": seed}
                    runs.append(run_of(name, label, delay, seed, measure(spec, rows, y, classes, delay)))
                show(runs[-given.seeds :], given.record)
        for label in tree_peers.PEERS:
            if label.split()[0].lower() in given.peers:
                for seed in range(given.peer_seeds):
                    proba, seconds = tree_peers.run(label, rows.dense, y, classes, seed + 1)
                    runs.append(run_of(name, label, 0, seed, (*quality(proba, y), len(y) / seconds)))
                show(runs[-given.peer_seeds :], given.record)
    if given.peers:
        tree_aims.show(tree_aims.means(runs))


def run_of(stream: str, learner: str, delay: int, seed: int, found: tuple[float, float, float]) -> dict[str, Any]:
    """Return what is kept of a run, with the load average."""
    figures = dict(zip(("accuracy", "log_loss", "rate"), found, strict=True))
    return {"stream": stream, "learner": learner, "delay": delay, "seed": seed, **figures, "load": os.getloadavg()[0]}


def show(runs: list[dict[str, Any]], record: Path | None) -> None:
    """Print the mean accuracy and log loss of some runs, and the highest rate; append them to a file."""
    accuracy, loss = (np.mean([run[name] for run in runs]) for name in ("accuracy", "log_loss"))
    one, rate = runs[0], max(run["rate"] for run in runs)
    cells = f"| {one['stream']:<15} | {one['learner']:<19} | {one['delay']:,} |"
    print(f"{cells} {accuracy:.4f} | {loss:.4f} | {rate:,.0f} |", flush=True)
    if record:
        with record.open("a") as file:
            file.writelines(json.dumps(run) + "\n" for run in runs)


def main() -> None:
    """Print a row for each stream and learner."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--stream", choices=STREAMS)
    arguments.add_argument("--only", nargs="+", choices=SPECS, help="our learners; default: all")
    arguments.add_argument("--peers", nargs="+", choices=("river", "capymoa"), default=[])
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--peer-seeds", type=int, default=1, help="runs of each peer")
    arguments.add_argument("--delays", type=int, nargs="+", default=[0], help="rows by which our labels are late")
    arguments.add_argument("--record", type=Path, help="append each run to this file of JSON lines")
    arguments.add_argument("--numbers", action="store_true", help="streams of numbers")
    arguments.add_argument("--rows", type=int, default=20_000, help="rows of each stream of numbers")
    arguments.add_argument("--river", action="store_true", help="River's regressors, too")
    given = arguments.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    if given.numbers:
        numbers(given.rows, given.river)
    else:
        classes_of(given)


if __name__ == "__main__":
    main()
