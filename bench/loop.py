"""Events per second and memory of the whole loop, with log, join, gate, drift, replay and versions on.

    python bench/loop.py                three ways in, about a million events each
    python bench/loop.py --memory       peak memory after a million and after ten million events (minutes)

The rows are those of the packaged electricity market, read repeatedly from its Parquet file. "its own log": only
decisions and checkpoints are written. "appended": every row is first an event in SQLite. "client": single calls of
predict and, a hundred calls later, feedback; two events a row, each acknowledged before the next.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pyarrow.parquet as parquet

from everlearn.loop.loop import Loop
from everlearn.spec import LogSpec, Spec
from everlearn.stream import Stream, read

DATA = Path(str(files("everlearn") / "data" / "elec2.parquet"))
ROWS = 45_312


def stream(copies: int) -> Stream:
    first = read(DATA, label="label")
    return read([DATA] * copies, schema=first.schema)


def spec(rows: str = "auto") -> Spec:
    return Spec(
        schema=read(DATA, label="label").schema,
        model={"family": "linear"},
        log=LogSpec(rows="always" if rows == "always" else "auto"),
    )


def peak() -> float:
    """Return the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def through(settings: Spec, copies: int) -> dict[str, Any]:
    with TemporaryDirectory() as home, Loop(settings, Path(home)) as loop:
        return loop.run(stream(copies))


def client(settings: Spec, rows: int, delay: int = 100) -> float:
    table = parquet.read_table(DATA)
    records, labels = table.drop_columns(["label"]).to_pylist(), table["label"].to_pylist()
    with TemporaryDirectory() as home, Loop(settings, Path(home)) as loop:
        began = time.perf_counter()
        for row in range(rows):
            loop.predict(records[row], id=str(row))
            if row >= delay:
                loop.feedback(str(row - delay), label=labels[row - delay])
        return (2 * rows - delay) / (time.perf_counter() - began)


def speed() -> None:
    through(spec(), 1)  # compile, and warm the caches
    for mode in ("gated", "live"):
        settings = msgspec.structs.replace(spec(), mode=mode)
        result = through(settings, 22)
        print(f"file, its own log, {mode:5}    {result['events_per_second']:12,.0f} events/s"
              f"   ({result['promotions']} promotions)")  # fmt: skip
    print(f"file, every row appended    {through(spec('always'), 22)['events_per_second']:12,.0f} events/s")
    print(f"client, one call at a time  {client(spec(), 5_000):12,.0f} events/s")


def memory() -> None:
    settings = spec()
    with TemporaryDirectory() as home, Loop(settings, Path(home)) as loop:
        marks = iter([1_000_000, 2_000_000, 5_000_000, 10_000_000, sys.maxsize])
        following = next(marks)

        def show(rows: int, _: Loop) -> None:
            nonlocal following
            if rows >= following:
                print(f"{rows:12,} events   peak {peak():7.1f} MiB", flush=True)
                following = next(marks)

        loop.run(stream(-(-10_000_000 // ROWS)), show)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--memory", action="store_true")
    memory() if options.parse_args().memory else speed()
