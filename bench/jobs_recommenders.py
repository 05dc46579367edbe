"""Recommenders beside popularity, the truth and River: recall@10 and NDCG@10 in time order, and errors of ratings.

    python bench/jobs_recommenders.py               # some minutes
    python bench/jobs_recommenders.py --rows 20000

Streams are generated, so that the best possible recall is known. Each choice is ranked among all items known so far,
before it is learned. Ratings are predicted and then learned, by ours and by River's BiasedMF and FMRegressor in the
same run; factorization machines are also compared on the categories of hflights. Rates are rows per CPU second; those
of ranking count the scoring of all items and of popularity.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import everlearn as el
from jobs_learners import load, ours, river, show

STREAMS: dict[str, dict[str, Any]] = {
    "still": {"users": 500, "items": 300, "change": 0.0},
    "fashion": {"users": 500, "items": 300, "change": 1.0},
    "wide": {"users": 2000, "items": 1000, "change": 0.5},
}
SPECS: dict[str, dict[str, Any]] = {
    "popular": {"family": "popular"},
    "popular, all time": {"family": "popular", "memory": 0},
    "popular, 1,000 rows": {"family": "popular", "memory": 1000},
    "matrix": {"family": "matrix"},
    "matrix, bpr": {"family": "matrix", "loss": "bpr"},
}


def choices(rows: int, seeds: int) -> None:
    """Print recall and NDCG of each model on each stream, means over seeds, of known users and new ones."""
    for name, settings in STREAMS.items():
        streams = [el.generate("choices", rows=rows, seed=seed, **settings) for seed in range(seeds)]
        best = np.mean([list(stream.generator.best().values()) for stream in streams], axis=0)
        print(f"| choices, {name} | the truth | {best[0]:.4f} | {best[1]:.4f} | | |", flush=True)
        for label, spec in SPECS.items():
            start = time.process_time()
            reports = [el.rank(spec, stream) for stream in streams]
            seconds = (time.process_time() - start) / seeds
            recall, ndcg = (np.mean([one.metrics[metric] for one in reports]) for metric in ("recall", "ndcg"))
            cold = np.nanmean([one.cold["recall"] for one in reports])
            figures = f"{recall:.4f} | {ndcg:.4f} | new users {cold:.4f} | {rows / seconds:,.0f} rows/s"
            print(f"| choices, {name} | {label} | {figures} |", flush=True)


def ratings(rows: int) -> None:
    """Print the root mean squared errors and rates of ours and River's."""
    from river import facto, reco

    for name, settings in STREAMS.items():
        stream = el.generate("ratings", rows=rows, seed=0, **settings)
        columns, examples = stream.generator.columns(), next(stream.chunks(0, rows)).examples
        y = columns["label"]
        for family in ("matrix", "factorization", "popular", "linear"):
            model = el.build({"family": family, "task": "regression", "dense": 0, "hashed": 1 << stream.schema.bits})
            start = time.process_time()
            found = model.learn(examples.batch, examples.y, examples.weight)[:, 0]
            error(name, family, found, y, time.process_time() - start)
        users, items = columns["user"].tolist(), columns["item"].tolist()
        for label, peer in (
            ("River BiasedMF", reco.BiasedMF(n_factors=16, seed=1)),
            ("River FMRegressor", facto.FMRegressor(n_factors=8, seed=1)),
        ):
            found, start = np.zeros(rows), time.process_time()
            for i, (user, item, rating) in enumerate(zip(users, items, y.tolist(), strict=True)):
                if label == "River BiasedMF":
                    found[i] = peer.predict_one(user, item)
                    peer.learn_one(user, item, rating)
                else:
                    x = {"user": f"u{user}", "item": f"i{item}"}
                    found[i] = peer.predict_one(x)
                    peer.learn_one(x, rating)
            error(name, label, found, y, time.process_time() - start)


def error(name: str, label: str, found: Any, y: Any, seconds: float) -> None:
    print(
        f"| ratings, {name} | {label} | RMSE {np.mean((found - y) ** 2) ** 0.5:.4f} | {len(y) / seconds:,.0f} rows/s |",
        flush=True,
    )


def categories() -> None:
    """Print accuracy, log loss and rates of factorization machines on flights and spam."""
    from river import facto

    for name, most in (("hflights", 20_000), ("sms_spam", 0)):
        rows = load(name, most)
        for family in ("factorization", "linear"):
            show("classes", name, family, rows, *ours(family, rows))
        show("classes", name, "River FMClassifier", rows, *river(lambda: facto.FMClassifier(n_factors=8, seed=1), rows))


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    choices(given.rows, given.seeds)
    ratings(given.rows)
    categories()


if __name__ == "__main__":
    main()
