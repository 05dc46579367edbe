"""LightGBM, retrained on a sliding window each hour, day or week, beside `auto`, which learns each row as it comes.

    python bench/retrain.py                       # all streams, a quarter of an hour
    python bench/retrain.py --stream elec2 --budget 600
    python bench/retrain.py --picture retrain.png

What many teams do instead of continual learning: 100 trees by the defaults of LightGBM, one thread, trained on the rows
of the last four weeks, and serving until the next training. The rows of a stream stand for its times where it has some
(elec2: 2 an hour; hflights: 25.6 an hour, on average); any other stream stands for eight weeks. Both are scored from
the second week on, on the same rows, by accuracy and by log loss (of probabilities of at least .001). CPU time is that
of training and predicting, without reading and encoding the rows.

Where all trainings of a cell would take more than `--budget` CPU seconds, only each n-th period is trained and scored:
the time is then multiplied by n, and both are scored on these periods. The columns "of" and "rows" have the share of
periods that ran and the rows that were scored: few rows make a noisy figure. The streams are read from $EVERLEARN_DATA,
or from the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import everlearn as el
from everlearn.records import Examples
from everlearn.schema import shape

HOURS = {"elec2": 2.0, "hflights": 223_874 / (365 * 24)}  # rows an hour, of streams that have a time
STREAMS = ("elec2", "hflights", "covtype20k", "insects_gradual", "agrawal", "hyperplane_100k", "kdd99_10pct")
WEEKS = 8  # that any other stream stands for
WINDOW = 4  # weeks of rows on which a model is trained
FLOOR = 0.001  # lowest probability that counts
PERIODS = {"hourly": 1, "daily": 24, "weekly": 168}  # hours


@dataclass(frozen=True)
class Stream:
    """A stream in the form that each side takes: encoded examples, and a matrix with codes for categories."""

    name: str
    examples: Examples
    shape: dict[str, Any]
    matrix: Any
    categories: list[int]
    hour: float  # rows

    @property
    def y(self) -> Any:
        return self.examples.y.astype(np.int64)


@dataclass(frozen=True)
class Cell:
    """One cadence on one stream: mean figures over the scored rows, of the retrained model and of `auto`."""

    cadence: str
    accuracy: float
    log_loss: float
    seconds: float
    share: float
    rows: int
    auto_accuracy: float
    auto_log_loss: float


def load(name: str) -> Stream:
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / f"{name}.parquet")
    if name == "kdd99_10pct":
        table = table.drop_columns(["attack"])
    stream = el.read(table, label="label")
    (chunk,) = stream.chunks(size=table.num_rows)
    columns, categories = [], []
    for field, kind in stream.schema.fields.items():
        column = table[field].combine_chunks()
        if kind in ("numeric", "boolean"):
            columns.append(np.asarray(column.cast(pa.float64()), np.float64))
        else:
            categories.append(len(columns))
            columns.append(np.asarray(column.dictionary_encode().indices, np.float64))
    hour = HOURS.get(name, table.num_rows / (WEEKS * 7 * 24))
    return Stream(name, chunk.examples, dict(shape(stream.schema)), np.column_stack(columns), categories, hour)


def auto(stream: Stream) -> tuple[Any, float]:
    """Return the probabilities of `auto`, each made before its label, and the CPU seconds."""
    el.build({"family": "auto"}, stream.shape).learn(*_rows(stream.examples, 0, 50))  # loads the kernels
    model = el.build({"family": "auto"}, stream.shape)
    began = time.process_time()
    parts = [model.learn(*_rows(stream.examples, at, at + 4096)) for at in range(0, len(stream.y), 4096)]
    return np.concatenate(parts), time.process_time() - began


def _rows(examples: Examples, begin: int, end: int) -> tuple[Any, Any, Any]:
    piece = el.model.cut(examples, begin, min(end, len(examples.y)))
    return piece.batch, piece.y, piece.weight


def train(stream: Stream, begin: int, end: int) -> Any:
    """Return a model of LightGBM trained on rows, and its classes."""
    found, codes = np.unique(stream.y[begin:end], return_inverse=True)
    if len(found) < 2:
        return None, found
    settings = {"objective": "binary"} if len(found) == 2 else {"objective": "multiclass", "num_class": len(found)}
    data = lightgbm.Dataset(stream.matrix[begin:end], codes, categorical_feature=stream.categories)
    return lightgbm.train({**settings, "num_threads": 1, "verbosity": -1, "seed": 1}, data, 100), found


def predict(model: Any, found: Any, rows: Any, classes: int) -> Any:
    proba = np.zeros((len(rows), classes))
    if model is None:
        proba[:, found] = 1.0
        return proba
    scores = model.predict(rows, num_threads=1)
    proba[:, found] = np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores
    return proba


def retrained(stream: Stream, cadence: str, live: Any, budget: float) -> Cell:
    week, period = round(168 * stream.hour), max(stream.hour * PERIODS[cadence], 1.0)
    borders = np.unique(np.round(np.arange(week, len(stream.y) + period, period)).astype(int))
    borders = np.minimum(borders, len(stream.y))
    spans = [(a, b) for a, b in itertools.pairwise(borders.tolist()) if b > a]
    began = time.process_time()
    middle = spans[len(spans) // 2][0]
    train(stream, max(0, middle - WINDOW * week), middle)
    step = max(1, math.ceil((time.process_time() - began) * len(spans) / budget))
    chosen, parts, seconds = spans[step // 2 :: step] or spans[:1], [], 0.0
    for begin, end in chosen:
        began = time.process_time()
        model, found = train(stream, max(0, begin - WINDOW * week), begin)
        parts.append(predict(model, found, stream.matrix[begin:end], live.shape[1]))
        seconds += time.process_time() - began
    rows = np.concatenate([np.arange(begin, end) for begin, end in chosen])
    share = len(chosen) / len(spans)
    theirs, ours = quality(np.concatenate(parts), stream.y[rows]), quality(live[rows], stream.y[rows])
    return Cell(cadence, *theirs, seconds / share, share, len(rows), *ours)


def quality(proba: Any, y: Any) -> tuple[float, float]:
    hit = proba[np.arange(len(y)), y]
    return float((proba.argmax(axis=1) == y).mean()), float(-np.log(np.maximum(hit, FLOOR)).mean())


def measured(name: str, budget: float) -> tuple[Stream, float, list[Cell]]:
    stream = load(name)
    live, seconds = auto(stream)
    whole = quality(live[round(168 * stream.hour) :], stream.y[round(168 * stream.hour) :])
    hour = f"{stream.hour:.3g} rows an hour, {24 * stream.hour:,.0f} a day, {168 * stream.hour:,.0f} a week"
    print(f"\n{name}: {len(stream.y):,} rows, {hour}", flush=True)
    print(
        f"{'':10}{'accuracy':>10}{'auto':>8}{'log loss':>10}{'auto':>8}{'CPU s':>10}{'auto x':>8}{'of':>7}{'rows':>9}"
    )
    print(f"{'auto':10}{whole[0]:10.4f}{'':8}{whole[1]:10.4f}{'':8}{seconds:10.2f}{1:8.1f}{1:7.1%}{len(stream.y):9,}")
    cells = []
    for cadence in ("weekly", "daily", "hourly"):
        cell = retrained(stream, cadence, live, budget)
        cells.append(cell)
        print(
            f"{cadence:10}{cell.accuracy:10.4f}{cell.auto_accuracy:8.4f}{cell.log_loss:10.4f}{cell.auto_log_loss:8.4f}"
            f"{cell.seconds:10.1f}{cell.seconds / seconds:8.1f}{cell.share:7.1%}"
            f"{cell.rows:9,}",
            flush=True,
        )
    return stream, seconds, cells


def draw(found: list[tuple[Stream, float, list[Cell]]], path: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(4, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.3 * lines + 0.8), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Retraining LightGBM, and learning each row: error against CPU seconds", fontweight="bold")
    for place, (stream, seconds, cells) in enumerate(found):
        axes = figure.add_subplot(lines, columns, place + 1)
        ours = cells[0].auto_accuracy
        axes.scatter([seconds], [1 - ours], s=80, color="#0072B2", zorder=3)
        axes.annotate("auto", (seconds, 1 - ours), xytext=(7, -3), textcoords="offset points", color="#0072B2")
        axes.plot([cell.seconds for cell in cells], [1 - cell.accuracy for cell in cells], "o-", color="#D55E00")
        for cell in cells:
            at = (cell.seconds, 1 - cell.accuracy)
            axes.annotate(cell.cadence, at, xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
        axes.set_xscale("log")
        axes.margins(0.25)
        axes.set_title(stream.name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("CPU seconds", fontsize=8)
        axes.set_ylabel("error", fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stream", choices=STREAMS, action="append")
    parser.add_argument("--budget", type=float, default=40.0, help="CPU seconds for each cadence of a stream")
    parser.add_argument("--picture", default="")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    found = [measured(name, given.budget) for name in given.stream or STREAMS]
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
