"""Contextual bandits beside Vowpal Wabbit: progressive loss and speed on streams of classes, in one run.

    python bench/jobs_bandits.py                      # five streams, delays 0 and 100; some ten minutes
    python bench/jobs_bandits.py --stream elec2 --rows 20000 --delay 0

The protocol is that of Bietti, Agarwal & Langford 2021: an action for each class, reward 1 if it is the label. Both see
the same rows, and each draws its actions from the policy that it gives, by numbers of the same seed. Vowpal Wabbit is
called through its Python API, with a line of text for each row, made before the clock runs; a prediction and an
update are two calls, as in a service. Its configurations are --cb_explore with epsilon .05 (mtr, dr), and
--cb_explore_adf with epsilon .05, --squarecb and --regcb, with a constant feature for each action that is crossed with
the row (-q sa). The best of them is chosen for each stream after the fact, which favours it. Seconds are CPU seconds.
The streams are read from $EVERLEARN_DATA, or from the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

import everlearn as el
from everlearn.evaluate.bandits import as_bandit_rows, bandit_run
from everlearn.model import row_slice, stack
from everlearn.records import Batch, Examples

STREAMS = {
    "elec2": "elec2",
    "covtype20k": "covtype20k",
    "insects": "insects_gradual",
    "kdd99": "kdd99_10pct",
    "hflights": "hflights",
    "phishing": "phishing",
}
PEERS = {
    "cb epsilon .05 mtr": "--cb_explore {k} --epsilon 0.05 --cb_type mtr",
    "cb epsilon .05 dr": "--cb_explore {k} --epsilon 0.05 --cb_type dr",
    "adf epsilon .05 mtr": "--cb_explore_adf --epsilon 0.05 --cb_type mtr -q sa",
    "adf squarecb": "--cb_explore_adf --squarecb -q sa",
    "adf regcb": "--cb_explore_adf --regcb --cb_min_cost 0 --cb_max_cost 1 -q sa",
}
OURS = ("squarecb", "linucb", "epsilon")
SINGLES = 4000  # rows that are also given to our Python API one by one


class Data(NamedTuple):
    """One stream: rows, and each row as text of Vowpal Wabbit."""

    name: str
    examples: Examples
    classes: int
    texts: list[str]


class Outcome(NamedTuple):
    """The progressive loss of one policy, and rows per CPU second."""

    loss: float
    rate: float


def load(name: str, most: int) -> Data:
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / f"{STREAMS[name]}.parquet")
    columns = [column for column in table.column_names if column != "label"]
    texts = [column for column in columns if name == "hflights" or str(table.schema.field(column).type) == "string"]
    fields: Any = {column: "categorical" if column in texts else "numeric" for column in columns}
    classes = tuple(sorted(set(table["label"].to_pylist())))
    task: Any = "binary" if len(classes) == 2 else "multiclass"
    described = el.spec.Schema(label="label", task=task, fields=fields, classes=classes)
    stream = el.read(table.slice(0, most), schema=described)
    parts = [chunk.examples for chunk in stream.chunks(size=8192)]
    whole = Examples(
        stack([one.batch for one in parts]), *(np.concatenate([getattr(one, of) for one in parts])
        for of in ("y", "weight", "position"))
    )  # fmt: skip
    return Data(name, whole, len(classes), [text(whole.batch, i) for i in range(len(whole.y))])


def text(batch: Batch, i: int) -> str:
    """Return a row as features of Vowpal Wabbit: numbers as they are, hashed entries by their index."""
    numbers = [f"{j}:{v:.7g}" for j, v in enumerate(batch.dense[i].tolist()) if v not in (0.0,) and v == v]
    entries = slice(batch.indptr[i], batch.indptr[i + 1])
    hashed = [f"h{k}:{v:.7g}" for k, v in zip(batch.indices[entries], batch.values[entries], strict=True)]
    return " ".join(numbers + hashed)


def peer(data: Data, arguments: str, delay: int, u: Any) -> Outcome:
    """Run Vowpal Wabbit: predict each row, draw, and learn the cost of the row that is `delay` rows older."""
    from vowpalwabbit import pyvw

    learner = pyvw.Workspace(arguments.format(k=data.classes) + " --quiet -b 18")
    adf, y = "_adf" in arguments, data.examples.y.astype(int).tolist()
    waiting: deque[tuple[int, int, float]] = deque()
    wrong, began = 0, time.process_time()
    for i, line in enumerate(data.texts):
        shown = [f"shared |s {line}", *(f"|a a{k}" for k in range(data.classes))] if adf else f"|s {line}"
        chances = learner.predict(shown)
        action = drawn(chances, u[i])
        wrong += action != y[i]
        waiting.append((i, action, chances[action]))
        if len(waiting) > delay:
            late, done, p = waiting.popleft()
            cost = f"{float(done != y[late])}:{p}"
            if adf:
                lines = [f"|a a{k}" if k != done else f"0:{cost} |a a{k}" for k in range(data.classes)]
                learner.learn([f"shared |s {data.texts[late]}", *lines])
            else:
                learner.learn(f"{done + 1}:{cost} |s {data.texts[late]}")
    seconds = time.process_time() - began
    learner.finish()
    return Outcome(wrong / len(y), len(y) / seconds)


def drawn(chances: list[float], u: float) -> int:
    """Return the first action whose cumulated probability exceeds u times their sum, for libraries that round."""
    total, reach = 0.0, u * sum(chances)
    for action, p in enumerate(chances):
        total += p
        if total > reach:
            return action
    return len(chances) - 1


def ours(data: Data, explore: str, delay: int, seed: int) -> Outcome:
    spec = {"family": "bandit", "explore": explore, "actions": data.classes}
    bandit_run(spec, first(data.examples, 20), delay, greedy=False)  # loads the kernels
    began = time.process_time()
    report = bandit_run(spec, data.examples, delay, seed=seed, greedy=False)
    return Outcome(report.loss, report.rows / (time.process_time() - began))


def one_by_one(data: Data) -> float:
    """Return the rows per CPU second of policy and learn, called for each row."""
    few = first(data.examples, SINGLES)
    rows, n = as_bandit_rows(few.batch, data.classes), len(few.y)
    hashed = int(few.batch.indices.max(initial=-1)) + 1
    spec = {"family": "bandit", "actions": data.classes, "dense": rows.dense.shape[1], "hashed": hashed}
    model: Any = el.build({**spec, "task": "regression"})
    u, y = np.random.default_rng(0).random(n).tolist(), few.y.tolist()
    rewards, weight = (np.zeros(1), np.ones(1)), np.ones(1, np.float32)
    model.policy(row_slice(rows, 0, 0))  # loads the kernels
    model.learn(row_slice(rows, 0, 0), few.y[:0], few.weight[:0])
    singles = [row_slice(rows, i, i + 1) for i in range(n)]
    began = time.process_time()
    for i, row in enumerate(singles):
        chances = model.policy(row)[0].tolist()
        action = drawn(chances, u[i])
        row.dense[0, -2:] = action, chances[action]
        model.learn(row, rewards[int(action == y[i])], weight)
    return n / (time.process_time() - began)


def first(examples: Examples, n: int) -> Examples:
    batch = row_slice(examples.batch, 0, min(n, len(examples.y)))
    return Examples(batch, examples.y[:n], examples.weight[:n], examples.position[:n])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stream", choices=STREAMS, action="append")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--delay", type=int, action="append")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    found = importlib.util.find_spec("vowpalwabbit") is not None
    if not found:
        print("vowpalwabbit is not installed: ours only")
    for delay in options.delay or [0, 100]:
        print(f"\ndelay {delay}; loss, and rows per CPU second")
        for name in options.stream or STREAMS:
            data = load(name, options.rows)
            print(f"{name}: {len(data.examples.y):,} rows, {data.classes} actions", flush=True)
            results = {}
            for seed in range(options.seeds):
                u = np.random.default_rng(seed).random(len(data.texts)).tolist()
                for explore in OURS:
                    results.setdefault(f"ours {explore}", []).append(ours(data, explore, delay, seed))
                for label, arguments in PEERS.items() if found else ():
                    results.setdefault(f"vw {label}", []).append(peer(data, arguments, delay, u))
            mean = {
                label: Outcome(*(float(np.mean(column)) for column in zip(*runs, strict=True)))
                for label, runs in results.items()
            }
            for label, outcome in mean.items():
                print(f"  {label:24} {outcome.loss:.4f}  {outcome.rate:12,.0f}", flush=True)
            print(f"  {'ours, one row a call':24} {'':6}  {one_by_one(data):12,.0f}")
            if found:
                label = min((one for one in mean if one.startswith("vw")), key=lambda one: mean[one].loss)
                mine, best = mean["ours squarecb"], mean[label]
                ratio = mine.rate / best.rate
                print(f"  best peer: {label}; ours less it {mine.loss - best.loss:+.4f}, {ratio:.0f} times its rate")


if __name__ == "__main__":
    main()
