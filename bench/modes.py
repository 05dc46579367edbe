"""What serves in each mode, beside the bare learner and the baselines, on every stream: accuracy and log loss.

    python bench/modes.py [NAME ...] [--warm-start 0.0]

One pass over each stream with the defaults of `everlearn init` and `everlearn run`. "learner" is the model alone,
predicting each row before it learns it. "live" and "gated" are the champions of a loop in that mode: what users would
have received; "snapshots" is gated with `gate.promote = "snapshot"`. "frozen" is a model that stopped learning after
`gate.minimum` rows. Scores of the loop and the learner count every row; those of the frozen model all rows after it
stopped. "gap" is the part of the way from the frozen model to the learner that a champion has come, in log loss (for
numbers, in the mean absolute error). The streams are the Parquet files in
$EVERLEARN_DATA, or in the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

import everlearn as el
from everlearn import metrics, model
from everlearn.loop.loop import Loop
from everlearn.spec import GateSpec, Spec
from everlearn.stream import Stream, read

FOLDER = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MODES: dict[str, dict[str, Any]] = {
    "live": {"mode": "live"},
    "gated": {"mode": "gated"},
    "snapshots": {"mode": "gated", "gate": GateSpec(promote="snapshot")},
}
NAIVE = ("last_label", "majority", "mean", "seasonal")
COLUMNS = ("accuracy", "log_loss", "mae")


def frozen(stream: Stream) -> dict[str, float]:
    """Return the metrics of a model that learns the first `gate.minimum` rows and then stops."""
    one, rows = el.build({"family": "linear"}, el.schema.shape(stream.schema)), GateSpec().minimum
    task, classes = stream.schema.task, len(stream.schema.classes)
    scored, seen = metrics.start(task, classes), 0
    for chunk in stream.chunks():
        examples = chunk.examples
        n = len(examples.y)
        used = min(n, max(0, rows - seen))
        first, rest = model.cut(examples, 0, used), model.cut(examples, used, n)
        one.learn(first.batch, first.y, first.weight)
        metrics.update(scored, task, one.predict(rest.batch), rest.y, rest.weight, max(0, seen - rows))
        seen += n
    return metrics.report(scored, task)


def rows(path: Path, warm_start: float) -> Iterator[tuple[str, dict[str, float], dict[str, Any]]]:
    """Yield the name, the metrics and the counts of each line of the table of one stream."""
    stream = read(path, label="label")
    report = el.prequential(el.build({"family": "linear"}, el.schema.shape(stream.schema)), stream)
    yield "learner", report.metrics, {}
    yield "frozen", frozen(stream), {}
    naive: dict[str, dict[str, float]] = {}
    for name, changes in MODES.items():
        settings = msgspec.structs.replace(
            Spec(schema=stream.schema, model={"family": "linear"}), warm_start=warm_start, **changes
        )
        with TemporaryDirectory() as home, Loop(settings, Path(home)) as loop:
            result = loop.run(stream)
        yield name, result["metrics"]["champion"], result
        naive = naive or {each: found for each, found in result["metrics"].items() if each in NAIVE}
    for name, found in naive.items():
        yield name.replace("_", " "), found, {}


def gap(found: dict[str, float], start: dict[str, float], learner: dict[str, float]) -> float:
    """Return how far a champion has come from the frozen start (0) to the learner (1), in its loss.

    NaN where the learner is no better than the frozen start.
    """
    name = "log_loss" if "log_loss" in learner else "mae"
    way = start[name] - learner[name]
    return (start[name] - found[name]) / way if way > 0.0 else math.nan


def main() -> None:
    """Print one table for each stream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of streams, without .parquet; default: all")
    parser.add_argument(
        "--warm-start", type=float, default=0.0, help="a share, or a number of rows, learned offline first"
    )
    options = parser.parse_args()
    for path in sorted(FOLDER.glob("*.parquet")):
        if options.names and path.stem not in options.names:
            continue
        print(
            f"\n{path.stem:16}{'accuracy':>10}{'log loss':>10}{'mae':>10}{'gap':>8}{'promotions':>12}{'rollbacks':>11}"
        )
        known: dict[str, dict[str, float]] = {}
        for name, found, counts in rows(path, options.warm_start):
            known[name] = found
            line = "".join(f"{found[column]:10.3f}" if column in found else f"{'':10}" for column in COLUMNS)
            if counts:
                way = gap(found, known["frozen"], known["learner"])
                line += f"{way:8.2f}{counts['promotions']:>12}{counts['rollbacks']:>11}"
            print(f"  {name:14}{line}", flush=True)


if __name__ == "__main__":
    main()
