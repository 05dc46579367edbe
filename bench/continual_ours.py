"""Everlearn's side of `bench/continual.py`: python bench/continual_ours.py METHOD MEMORY SEED FORM ROWS [PICTURE]

FORM is "tasks" (each of the five tasks in one call), "stream" (ten rows a call), "budget:S" (rows that come while the
model is busy are not learned; S seconds of processor time for 1,000 rows), "split" (as "tasks", tested along the way,
with an optional picture), "permuted", "rotated", or "cifar". METHOD is a name of METHODS, with any of: "+ema" (an
average of the weights serves), "+restart" (the average restarts with a new class), "+balance" (classes are learned as
if equally frequent, and expected as frequent as they are, half of it lately), "+evenly" (all of it in the whole
stream), "+shift" or "+crop" (replayed images are changed slightly). Prints one line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from typing import Any

import numpy as np

import everlearn as el
from continual_data import BATCH, read, split, torch
from everlearn.evaluate import continual
from everlearn.records import Batch, Examples

METHODS: dict[str, list[dict[str, Any]]] = {
    "naive": [],
    "joint": [],
    "er": [{"kind": "replay", "rows": BATCH}],
    "er_ace": [{"kind": "replay", "rows": BATCH, "loss": "asymmetric"}],
    "derpp": [{"kind": "distill", "rows": BATCH, "alpha": 0.1, "beta": 0.5}],
    "agem": [{"kind": "agem", "rows": 64}],
    "ewc": [{"kind": "ewc", "strength": 100.0}],
    "gdumb": [{"kind": "gdumb", "epochs": 30}],
}


def model(method: str, memory: int, seed: int, more: dict[str, Any]) -> el.model.Model:
    """Return a network that learns by this method, with at most `memory` remembered rows, stored as bytes."""
    name, *parts = method.split("+")
    change = next((part for part in parts if part in ("shift", "crop", "flip")), "")
    keep = next((float(part[3:] or 0.998) for part in parts if part.startswith("ema")), 0.0)
    terms = METHODS[name]
    spec = {
        "family": "neural",
        "task": "multiclass",
        "classes": 10,
        "dense": 784,
        "scale": 1 / 255,
        "module": "continual_data:network",
        "arguments": {"seed": seed},
        "optimizer": {"name": "sgd", "lr": 0.1},
        "batch": BATCH,
        "ema": keep,
        "layout": 1,  # the settings of release 0.1: they set apart what `new_classes` sets together
        "restart": "restart" in parts,
        "balance": "balance" in parts,
        "prior": 0 if "evenly" in parts else 500,
        "terms": terms,
        "memory": {"kind": "balanced" if terms else "none", "rows": memory, "bytes": 1 << 26, "dtype": "uint8"},
        "seed": seed,
    }
    spec["memory"]["augment"] = change
    if change:
        spec["shape"] = [1, 28, 28]
        spec["module"] = "continual_data:flat"
    return el.build({**spec, **more})


def examples(x: np.ndarray, y: np.ndarray) -> Examples:
    rows = len(y)
    none = np.zeros(rows + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32)
    batch = Batch(np.ascontiguousarray(x, np.float32), *none)
    return Examples(batch, y.astype(np.float64), np.ones(rows, np.float32), np.arange(1, rows + 1))


def images() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    return tuple(  # type: ignore[return-value]
        (read(f"mnist_{part}_x").reshape(-1, 784), read(f"mnist_{part}_y").astype(np.int64))
        for part in ("train", "test")
    )


def tasks(method: str, memory: int, seed: int, form: str, rows: int) -> dict[str, Any]:
    """Run one pass over split-MNIST, in five calls, or in one call for every ten rows."""
    (x, y), test = images()
    order = torch.arange(len(y))
    order, labels = split(order, torch.from_numpy(y), seed, joint=method == "joint")
    whole = examples(x[order.numpy()][:rows], labels.numpy()[:rows])
    learner = model(method, memory, seed, {})
    borders = np.flatnonzero(np.diff(whole.y // 2)) + 1 if method != "joint" else np.zeros(0, np.int64)
    cuts = [0, *borders, len(whole.y)]
    if form == "stream":
        cuts = [*range(0, len(whole.y), BATCH), len(whole.y)]
    tenth, marks = len(cuts) // 10, [time.perf_counter()]
    online = 0
    cpu, wall = time.process_time(), time.perf_counter()
    for number, (begin, end) in enumerate(itertools.pairwise(cuts), 1):
        part = el.model.cut(whole, begin, end)
        scores = learner.learn(part.batch, part.y, part.weight)
        online += int((scores.argmax(1) == part.y).sum())
        if method == "ewc":
            learner.consolidate()  # type: ignore[attr-defined]
        if form == "stream" and number % tenth == 0:
            marks.append(time.perf_counter())
    if method == "gdumb":
        learner.consolidate()  # type: ignore[attr-defined]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    thousands = len(whole.y) / 1000
    measured = {
        "online": online / len(whole.y),
        "cpu": cpu / thousands,
        "wall": wall / thousands,
        "tenths": np.diff(marks).tolist(),
    }
    return {"accuracy": right(learner, *test), **measured}


def right(learner: el.model.Model, x: np.ndarray, y: np.ndarray) -> float:
    return float((learner.predict(examples(x, y).batch).argmax(1) == y).mean())


def evaluated(
    stream: continual.TaskStream, learner: el.model.Model, consolidate: bool, cost: float = 0.0
) -> dict[str, Any]:
    began = time.perf_counter()
    found = continual.evaluate(learner, stream, consolidate=consolidate, cost=cost, name=sys.argv[1])
    if len(sys.argv) > 6:
        found.plot(sys.argv[6])
    wall = (time.perf_counter() - began) / (len(stream) / 1000)
    accuracy, forgetting = found.metrics["average_accuracy"], found.metrics.get("forgetting")
    return {"accuracy": accuracy, "online": found.metrics["online_accuracy"], "forgetting": forgetting, "wall": wall}


def main() -> None:
    method, memory, seed, form, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
    torch.set_num_threads(1)
    name = method.partition("+")[0]
    if form in ("tasks", "stream"):
        print(json.dumps(tasks(method, memory, seed, form, rows)))
        return
    if form == "cifar":
        stream, more = cifar(seed, rows), CIFAR
    else:
        train, test = images()
        if form.startswith("budget") or form == "split":
            stream = continual.split(train, test, per_task=2, seed=seed)
        elif form == "permuted":
            stream = continual.permuted(train, test, tasks=10, rows=6000, seed=seed)
        else:
            stream = continual.rotated(train, test, image=(28, 28), rows=6000, seed=seed)
        more = {}
    if name == "joint":
        stream = continual.joint(stream, seed=seed)
    learner = model(method, memory, seed, more)
    cost = 0.0
    if form.startswith("budget"):
        budget = float(form.partition(":")[2]) / 1000
        cost = continual.seconds_per_row(model(method, memory, seed, more), stream) / budget
    print(json.dumps(evaluated(stream, learner, name in ("ewc", "gdumb"), cost)))


CIFAR: dict[str, Any] = {
    "dense": 3 * 32 * 32,
    "shape": [3, 32, 32],
    "module": "continual_data:convolutional",
    "optimizer": {"name": "sgd", "lr": 0.05},
}


def cifar(seed: int, rows: int) -> continual.TaskStream:
    def pair(part: str) -> tuple[np.ndarray, np.ndarray]:
        pixels = np.cumsum(read(f"cifar10_{part}_dx"), axis=-1, dtype=np.uint8)
        return pixels, read(f"cifar10_{part}_y").astype(np.int64)

    return continual.split(pair("train10k"), pair("test1k"), per_task=2, seed=seed)


if __name__ == "__main__":
    main()
