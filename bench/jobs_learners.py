"""Naive Bayes, passive-aggressive, nearest neighbours and k-means beside River and scikit-learn, in one run.

    python bench/jobs_learners.py                        # all jobs; some minutes
    python bench/jobs_learners.py --job neighbours --stream elec2 --rows 5000

One pass, prequential, with the defaults of each side. Each line has accuracy, log loss and rows per CPU second; of
clusters, the mean silhouette and adjusted Rand index of windows of 1,000 rows. River's models of numbers get a standard
scaler where they need one. scikit-learn predicts and then learns blocks of 100 rows. Numbers reach River as dicts that
were made beforehand; texts and categories as dicts of counts, whose making is not timed on either side. The streams
are read from $EVERLEARN_DATA, or from the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import everlearn as el
from everlearn.evaluate.clustering import adjusted_rand_index, silhouette
from everlearn.records import Batch
from everlearn.schema import Encoder
from everlearn.spec import Schema

STREAMS = {"elec2": 0, "covtype20k": 0, "insects_gradual": 0, "phishing": 0, "sms_spam": 0, "hflights": 50_000}
NUMBERS = ("elec2", "covtype20k", "insects_gradual", "phishing")
BLOCK, WINDOW = 100, 1000


class Rows(NamedTuple):
    """The rows of a stream: encoded, as dicts for River, and as a matrix where all fields are numbers."""

    batch: Batch
    dicts: list[dict[Any, float]]
    y: Any
    shape: dict[str, Any]


def load(name: str, most: int) -> Rows:
    """Return the rows of a stream, at most `most` of them (0: all of `STREAMS`)."""
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / f"{name}.parquet")
    table = table.slice(0, most or STREAMS[name] or None)
    kinds = {
        column: "text" if column == "text" else "categorical" if pa.types.is_string(table[column].type) else "numeric"
        for column in table.column_names
        if column != "label"
    }
    if name == "hflights":  # categories alone, since River's models of counts would take a distance as a count
        kinds |= dict.fromkeys(("Month", "DayofMonth", "DayOfWeek", "FlightNum"), "categorical")
        kinds = {column: kind for column, kind in kinds.items() if kind == "categorical"}
    classes = tuple(sorted(set(table["label"].to_pylist())))
    task: Any = "binary" if len(classes) == 2 else "multiclass"
    encoder = Encoder(Schema(label="label", task=task, classes=classes, fields=kinds))
    batch, _ = encoder.columns({column: table[column] for column in table.column_names}, len(table))
    y, _ = encoder.labels(table["label"], len(table))
    dicts = list(as_dicts(batch))
    return Rows(batch, dicts, y.astype(int), dict(encoder.shape))


def as_dicts(batch: Batch) -> Iterator[dict[Any, float]]:
    """Yield rows as dicts: columns by number, hashed entries as counts."""
    for i, row in enumerate(batch.dense.tolist()):
        entries = batch.indices[batch.indptr[i] : batch.indptr[i + 1]].tolist()
        yield {j: v for j, v in enumerate(row) if v == v} | {f"h{k}": n for k, n in Counter(entries).items()}


def ours(family: str, rows: Rows) -> tuple[Any, float]:
    """Return probabilities and CPU seconds of a family."""
    model, weight = el.build({"family": family}, rows.shape), np.ones(len(rows.y), np.float32)
    start = time.process_time()
    return model.learn(rows.batch, rows.y.astype(float), weight), time.process_time() - start


def river(make: Callable[[], Any], rows: Rows) -> tuple[Any, float]:
    """Return probabilities (1 for the answer of a model without any) and CPU seconds of a model of River."""
    model, classes = make(), rows.shape["classes"]
    found, labels = np.zeros((len(rows.y), classes)), rows.y.tolist()
    start = time.process_time()
    for i, x in enumerate(rows.dicts):
        try:
            for label, p in model.predict_proba_one(x).items():
                found[i, int(label)] = p
        except NotImplementedError:
            label = model.predict_one(x)
            if label is not None:
                found[i, int(label)] = 1.0
        model.learn_one(x, labels[i] if classes > 2 else bool(labels[i]))
    seconds = time.process_time() - start
    return np.where(found.sum(axis=1, keepdims=True) > 0, found, 1.0 / classes), seconds


def sklearn(make: Callable[[], Any], rows: Rows, scaled: bool) -> tuple[Any, float]:
    """Return probabilities and CPU seconds of a model of scikit-learn, in blocks of rows."""
    from scipy.sparse import csr_matrix
    from sklearn.preprocessing import StandardScaler

    model, scaler, classes = make(), StandardScaler(), rows.shape["classes"]
    x: Any = np.nan_to_num(rows.batch.dense)
    if rows.shape["hashed"]:
        batch = rows.batch
        x = csr_matrix((batch.values, batch.indices, batch.indptr), (len(rows.y), rows.shape["hashed"]))
    found, start = np.full((len(rows.y), classes), 1.0 / classes), time.process_time()
    for at in range(0, len(rows.y), BLOCK):
        part, labels = x[at : at + BLOCK], rows.y[at : at + BLOCK]
        if scaled:
            part = scaler.partial_fit(part).transform(part) if at == 0 else scaler.transform(part)
        if at:
            try:
                found[at : at + BLOCK] = model.predict_proba(part)
            except AttributeError:
                found[at : at + BLOCK] = np.eye(classes)[model.predict(part)]
        model.partial_fit(part, labels, classes=np.arange(classes))
        if scaled and at:
            scaler.partial_fit(x[at : at + BLOCK])
    return found, time.process_time() - start


def peers(job: str, rows: Rows, with_numbers: bool) -> Iterator[tuple[str, Any, float]]:
    """Yield the peers of a job: name, probabilities, CPU seconds."""
    from river import linear_model, multiclass, naive_bayes, neighbors, preprocessing
    from sklearn import naive_bayes as sk_bayes
    from sklearn.linear_model import SGDClassifier

    if job == "naive_bayes" and with_numbers:
        yield "River GaussianNB", *river(naive_bayes.GaussianNB, rows)
        yield "sklearn GaussianNB", *sklearn(sk_bayes.GaussianNB, rows, scaled=False)
    elif job == "naive_bayes":
        yield "River MultinomialNB", *river(naive_bayes.MultinomialNB, rows)
        yield "sklearn MultinomialNB", *sklearn(sk_bayes.MultinomialNB, rows, scaled=False)
    elif job == "passive_aggressive":
        several = rows.shape["classes"] > 2

        def aggressive(c: float) -> Any:
            inner: Any = linear_model.PAClassifier(C=c, mode=2)
            inner = multiclass.OneVsRestClassifier(inner) if several else inner
            return preprocessing.StandardScaler() | inner if with_numbers else inner

        yield "River PA, C 1", *river(lambda: aggressive(1.0), rows)
        yield "River PA, C .01", *river(lambda: aggressive(0.01), rows)
        settings = {"loss": "hinge", "penalty": None, "learning_rate": "pa1", "eta0": 1.0}
        yield "sklearn PA-I, C 1", *sklearn(lambda: SGDClassifier(**settings), rows, scaled=with_numbers)
    else:
        for name, engine in (
            ("lazy", neighbors.LazySearch(window_size=1000)),
            ("SWINN", neighbors.SWINN(maxlen=1000, seed=1)),
        ):
            if name == "SWINN" and len(rows.y) > 6000:
                continue  # slower than the exact search
            model = preprocessing.StandardScaler() | neighbors.KNNClassifier(n_neighbors=5, engine=engine)
            yield f"River KNN, {name}", *river(lambda model=model: model, rows)


def clusters(name: str, rows: Rows) -> None:
    """Print the clusters of a stream of numbers, ours and River's."""
    from river import cluster, preprocessing

    k, weight = rows.shape["classes"], np.ones(len(rows.y), np.float32)
    model = el.build({"family": "kmeans"}, {**rows.shape, "task": "multiclass"})
    start = time.process_time()
    found = model.learn(rows.batch, rows.y.astype(float), weight).argmax(axis=1)
    judged(name, "ours", rows, found, time.process_time() - start)
    made = {
        "River KMeans": cluster.KMeans(n_clusters=k, seed=1),
        "River KMeans, halflife .05": cluster.KMeans(n_clusters=k, halflife=0.05, seed=1),
        "River STREAMKMeans": cluster.STREAMKMeans(n_clusters=k, chunk_size=200, seed=1),
    }
    for label, inner in made.items():
        peer, found, start = (
            preprocessing.StandardScaler() | inner,
            np.zeros(len(rows.y), np.int64),
            time.process_time(),
        )
        for i, x in enumerate(rows.dicts):
            if i >= 200:  # River's STREAMKMeans has no centres before
                found[i] = peer.predict_one(x)
            peer.learn_one(x)
        judged(name, label, rows, found, time.process_time() - start)


