"""What share of the columns the leaves of a forest should look at, on generated streams and on real ones.

    python bench/forest_shares.py [--seeds 2] [--rows 20000] [--real] [--shares none twice_root 0.6 0.8]
    python bench/forest_shares.py --layouts 5 6 [--family tree|auto] [--plain] [--seeds 1] [--real]

For each share: accuracy in points, log loss, and rows a second of CPU time as a multiple, all beside the first one
("none": the default of layout 4, max(sqrt(columns) + 1, 0.3 columns)). Labels come at once, and each row is predicted
before it is learned. `--layouts` compares layouts of model specs in their place; `--plain` trees have no Poisson
weights and no drift detection, grace 200 and delta 0.001. `--real` takes the Parquet files that `bench/trees.py` reads,
with categories hashed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

import drifting
import everlearn as el
import mix
from everlearn.stream import Stream, read

MOST = 50_000  # rows of a real stream


def real() -> Iterator[tuple[str, str, Stream]]:
    """Yield the streams of files that have classes."""
    for path in sorted(Path(mix.FOLDER).glob("*.parquet")):
        table = pq.read_table(path).slice(0, MOST).drop_columns(mix.LEAKS.get(path.stem, []))
        if path.stem != "sms_spam":  # has no dense column
            yield path.stem, "real", read(table, label="label")


def spec_of(share: str) -> dict[str, Any]:
    """Return the spec of a forest of ten whose leaves look at a share of the columns."""
    value: Any = {"none": None}.get(share, share) if share in ("none", "twice_root") else float(share)
    return {"family": "forest", "share": value}


def run(spec: dict[str, Any], stream: Stream) -> tuple[float, float, float]:
    """Return accuracy in points, log loss, and rows a second of CPU time."""
    model = el.build(spec, el.schema.shape(stream.schema))
    right = loss = seconds = 0.0
    rows = 0
    for chunk in stream.chunks():
        examples, began = chunk.examples, time.process_time()
        proba = model.learn(examples.batch, examples.y, examples.weight)
        seconds += time.process_time() - began
        y = examples.y.astype(int)
        right += float((proba.argmax(axis=1) == y).sum())
        loss -= float(np.log(np.maximum(proba[np.arange(len(y)), y], 0.001)).sum())
        rows += len(y)
    return 100.0 * right / rows, loss / rows, rows / seconds


def main() -> None:
    """Print a line for each stream, means over drifts and seeds, and one for all."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--real", action="store_true")
    arguments.add_argument("--shares", nargs="+", default=["none", "twice_root", "0.6", "0.8"])
    arguments.add_argument("--layouts", nargs="+", type=int, default=[])
    arguments.add_argument("--family", choices=("forest", "tree", "auto"), default="forest")
    arguments.add_argument("--plain", action="store_true")
    given = arguments.parse_args()
    plain = {"rate": 0.0, "drift": False, "grace": 200.0, "delta": 0.001} if given.plain else {}
    named = {str(layout): {"family": given.family, "layout": layout, **plain} for layout in given.layouts}
    specs = named or {share: spec_of(share) for share in given.shares}
    print(f"| stream | {' | '.join(specs)} |\n|---|{'---|' * len(specs)}")
    found: dict[str, list[list[tuple[float, float, float]]]] = {}
    for name, _, stream in real() if given.real else drifting.streams(given.rows, given.seeds):
        for spec in () if found else specs.values():
            run(spec, stream)  # loads the kernels
        found.setdefault(name, []).append([run(spec, stream) for spec in specs.values()])
    for name, runs in [*found.items(), ("all", [one for some in found.values() for one in some])]:
        each = np.array(runs)  # (streams, shares, 3)
        first = each[:, 0].mean(axis=0)
        cells = [f"{first[0]:.2f} / {first[1]:.4f} / {first[2]:,.0f}"]
        for at in range(1, len(specs)):
            more = (each[:, at] - each[:, 0])[:, :2].mean(axis=0)
            times = float(np.median(each[:, at, 2] / each[:, 0, 2]))
            cells.append(f"{more[0]:+.2f} / {more[1]:+.4f} / {times:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
