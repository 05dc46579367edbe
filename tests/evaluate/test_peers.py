"""Peers as contestants: the scores of River and scikit-learn run by hand, with labels on time and late."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from river import forest, linear_model, preprocessing
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

import everlearn as el
from everlearn.evaluate import peers
from everlearn.evaluate.comparing import compare
from everlearn.evaluate.entrants import Piece, Terms


def stream(rows: int = 1200) -> el.Stream:
    return el.generate("hyperplane", rows=rows, features=4, noise=0.05, seed=2)


def scored(name: str, rows: el.Stream, delay: int = 0, chunk: int = 100_000) -> np.ndarray:
    entrant = peers.maker(name)(Terms(el.schema.shape(rows.schema), rows.schema, delay))
    both = zip(rows.chunks(size=chunk), rows.records(size=chunk), strict=True)
    return np.concatenate([entrant.step(Piece(one.examples, other.features)) for one, other in both])


@pytest.mark.parametrize("delay", [0, 17])
@pytest.mark.parametrize("name", ["river:linear", "river:arf"])
def test_river_scores_as_by_hand(name: str, delay: int) -> None:
    rows = stream(400)
    (records,) = rows.records()
    if name == "river:linear":
        model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    else:
        model = forest.ARFClassifier(seed=1)
    expected = []
    for t, x in enumerate(records.features):
        late = t - delay - 1
        if late >= 0:
            model.learn_one(records.features[late], records.labels[late])
        expected.append(model.predict_proba_one(x).get(1, 0.0) or 0.0)
    found = scored(name, rows, delay)[:, 1]
    known = np.array(expected) > 0
    assert found[known] == pytest.approx(np.array(expected)[known], rel=1e-5)


@pytest.mark.parametrize("delay", [0, 150])
def test_scikit_learn_learns_blocks_of_100_whose_labels_have_come(delay: int) -> None:
    rows = stream()
    (chunk,) = rows.chunks()
    x, y = chunk.examples.batch.dense.astype(float), chunk.examples.y.astype(int)
    model, scaler, learned = SGDClassifier(loss="log_loss", random_state=1), StandardScaler(), 0
    expected = np.full((1200, 2), 0.5)
    for begin in range(0, 1200, 100):
        if learned:
            expected[begin : begin + 100] = model.predict_proba(scaler.transform(x[begin : begin + 100]))
        while begin + 100 - delay - learned >= 100:
            block = slice(learned, learned + 100)
            scaler.partial_fit(x[block])
            model.partial_fit(scaler.transform(x[block]), y[block], classes=[0, 1])
            learned += 100
    assert scored("sklearn:sgd", rows, delay) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", peers.PEERS)
def test_scores_do_not_depend_on_the_pieces(name: str) -> None:
    rows = el.generate("agrawal", rows=500, seed=1)  # with categories
    one, other = scored(name, rows), scored(name, rows, chunk=37)
    assert (one == other).all()
    assert one.shape == (500, 2)
    assert one.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in peers.PEERS if name != "sklearn:bayes"])
def test_peers_take_numbers_as_labels_and_text_as_features(name: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=600)
    words = random.choice(["good thing", "bad thing", "no word of it"], 600)
    y = 2 * x + (words == "good thing") + 0.1 * random.normal(size=600)
    rows = el.read({"x": x, "words": words, "y": y}, label="y", schema=el.spec.Schema(
        label="y", task="regression", fields={"x": "numeric", "words": "text"}))  # fmt: skip
    result = compare({name: peers.maker(name)}, rows, chunk=100)
    assert result.failures == {}
    assert result.costs[name].reads in ("encoded rows as dicts", "encoded rows in blocks of 100")
    assert result.reports[name].metrics["mae"] < 4


def test_many_classes_and_the_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = el.generate("led", rows=800, noise=0.1)
    result = compare({name: peers.maker(name) for name in peers.PEERS}, rows, chunk=200)
    assert result.failures == {}
    assert min(report.metrics["accuracy"] for report in result.reports.values()) > 0.2
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "river" else real(name))
    assert peers.installed() == list(peers.SKLEARN)
