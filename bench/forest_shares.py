"""What share of the columns the leaves of a forest should look at, on generated streams and on real ones.

    python bench/forest_shares.py [--seeds 2] [--rows 20000] [--real] [--shares none twice_root 0.6 0.8]

For each share: accuracy in points, log loss, and rows a second of CPU time as a multiple, all beside the first one
("none": the default of layout 4, max(sqrt(columns) + 1, 0.3 columns)). Labels come at once, and each row is predicted
before it is learned. `--real` takes the Parquet files that `bench/trees.py` reads, with categories hashed.
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


def run(share: str, stream: Stream) -> tuple[float, float, float]:
    """Return accuracy in points, log loss, and rows a second of CPU time of a forest of ten."""
    value: Any = {"none": None}.get(share, share) if share in ("none", "twice_root") else float(share)
    model = el.build({"family": "forest", "share": value}, el.schema.shape(stream.schema))
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
    given = arguments.parse_args()
    print(f"| stream | {' | '.join(given.shares)} |\n|---|{'---|' * len(given.shares)}")
    found: dict[str, list[list[tuple[float, float, float]]]] = {}
    for name, _, stream in real() if given.real else drifting.streams(given.rows, given.seeds):
        for share in () if found else given.shares:
            run(share, stream)  # loads the kernels
        found.setdefault(name, []).append([run(share, stream) for share in given.shares])
    for name, runs in [*found.items(), ("all", [one for some in found.values() for one in some])]:
        each = np.array(runs)  # (streams, shares, 3)
        first = each[:, 0].mean(axis=0)
        cells = [f"{first[0]:.2f} / {first[1]:.4f} / {first[2]:,.0f}"]
        for at in range(1, len(given.shares)):
            more = (each[:, at] - each[:, 0])[:, :2].mean(axis=0)
            times = float(np.median(each[:, at, 2] / each[:, 0, 2]))
            cells.append(f"{more[0]:+.2f} / {more[1]:+.4f} / {times:.2f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
