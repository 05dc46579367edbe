"""What late labels cost the automatic model beside its best member, before and since `patience`.

    python bench/mix_late.py [--delays 10 100 1000] [--rows 20000] [--real] [--patience 0 25]

For each stream and delay: log loss and accuracy of the best of the four members (each figure of its own best), and for
each `patience` (0: as before layout 5) how far the mix is above in log loss and ahead in points of accuracy. No member
rests, so the members are the same. A row is predicted, and learned after `delay` further predictions; rows without a
label at the end count as well. `--real` takes the streams of `bench/trees.py`, all columns as numbers, else those of
`bench/drifting.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import drifting
import everlearn as el
import trees
from everlearn.model import predict_traced, row_slice, stack

MOST = 50_000  # rows of a real stream


def streams(given: argparse.Namespace) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """Yield name, rows, labels, and shape."""
    if given.real:
        for name in trees.STREAMS:
            rows, y, classes = trees.load(name)
            task = "binary" if classes == 2 else "multiclass"
            shape = {"task": task, "dense": rows.dense.shape[1], "hashed": 0, "classes": classes}
            yield name, row_slice(rows, 0, min(len(y), MOST)), y[:MOST], shape
        return
    for name, drift, stream in drifting.streams(given.rows, 1):
        parts = [chunk.examples for chunk in stream.chunks()]
        y = np.concatenate([part.y for part in parts])
        yield f"{name}, {drift}", stack([part.batch for part in parts]), y, el.schema.shape(stream.schema)


def run(patience: float, rows: Any, y: Any, shape: dict[str, Any], delay: int) -> tuple[Any, Any]:
    """Return what the mix answered, (n, K), and what its members did, (n, members, K)."""
    model = el.build({**el.build({"family": "auto"}, shape).spec, "price": 0.0, "patience": patience})
    n, members, classes = len(y), len(model.spec["members"]), int(shape["classes"])
    answers, votes = np.empty((n, classes)), np.empty((n, members, classes))
    traces, weight = {}, np.ones(1, np.float32)
    for at in range(n):
        answers[at], trace = predict_traced(model, row_slice(rows, at, at + 1))
        assert trace is not None
        votes[at], traces[at] = trace[0, : members * classes].reshape(members, classes), trace
        if (due := at - delay) >= 0:
            model.learn(row_slice(rows, due, due + 1), y[due : due + 1], weight, traces.pop(due))
    return answers, votes


def main() -> None:
    """Print a line for each stream and delay, and the means."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--delays", type=int, nargs="+", default=[10, 100, 1000])
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--patience", type=float, nargs="+", default=[0.0, 25.0])
    arguments.add_argument("--real", action="store_true")
    given = arguments.parse_args()
    print(f"| stream | delay | best member | {' | '.join(f'patience {one:g}' for one in given.patience)} |")
    print(f"|---|--:|---|{'---|' * len(given.patience)}")
    found: dict[int, list[list[tuple[float, float]]]] = {}
    for name, rows, y, shape in streams(given):
        for delay in given.delays:
            runs = [run(patience, rows, y, shape, delay) for patience in given.patience]
            each = [trees.quality(runs[0][1][:, m], y) for m in range(runs[0][1].shape[1])]
            best = max(one[0] for one in each), min(one[1] for one in each)
            away = [
                (trees.quality(answers, y)[1] - best[1], trees.quality(answers, y)[0] - best[0]) for answers, _ in runs
            ]
            found.setdefault(delay, []).append(away)
            cells = " | ".join(f"{loss:+.4f} / {100 * more:+.2f}" for loss, more in away)
            print(f"| {name} | {delay:,} | {best[1]:.4f} / {best[0]:.4f} | {cells} |", flush=True)
    for delay, some in found.items():
        each_mean = np.array(some).mean(axis=0)
        cells = " | ".join(f"{loss:+.4f} / {100 * more:+.2f}" for loss, more in each_mean)
        print(f"| mean | {delay:,} | | {cells} |")


if __name__ == "__main__":
    main()