def judged(name: str, label: str, rows: Rows, found: Any, seconds: float) -> None:
    cuts = range(0, len(rows.y) - WINDOW + 1, WINDOW)
    shape_of = [silhouette(rows.batch.dense[at : at + WINDOW : 2], found[at : at + WINDOW : 2]) for at in cuts]
    agreed = [adjusted_rand_index(found[at : at + WINDOW], rows.y[at : at + WINDOW].astype(float)) for at in cuts]
    line = f"silhouette {np.nanmean(shape_of):.4f} | ARI {np.nanmean(agreed):.4f} | {len(rows.y) / seconds:,.0f} rows/s"
    print(f"| kmeans | {name} | {label} | {line} |", flush=True)


def main() -> None:
    """Print a line for each job, stream and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = ("naive_bayes", "passive_aggressive", "neighbours", "kmeans")
    parser.add_argument("--job", choices=jobs, nargs="*", default=list(jobs))
    parser.add_argument("--stream", choices=STREAMS, nargs="*", default=list(STREAMS))
    parser.add_argument("--rows", type=int, default=0, help="rows of each stream; 0: all")
    given = parser.parse_args()
    for name in given.stream:
        rows = load(name, given.rows)
        with_numbers = name in NUMBERS
        for job in given.job:
            if job == "kmeans":
                if with_numbers:
                    clusters(name, rows)
                continue
            if job == "neighbours" and not with_numbers:
                continue  # River compares each key of two dicts in Python
            show(job, name, "ours", rows, *ours(job, rows))
            for label, found, seconds in peers(job, rows, with_numbers):
                show(job, name, label, rows, found, seconds)


def show(job: str, name: str, label: str, rows: Rows, found: Any, seconds: float) -> None:
    """Print accuracy, log loss (a probability counts as .001 at least) and the rate."""
    right = np.maximum(found[np.arange(len(rows.y)), rows.y], 0.001)
    accuracy, loss = (found.argmax(axis=1) == rows.y).mean(), -np.log(right).mean()
    print(
        f"| {job} | {name} | {label} | {accuracy:.4f} | {loss:.4f} | {len(rows.y) / seconds:,.0f} rows/s |", flush=True
    )


if __name__ == "__main__":
    main()
