"""The default of the linear family beside its quick column alone and AdaGrad: log loss and accuracy, one pass.

    python bench/linear_tables.py            # real streams (if present) and generated tables, half a minute

The generated tables are stationary and noisy: numeric columns of several kinds, categories, missing values, a part of
the columns informative, base rates from .1 to .7. They imitate tables that people have (readmissions, customers who
leave, incomes), and "nothing" has a label that no column knows. Each is made with three seeds. "excess" is the largest
log loss of the default above the better of the two others; the streams are read as in `bench/linear.py`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

import everlearn as el
from everlearn import metrics, schema

OPTIMIZERS = ("quick", "adagrad", "auto")
STREAMS = (
    *("elec2", "covtype20k", "insects_gradual", "hflights", "sms_spam", "hyperplane_100k", "agrawal", "phishing"),
)
# rows, numeric columns, categorical columns, most levels, share of informative columns, strength, base rate, pairs
TABLES: dict[str, tuple[int, int, int, int, float, float, float, float]] = {
    "readmission": (6000, 12, 16, 8, 0.4, 0.45, 0.46, 0.1),
    "telco": (7000, 6, 14, 4, 0.6, 1.9, 0.27, 0.5),
    "adult": (10000, 8, 8, 14, 0.7, 2.4, 0.24, 0.5),
    "shelter": (8000, 4, 8, 120, 0.9, 2.6, 0.45, 0.5),
    "maintenance": (8000, 14, 2, 3, 0.4, 5.0, 0.10, 0.5),
    "credit": (5000, 24, 0, 1, 0.3, 1.2, 0.22, 0.3),
    "wide": (4000, 46, 4, 5, 0.12, 0.9, 0.12, 0.0),
    "flags": (3000, 10, 20, 2, 0.3, 0.8, 0.70, 0.2),
    "nothing": (5000, 20, 10, 6, 0.0, 0.0, 0.35, 0.0),
}


def numeric(draw: np.random.Generator, n: int) -> Any:
    kind = draw.integers(0, 5)
    if kind == 0:
        return draw.normal(0, 1, n)
    if kind == 1:
        return np.exp(draw.normal(3, 1, n))
    if kind == 2:
        return draw.poisson(2.0, n).astype(float)
    if kind == 3:
        return np.where(draw.random(n) < 0.08, np.exp(draw.normal(7, 1, n)), 0.0)
    return (draw.random(n) < 0.1).astype(float)


def table(name: str, seed: int) -> tuple[dict[str, list[Any]], float]:
    """Return the columns of a table, and the log loss of its true probabilities."""
    n, numbers, categories, levels, share, strength, base, pairs = TABLES[name]
    draw = np.random.default_rng([seed, list(TABLES).index(name)])
    common, columns, parts = draw.normal(0, 1, n), {}, []
    for j in range(numbers):
        z = numeric(draw, n)
        if draw.random() < 0.4:
            z = z + 0.7 * z.std() * common
        if draw.random() < share:
            parts.append(draw.normal() * np.clip((z - z.mean()) / (z.std() + 1e-9), -3, 3))
        if draw.random() < 0.2:
            z = np.where(draw.random(n) < 0.1, np.nan, z)
        columns[f"n{j}"] = z.tolist()
    for j in range(categories):
        k = max(2, int(draw.integers(2, levels + 1)))
        codes = draw.choice(k, n, p=draw.dirichlet(np.full(k, 0.7)))
        if draw.random() < share:
            parts.append(draw.normal(0, 1, k)[codes])
        columns[f"c{j}"] = [f"v{code}" for code in codes]
    score = np.zeros(n)
    if parts:
        score = np.sum(parts, axis=0)
        if pairs and len(parts) > 3:
            score = score + pairs * (parts[0] * parts[1] + parts[2] * parts[3])
        score = strength * (score - score.mean()) / score.std()
    p = 1 / (1 + np.exp(-score - intercept(score, base)))
    y = draw.random(n) < p
    columns["y"] = y.astype(int).tolist()
    return columns, float(-np.where(y, np.log(p), np.log1p(-p)).mean())


def intercept(score: Any, base: float) -> float:
    """Return the intercept with which the mean probability is the base rate, by bisection."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-score - middle))).mean() < base else (low, middle)
    return low


def losses(stream: Any) -> dict[str, tuple[float, float]]:
    """Return log loss and accuracy of each optimiser."""
    (whole,) = (chunk.examples for chunk in stream.chunks(size=1_000_000))
    found = {}
    for optimizer in OPTIMIZERS:
        model = el.build({"family": "linear", "optimizer": optimizer}, schema.shape(stream.schema))
        scores = model.learn(whole.batch, whole.y, whole.weight)
        loss = metrics.losses("log_loss", scores, whole.y).mean()
        found[optimizer] = float(loss), float((scores.argmax(axis=1) == whole.y).mean())
    return found


def show(name: str, runs: list[dict[str, tuple[float, float]]], note: str = "") -> None:
    means = [[np.mean([run[o][k] for run in runs]) for o in OPTIMIZERS] for k in (0, 1)]
    excess = max(run["auto"][0] - min(run["quick"][0], run["adagrad"][0]) for run in runs)
    cells = "".join(f"{value:>9.4f}" for values in means for value in values)
    print(f"{name:<17}{cells}{excess:>+9.4f}  {note}", flush=True)


def main() -> None:
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    heads = "".join(f"{head:>9}" for head in (*OPTIMIZERS, *OPTIMIZERS, "excess"))
    print(f"{'log loss, accuracy':<17}{heads[1:]}")
    for name in STREAMS:
        path = folder / f"{name}.parquet"
        if path.exists():
            show(name, [losses(el.read(str(path), label="label"))])
        else:
            print(f"{name}: {path} is not there; skipped")
    for name in TABLES:
        runs, notes = [], []
        for seed in (11, 12, 13):
            columns, truth = table(name, seed)
            runs.append(losses(el.read(columns, label="y")))
            rate = float(np.mean(columns["y"]))
            notes.append((-rate * math.log(rate) - (1 - rate) * math.log(1 - rate), truth))
        show(name, runs, "base rate {:.4f}, truth {:.4f}".format(*np.mean(notes, axis=0)))


if __name__ == "__main__":
    main()
