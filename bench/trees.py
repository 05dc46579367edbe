"""Trees and forests on real streams: accuracy, log loss and rows per CPU second, beside figures of their design.

    python bench/trees.py                         # elec2, covtype20k, insects_gradual; a minute
    python bench/trees.py --stream elec2 --seeds 3
    python bench/trees.py --numbers --river       # regression: MAE / RMSE / R2 / rows per CPU second; an hour

One pass, prequential, with the defaults of each family and labels at once; columns are numbers, as in the peers' runs.
The figures beside ours are those of prototypes and of the best peer (River 0.26, CapyMOA 0.15) on another day of a
machine like this: compare accuracies, and speeds only by their order. The streams are read from $EVERLEARN_DATA, or
from the folder shared/data beside the checkout.
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

import everlearn as el
from everlearn.records import Batch

STREAMS = ("elec2", "covtype20k", "insects_gradual")
SPECS: dict[str, dict[str, Any]] = {
    "tree, plain": {"family": "tree", "rate": 0.0, "grace": 200.0, "delta": 1e-7, "drift": False},
    "tree, no drift": {"family": "tree", "drift": False},
    "tree": {"family": "tree"},
    "forest": {"family": "forest"},
    "mondrian": {"family": "mondrian"},
}
# accuracy of the prototype, and of the best peer of the same kind: CapyMOA's HT, HAT and ARF(10), which is also what a
# Mondrian forest is compared with
FIGURES: dict[str, dict[str, tuple[float, float]]] = {
    "elec2": {
        "tree, plain": (0.7906, 0.817),
        "tree, no drift": (0.8299, 0.817),
        "tree": (0.8628, 0.845),
        "forest": (0.8913, 0.893),
        "mondrian": (0.8489, 0.893),
    },
    "covtype20k": {
        "tree, plain": (0.6575, 0.648),
        "tree, no drift": (0.6972, 0.648),
        "tree": (0.7257, 0.648),
        "forest": (0.8094, 0.820),
        "mondrian": (0.8071, 0.820),
    },
    "insects_gradual": {
        "tree, plain": (0.6337, 0.628),
        "tree, no drift": (0.6616, 0.628),
        "tree": (0.7257, 0.628),
        "forest": (0.7819, 0.774),
        "mondrian": (0.7631, 0.774),
    },
}


def load(name: str) -> tuple[Batch, Any, int]:
    """Return the rows of a stream, its labels as numbers of classes, and how many classes there are."""
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / f"{name}.parquet")
    columns = [table[column].to_numpy() for column in table.column_names if column != "label"]
    dense = np.stack(columns, axis=1).astype(np.float32)
    classes, y = np.unique(table["label"].to_numpy(), return_inverse=True)
    empty = Batch(dense, np.zeros(len(y) + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    return empty, y.astype(np.float64), len(classes)


def measure(spec: dict[str, Any], rows: Batch, y: Any, classes: int) -> tuple[float, float, float]:
    """Return accuracy, log loss, and rows per second of CPU time."""
    task = "binary" if classes == 2 else "multiclass"
    shape = {"task": task, "dense": rows.dense.shape[1], "hashed": 0, "classes": classes}
    model = el.build(spec, shape)
    weight = np.ones(len(y), np.float32)
    start = time.process_time()
    scores = model.learn(rows, y, weight)
    seconds = time.process_time() - start
    right = scores[np.arange(len(y)), y.astype(int)]
    return float((scores.argmax(1) == y).mean()), float(-np.log(np.maximum(right, 1e-15)).mean()), len(y) / seconds


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


def main() -> None:
    """Print a row for each stream and family."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--stream", choices=STREAMS)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--numbers", action="store_true", help="streams of numbers")
    arguments.add_argument("--rows", type=int, default=20_000, help="rows of each stream of numbers")
    arguments.add_argument("--river", action="store_true", help="River's regressors, too")
    given = arguments.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}")
    if given.numbers:
        numbers(given.rows, given.river)
        return
    print(f"{'stream':<16}{'family':<16}{'accuracy':>9}{'log loss':>9}{'rows/s':>11}{'prototype':>11}{'peer':>7}")
    for name in [given.stream] if given.stream else STREAMS:
        rows, y, classes = load(name)
        for label, spec in SPECS.items():
            found = np.array([measure({**spec, "seed": seed}, rows, y, classes) for seed in range(given.seeds)])
            accuracy, loss, rate = *found[:, :2].mean(axis=0), found[:, 2].max()
            prototype, peer = FIGURES[name][label]
            print(f"{name:<16}{label:<16}{accuracy:>9.4f}{loss:>9.4f}{rate:>11,.0f}{prototype:>11.4f}{peer:>7.3f}")


if __name__ == "__main__":
    main()
