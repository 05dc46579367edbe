"""What explaining and exporting cost: milliseconds of an explanation, bytes of an ONNX file, loss by frozen leaves.

    python bench/explain.py [NAME ...] [--rows N] [--without-onnx]

Each model learns a stream with default settings. On the last 5,000 rows, 100 at a time, it predicts before it learns:
as it is, and with frozen leaves, as an ONNX file that is written again every 100 rows. Then it explains 100 rows.
Times are CPU time of one core. The streams are the Parquet files in $EVERLEARN_DATA, or in
the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

import everlearn as el
from everlearn.families.explain import contributions

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
STREAMS = ("elec2", "covtype20k", "insects_gradual", "hflights")
FAMILIES = ("linear", "tree", "forest", "mondrian", "auto")
LAST, EXPLAINED, CHUNK = 5_000, 100, 100


def measured(name: str, family: str, most: int, onnx: bool) -> str:
    """Return the row of the table for one stream and family."""
    stream = el.read(str(FOLDER / f"{name}.parquet"), label="label")
    rows = min(stream.rows or most, most)
    stream = stream.first(rows)
    encoder = el.schema.Encoder(stream.schema)
    model, sums, weight = el.build({"family": family}, encoder.shape), np.zeros(4), 0
    for chunk in stream.chunks(size=CHUNK):
        own = chunk.examples
        if chunk.last > rows - LAST:
            found = el.export.cost(model, [own])
            sums += len(own.y) * np.ravel([found.measures["accuracy"], found.measures["log_loss"]])
            weight += len(own.y)
        model.learn(own.batch, own.y, own.weight)
    was, now, loss, frozen = sums / weight
    records = next(iter(stream.records(after=rows - EXPLAINED, size=EXPLAINED))).features
    contributions(model, encoder, records[0])
    began = time.process_time()
    for record in records:
        contributions(model, encoder, record)
    each, size = 1e3 * (time.process_time() - began) / len(records), 0
    if onnx:
        with tempfile.TemporaryDirectory() as folder:
            size = el.export.onnx(model, stream.schema, Path(folder) / "model.onnx").stat().st_size
    leaves = [int((el.export.tree(model, one).left < 0).sum()) for one in el.export.trees(model)]
    shown = f"{int(np.mean(leaves)):,}" if leaves else ""
    before, after = f"{was:.3f} / {loss:.3f}", f"{now:.3f} / {frozen:.3f}"
    return f"| {name} | {family} | {each:.1f} | {shown} | {size / 1e6:.2f} | {before} | {after} |"


def main() -> None:
    """Print one row for each stream and family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=STREAMS, help="names of streams, without .parquet")
    parser.add_argument("--rows", type=int, default=20_000, help="rows of a stream at most")
    parser.add_argument("--without-onnx", action="store_true", help="write no file")
    given = parser.parse_args()
    print("| stream | family | ms | leaves of a tree | MB | as it is | exported |\n|---|---|--:|--:|--:|--:|--:|")
    for name in given.names:
        for family in FAMILIES:
            print(measured(name, family, given.rows, not given.without_onnx), flush=True)


if __name__ == "__main__":
    main()
