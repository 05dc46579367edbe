"""Several learners and one: throughput, processor time of each process, and accuracy.

    python bench/partitions.py                     # all of it: about four minutes
    python bench/partitions.py --only throughput
    python bench/partitions.py --only costly
    python bench/partitions.py --only accuracy --every 4096 8192 16384

Throughput: the linear model on rows that repeat a stream until there are half a million, read by each learner from the
encoded rows of its partition, from a CSV file, and from a Parquet file. One learner reads, learns and scores the same
rows in this process, without partitions. What is timed begins when processes have started and kernels are loaded.
Printed are microseconds of a row, the least of some passes of both in turn: of the clock, of the processor time of the
busiest process, and of that of all processes. The last two depend little on what else the machine does; at 1.7, the
busiest process of two takes 1 / 1.7 of the time of one.

Costly: `auto` on 300,000 generated rows by `el.prequential`, start of the processes included.

Accuracy: prequential, over all rows, beside one learner, on streams with neighbours that are alike (Elec2, covtype) and
without (SEA, Agrawal, a moving hyperplane), for several distances of merges, and for rows dealt by a hash of a column.
The streams are read from $EVERLEARN_DATA, or from the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

import everlearn as el
from everlearn import schema
from everlearn.evaluate.partitioned import Costs, PartitionedScores, Scoring, learned
from everlearn.evaluate.scoring import NaiveScores, Scored, model_of, pieces, task_of
from everlearn.model import own_loss
from everlearn.records import Examples
from everlearn.scale.partitions.dealing import Dealing
from everlearn.stream import Stream

DATA = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).parents[2] / "shared" / "data"))
ROWS = 500_000
GENERATED: dict[str, dict[str, Any]] = {
    "sea": {"drift": "sudden", "concepts": [0, 1, 2], "positions": [33_000, 66_000], "noise": 0.05},
    "agrawal": {"drift": "gradual", "concepts": [1, 4], "positions": [50_000], "width": 10_000},
    "hyperplane": {"change": 0.001, "noise": 0.05},
}


def opened(name: str) -> Stream:
    """Return a stream by its name."""
    if name in GENERATED:
        return el.generate(name, 100_000, seed=1, **GENERATED[name])
    return el.read(DATA / f"{name}.parquet", label="label")


def run(family: str, stream: Any, spec: schema.Schema, dealing: Dealing) -> tuple[dict[str, float], Costs]:
    """Learn a stream in partitions; return the metrics and the costs."""
    shape = schema.shape(spec)
    model = model_of(family, shape)
    task, classes = task_of({**shape, **model.spec})
    own = own_loss(model)
    scores = PartitionedScores(Scoring(task=task, classes=classes, own=own))
    _, costs = learned(model, stream, dealing, scores)
    return scores.scored.results()["metrics"], costs


class Pass(NamedTuple):
    """Seconds that one pass took: of the clock, of the busiest process, and of all processes; and the rows of these."""

    wall: float
    busiest: float
    everything: float
    rows: int

    def of_a_row(self) -> list[float]:
        """Return the three in microseconds of a row."""
        return [seconds / self.rows * 1e6 for seconds in self[:3]]


def alone(stream: Any, spec: schema.Schema) -> Pass:
    """Learn and score a stream in this process, without partitions, and time what follows the first 8,192 rows."""
    shape = schema.shape(spec)
    model = model_of("linear", shape)
    task, classes = task_of({**shape, **model.spec})
    own = own_loss(model)
    scored, naive = Scored(task, classes, own, 0.01, ""), NaiveScores(task, classes, 0, own, None)
    rows = first = 0
    for examples, _ in pieces(stream, 8192, ""):
        if rows and not first:
            first, began, clock = rows, time.perf_counter(), time.process_time()
        scores = model.learn(examples.batch, examples.y, examples.weight)
        scored.add(examples, scores, rows, naive.score(examples, rows))
        rows += len(examples.y)
    spent = time.process_time() - clock
    return Pass(time.perf_counter() - began, spent, spent, rows - first)


def together(stream: Any, spec: schema.Schema, count: int) -> Pass:
    """Learn and score a stream in partitions, and time what follows the first barrier."""
    costs = run("linear", stream, spec, Dealing(count=count))[1]
    return Pass(costs.wall, max(costs.partitions), sum(costs.partitions) + costs.own, costs.rows)


def throughput(name: str, best: int) -> None:
    """Print the microseconds of a row with one learner and with two, and the ratio."""
    table = pq.read_table(DATA / f"{name}.parquet")
    whole = pa.concat_tables([table] * -(-ROWS // len(table))).slice(0, ROWS)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "rows.csv", Path(folder) / "rows.parquet"]
        pyarrow.csv.write_csv(whole, paths[0])
        pq.write_table(whole, paths[1])
        known = el.read(DATA / f"{name}.parquet", label="label").schema
        encoded: list[Examples] = [chunk.examples for chunk in el.read(paths[1], schema=known).chunks()]

        def opened_as(source: str) -> Any:
            return encoded if source == "encoded" else el.read(paths[source == "parquet"], schema=known)

        for source in ("encoded", "csv", "parquet"):
            one, two = [], []
            for _ in range(best):  # in turn, so that both meet what else the machine does
                one.append(alone(opened_as(source), known).of_a_row())
                two.append(together(opened_as(source), known, 2).of_a_row())
            for label, found in (("one process", one), ("two learners", two)):
                wall, busiest, everything = (min(column) for column in zip(*found, strict=True))
                print(
                    f"{name:10} {source:8} {label:12}: wall {wall:.3f} us a row; CPU of the busiest process "
                    f"{busiest:.3f}, of all {everything:.3f}",
                    flush=True,
                )
            least = (
                [min(column) for column in zip(*one, strict=True)],
                [min(column) for column in zip(*two, strict=True)],
            )
            wall, busiest, everything = (first / second for first, second in zip(*least, strict=True))
            print(
                f"{name:10} {source:8} two / one   : {wall:.2f} by the wall, {busiest:.2f} by the busiest process, "
                f"{2 * everything:.2f} by all processes on two cores",
                flush=True,
            )


def costly() -> None:
    """Print the time and accuracy of the automatic model with one learner and with two."""
    stream, times = el.generate("rbf", 300_000), {}
    el.prequential("auto", el.generate("rbf", 2000))  # loads the kernels
    for count in (1, 2):
        began = time.perf_counter()
        found = el.prequential("auto", stream, partitions=count)
        times[count] = time.perf_counter() - began
        print(
            f"auto, {count} learner{'s' * (count > 1)}: {times[count]:.1f} s, accuracy {found.metrics['accuracy']:.4f}"
        )
    print(f"auto: two learners / one: {times[1] / times[2]:.2f}")


def accuracy(family: str, name: str, everies: list[int]) -> None:
    """Print the accuracy of one learner, and of two and four, beside it."""
    stream = opened(name)
    began = time.perf_counter()
    alone = el.prequential(family, stream).metrics
    print(f"{name:10} {family:7} one learner: accuracy {alone['accuracy']:.4f}, log loss {alone['log_loss']:.4f}")
    for label, dealing in _dealings(stream, everies):
        found, costs = run(family, stream, stream.schema, dealing)
        apart = found["accuracy"] - alone["accuracy"]
        print(
            f"{name:10} {family:7} {label:34} accuracy {found['accuracy']:.4f} ({apart:+.4f}), log loss "
            f"{found['log_loss']:.4f}, CPU {' '.join(f'{seconds:.2f}' for seconds in costs.partitions)} s",
            flush=True,
        )
    print(f"{name:10} {family:7} {time.perf_counter() - began:.0f} s in all", flush=True)


def _dealings(stream: Stream, everies: list[int]) -> Iterator[tuple[str, Dealing]]:
    for every in everies:
        yield f"two, merged each {every:,} rows", Dealing(count=2, every=every)
    yield "four, merged each 8,192 rows", Dealing(count=4)
    field = next(iter(stream.schema.fields))
    yield f"two, dealt by a hash of {field}", Dealing(count=2, key=field)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["throughput", "costly", "accuracy"])
    parser.add_argument("--every", type=int, nargs="*", default=[2048, 8192, 32768])
    parser.add_argument("--best", type=int, default=3, help="passes of which the quickest counts")
    chosen = parser.parse_args()
    if chosen.only in (None, "throughput"):
        for name in ("elec2", "covtype20k"):
            throughput(name, chosen.best)
    if chosen.only in (None, "costly"):
        costly()
    if chosen.only in (None, "accuracy"):
        for name in ("elec2", "covtype20k", *GENERATED):
            accuracy("linear", name, chosen.every)
        for name in ("elec2", "covtype20k"):
            accuracy("auto", name, [8192])


if __name__ == "__main__":
    main()
