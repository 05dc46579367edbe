"""The linear family beside River, scikit-learn, Vowpal Wabbit and a bare kernel: speed and quality in one run.

    python bench/linear.py                   # elec2, sms_spam and hflights, two or three minutes
    python bench/linear.py --stream elec2

One pass, prequential: each row is predicted, then learned, with the defaults of each library. Elec2 is read as numbers
in memory, hflights as encoded rows in memory (for River as dicts, for Vowpal Wabbit as lines of text), and sms_spam as
text, so that the time includes each library's encoding. Each figure is the best of several passes; compare the ratios,
not figures of different runs. "ours" is `prequential` with its metrics; "ours, learn only" is the model alone, and
"quick, learn only" its quick column alone; the "bare kernel" is one function with the arithmetic of that column and
nothing else: no missing values, no checks, no other options. Vowpal Wabbit's command line is timed on a file of half a
million lines in its format (the stream, repeated), without writing predictions and less its start-up. The streams are
read from $EVERLEARN_DATA, or from the folder shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import everlearn as el
from everlearn import metrics, model, schema
from everlearn._jit import kernel
from everlearn.records import Examples

STREAMS = ("elec2", "sms_spam", "hflights")
BLOCK = 100  # rows that scikit-learn predicts and then learns at a time
VW_LINES = 500_000  # lines for timing its command line: the stream, repeated
WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Data:
    """One stream as a table, and in the form that each learner takes."""

    name: str
    table: pa.Table
    stream: Any
    examples: Examples
    shape: dict[str, Any]

    @property
    def y(self) -> Any:
        return self.examples.y

    @property
    def text(self) -> bool:
        return "text" in self.stream.schema.fields.values()


@dataclass(frozen=True)
class Result:
    """The result of one learner: seconds for the whole stream, and the probability of class 1 for each row."""

    name: str
    seconds: float
    proba: Any


def load(name: str) -> Data:
    folder = Path(os.environ.get("EVERLEARN_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    table = pq.read_table(folder / f"{name}.parquet")
    fields = {field: "categorical" for field in table.column_names if field != "label"}
    fields = {"sms_spam": {"text": "text"}, "hflights": fields}.get(name, dict.fromkeys(fields, "numeric"))
    described = el.spec.Schema(label="label", task="binary", fields=fields, classes=(0, 1))
    stream = el.read(table, schema=described)
    (whole,) = (chunk.examples for chunk in stream.chunks(size=table.num_rows))
    return Data(name, table, stream, whole, schema.shape(described))


def best(run: Callable[[], Any], seconds: float = 2.0) -> tuple[float, Any]:
    """Return the shortest of the passes that fit into `seconds`, at least one, and the result of the last one."""
    shortest, began = math.inf, time.perf_counter()
    while True:
        start = time.perf_counter()
        predicted = run()
        shortest = min(shortest, time.perf_counter() - start)
        if time.perf_counter() - began > seconds:
            return shortest, predicted


def ours(data: Data) -> Iterator[Result]:
    def fresh(optimizer: str = "auto") -> model.Model:
        return model.build({"family": "linear", "optimizer": optimizer}, data.shape)

    def learn(optimizer: str = "auto") -> Any:
        return fresh(optimizer).learn(data.examples.batch, data.y, data.examples.weight)

    source = data.stream if data.text else data.examples
    proba = learn()[:, 1]  # compiles the kernels, and predicts as the loop does
    seconds, _ = best(lambda: el.prequential(fresh(), source))
    yield Result("ours", seconds, proba)
    seconds, _ = best(learn)
    yield Result("ours, learn only" + (" (encoded)" if data.text else ""), seconds, proba)
    proba = learn("quick")[:, 1]
    seconds, _ = best(lambda: learn("quick"))
    yield Result("quick, learn only" + (" (encoded)" if data.text else ""), seconds, proba)
    if not data.text:
        run = kernel(bare_dense if data.name == "elec2" else bare_hashed)
        arguments = bare_arguments(data)
        run(*arguments)
        seconds, predicted = best(lambda: run(*arguments))
        yield Result("bare kernel", seconds, predicted)


def bare_arguments(data: Data) -> tuple[Any, ...]:
    batch = data.examples.batch
    if data.name == "elec2":
        return batch.dense, data.y
    return batch.indptr, batch.indices, data.y, data.shape["hashed"]


def bare_dense(dense: Any, y: Any) -> Any:
    """Standardise, predict, and take one damped step: the arithmetic of "quick" on dense rows without gaps."""
    n, d = dense.shape
    w, mean, m2, x = np.zeros(d + 1), np.zeros(d), np.zeros(d), np.zeros(d)
    predicted = np.empty(n, np.float32)
    for i in range(n):
        count, margin, norm = i + 1.0, w[d], 1.0
        for j in range(d):
            delta = dense[i, j] - mean[j]
            mean[j] += delta / count
            m2[j] += delta * (dense[i, j] - mean[j])
            z = (dense[i, j] - mean[j]) * math.sqrt(count / m2[j]) if m2[j] > 0 else 0.0
            x[j] = min(max(z, -4.0), 4.0)
        for j in range(d):
            margin += w[j] * x[j]
            norm += x[j] * x[j]
        p = 1 / (1 + math.exp(-margin))
        predicted[i] = p
        move = 0.05 * (p - y[i]) / (1 + 0.25 * 0.05 * norm)
        for j in range(d):
            w[j] -= move * x[j]
        w[d] -= move
    return predicted


def bare_hashed(indptr: Any, indices: Any, y: Any, size: int) -> Any:
    """Run the arithmetic of "quick" on hashed entries of value 1."""
    weight, share = np.zeros(size, np.float32), np.ones(size, np.float32)
    predicted, intercept = np.empty(len(y), np.float32), 0.0
    for i in range(len(y)):
        entries = range(indptr[i], indptr[i + 1])
        margin, reach = intercept, 0.05
        for e in entries:
            margin += weight[indices[e]]
            reach += 0.2 * share[indices[e]]
        p = 1 / (1 + math.exp(-margin))
        predicted[i] = p
        g = np.float32(p - y[i])
        move = np.float32(g / (1 + 0.25 * reach))
        for e in entries:
            a = indices[e]
            r = share[a]
            weight[a] -= np.float32(0.2) * r * move
            u = r * r * r * r * g * g
            if u < 0.25:
                share[a] = r * (np.float32(1) - np.float32(0.25) * u + np.float32(5 / 32) * u * u)
            else:
                share[a] = r / math.sqrt(math.sqrt(np.float32(1) + u))
        intercept -= 0.05 * move
    return predicted


def river(data: Data) -> Iterator[Result]:
    from river import compose, linear_model, preprocessing

    names = [name for name in data.table.column_names if name != "label"]
    columns = [data.table[name].to_pylist() for name in names]
    labels = [bool(label) for label in data.y]
    rows: list[Any] = columns[0]
    if data.name == "elec2":
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    elif not data.text:
        rows = [{f"{name}={v}": 1 for name, v in zip(names, row, strict=True)} for row in zip(*columns, strict=True)]

    def run() -> Any:
        learner: Any = linear_model.LogisticRegression()
        if data.name == "elec2":
            learner = compose.Pipeline(preprocessing.StandardScaler(), learner)
        predicted = np.empty(len(rows))
        for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
            features = tokens(row) if data.text else row
            predicted[i] = learner.predict_proba_one(features).get(True, 0.5)
            learner.learn_one(features, label)
        return predicted

    yield Result("River", *best(run, 0.0))


def tokens(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for word in WORDS.findall(text.lower()):
        counts[word] = counts.get(word, 0) + 1
    return counts


def scikit_learn(data: Data) -> Iterator[Result]:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.linear_model import SGDClassifier

    batch, y = data.examples.batch, data.y
    rows: Any = batch.dense.astype(np.float64)
    if data.name == "hflights":
        rows = csr_matrix((batch.values, batch.indices, batch.indptr), shape=(len(y), data.shape["hashed"]))
    vectorizer = HashingVectorizer(n_features=1 << 18, alternate_sign=False, norm=None, token_pattern=WORDS.pattern)
    texts = data.table["text"].to_pylist() if data.text else []

    def run() -> Any:
        learner = SGDClassifier(loss="log_loss")
        predicted = np.full(len(y), 0.5)
        for begin in range(0, len(y), BLOCK):
            piece = slice(begin, begin + BLOCK)
            x = vectorizer.transform(texts[piece]) if data.text else rows[piece]
            if begin:
                predicted[piece] = learner.predict_proba(x)[:, 1]
            learner.partial_fit(x, y[piece], classes=[0.0, 1.0])
        return predicted

    yield Result(f"scikit-learn partial_fit, blocks of {BLOCK}", *best(run, 0.0))


def vowpal_wabbit(data: Data) -> Iterator[Result]:
    import vowpalwabbit

    labels = ["1" if label else "-1" for label in data.y]
    texts = data.table["text"].to_pylist() if data.text else []
    lines = [] if data.text else [f"{label} | {row}" for label, row in zip(labels, vw_rows(data), strict=True)]

    def vw_lines() -> list[str]:
        if lines:
            return lines
        words = (" ".join(map(vw_word, WORDS.findall(text.lower()))) for text in texts)
        return [f"{label} | {row}" for label, row in zip(labels, words, strict=True)]

    def run() -> Any:
        learner = vowpalwabbit.Workspace("--quiet --loss_function logistic -b 18")
        margins = np.empty(len(labels))
        for i, line in enumerate(vw_lines()):
            example = learner.parse(line)
            learner.learn(example)
            margins[i] = example.get_simplelabel_prediction()
            learner.finish_example(example)
        learner.finish()
        return 1 / (1 + np.exp(-margins))

    seconds, predicted = best(run, 0.0)
    yield Result("Vowpal Wabbit, Python API", seconds, predicted)
    with tempfile.TemporaryDirectory() as folder:
        full, empty = Path(folder) / "full.vw", Path(folder) / "empty.vw"
        copies = -(-VW_LINES // len(labels))  # so that start-up, which is subtracted, is a small part
        full.write_text(("\n".join(vw_lines()) + "\n") * copies)
        empty.write_text("")
        whole = [(vw_command(full), vw_command(empty)) for _ in range(5)]  # in turns, under the same load
        net = (min(took for took, _ in whole) - min(took for _, took in whole)) / copies
        note = ", its text format" if data.text else ""
        yield Result(f"Vowpal Wabbit, command line net{note}", net, predicted)


def vw_command(path: Path) -> float:
    command = [sys.executable, "-m", "vowpalwabbit", "-d", str(path), "--loss_function", "logistic", "-b", "18"]
    start = time.perf_counter()
    subprocess.run([*command, "--quiet"], check=True, capture_output=True)
    return time.perf_counter() - start


def vw_rows(data: Data) -> Iterator[str]:
    names = [name for name in data.table.column_names if name != "label"]
    columns = [data.table[name].to_pylist() for name in names]
    mark = ":" if data.name == "elec2" else "="
    for row in zip(*columns, strict=True):
        yield " ".join(f"{name}{mark}{value}" for name, value in zip(names, row, strict=True))


def vw_word(word: str) -> str:
    """Replace the two characters with a special meaning in the format."""
    return {":": "COLON", "|": "BAR"}.get(word, word)


PEERS = {"river": river, "sklearn": scikit_learn, "vowpalwabbit": vowpal_wabbit}


def judged(data: Data, proba: Any) -> dict[str, float]:
    scores = np.stack([1 - proba, proba], axis=1).astype(np.float32)
    sums = metrics.start("binary", 2)
    metrics.update(sums, "binary", scores, data.y, data.examples.weight, 0)
    return metrics.report(sums, "binary")


def compare(name: str) -> None:
    data = load(name)
    n = len(data.y)
    results = list(ours(data))
    for package, peer in PEERS.items():
        if importlib.util.find_spec(package):
            results += peer(data)
        else:
            print(f"{package} is not installed: skipped")
    print(f"\n{name}: {n:,} rows\n{'':<46}{'rows/s':>12}{'ours is':>9}{'accuracy':>10}{'kappa-T':>9}{'log loss':>10}")
    for result in results:
        found = judged(data, result.proba)
        ratio = f"{result.seconds / results[0].seconds:.2f}x"
        quality = f"{found['accuracy']:>10.4f}{found['kappa_t']:>9.3f}{found['log_loss']:>10.4f}"
        print(f"{result.name:<46}{n / result.seconds:>12,.0f}{ratio:>9}{quality}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--stream", choices=STREAMS, action="append")
    for name in arguments.parse_args().stream or STREAMS:
        compare(name)


if __name__ == "__main__":
    main()
