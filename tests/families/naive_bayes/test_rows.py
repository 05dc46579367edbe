"""Naive Bayes against scikit-learn and numpy: densities, shares of entries, fading counts, tempered likelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB, MultinomialNB

from everlearn.families.naive_bayes.rows import TEMPER
from everlearn.model import build
from everlearn.records import Batch


def numbers(dense: Any) -> Batch:
    n = len(dense)
    return Batch(np.asarray(dense, np.float32), np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))


def learned(rows: Batch, y: Any, **spec: Any) -> Any:
    model = build({"family": "naive_bayes", "task": "multiclass", "classes": int(max(y)) + 1, **spec})
    model.learn(rows, np.asarray(y, float), np.ones(len(y), np.float32))
    return model


def untempered(model: Any, rows: Batch) -> Any:
    model.arrays["state"][:, TEMPER] = 0.0
    return model.predict(rows)


def test_numbers_have_the_densities_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 900)
    x = random.normal(y[:, None] * [0.5, 1.0, 0.0], [1.0, 2.0, 0.3]).astype(np.float32)
    model = learned(numbers(x), y, dense=3, memory=0, shrink=1e-6)
    expected = GaussianNB(var_smoothing=0.0).fit(x, y).predict_proba(x)
    assert np.abs(untempered(model, numbers(x)) - expected).max() < 2e-3  # its prior has no row for each class


def test_entries_have_the_shares_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    y = random.integers(0, 2, 600)
    words = np.where(random.random((600, 5)) < 0.6, random.integers(0, 20, (600, 5)) + 10 * y[:, None], 30)
    rows = Batch(
        np.zeros((600, 0), np.float32), np.arange(0, 3001, 5), words.ravel().astype(np.int32), np.ones(3000, "f4")
    )
    counts = np.zeros((600, 31))
    np.add.at(counts, (np.arange(600)[:, None], words), 1)
    model = learned(rows, y, dense=0, hashed=64, memory=0)
    expected = MultinomialNB().fit(counts, y).predict_proba(counts)
    assert model.arrays["totals"][0, -1] == 31  # distinct words
    assert np.abs(untempered(model, rows) - expected).max() < 2e-3


def test_two_values_are_a_share_and_not_a_density() -> None:
    y = np.arange(400) % 2
    x = np.where(np.arange(400) % 10 < 7, y, 1 - y)[:, None] * 5.0
    model = learned(numbers(x), y, dense=1, memory=0, shrink=1e-6)
    expected = [
        ((x[y == k] == 5.0).sum() + (x == 5.0).mean()) / (200 + 1) for k in (0, 1)
    ]  # one row of the stream's shares
    proba = untempered(model, numbers([[5.0], [3.0]]))
    assert proba[0, 1] == pytest.approx(expected[1] / sum(expected), abs=1e-4)
    assert proba[1].tolist() == [0.5, 0.5]  # a third value, which was never seen, says nothing


def test_old_rows_fade_and_counts_do_not_swell() -> None:
    random = np.random.default_rng(2)
    n, memory = 6000, 200.0  # the weight of a row grows by 1e9 every 4,135 rows
    x, y = random.normal(size=(n, 1)) + 10.0, random.integers(0, 2, n)
    x[4500:] += 5.0
    model = learned(numbers(x), y, dense=1, memory=memory)
    x = x.astype(np.float32).astype(float)[:, 0]
    share = (1.0 - 1.0 / memory) ** np.arange(n)[::-1]
    for k in (0, 1):
        mean = np.average(x[y == k], weights=share[y == k])
        spread = np.average((x[y == k] - mean) ** 2, weights=share[y == k])
        weight, found, squares = model.arrays["columns"][1, k, :, 0]
        assert (found, squares / weight) == pytest.approx((mean, spread), rel=1e-6)
        assert model.arrays["columns"][0, k, 1, 0] == pytest.approx(x[y == k].mean(), rel=1e-6)
    assert model.arrays["counts"].max() < 1e12


def test_a_half_that_fades_follows_drift_and_a_half_that_does_not_keeps_words() -> None:
    random = np.random.default_rng(3)
    y = random.integers(0, 2, 4000)
    side = np.where(np.arange(4000) < 2000, y, 1 - y)  # the classes swap
    x = random.normal(3.0 * side[:, None], 1.0)
    weight, right = np.ones(4000, np.float32), {}
    for memory in (0.0, 200.0):
        model = build({"family": "naive_bayes", "task": "binary", "dense": 1, "memory": memory})
        right[memory] = float((model.learn(numbers(x), y.astype(float), weight).argmax(1) == y)[2500:].mean())
    assert right[200.0] > 0.9
    assert right[0.0] < 0.6


def test_copies_of_one_column_are_not_believed_twice() -> None:
    random = np.random.default_rng(4)
    y = random.integers(0, 2, 6000)
    x = np.repeat(random.normal(y[:, None], 1.0), 8, axis=1)  # eight copies
    model = build({"family": "naive_bayes", "task": "binary", "dense": 8})
    proba = model.learn(numbers(x), y.astype(float), np.ones(6000, np.float32))
    loss = -np.log(np.maximum(proba[np.arange(6000), y], 1e-15))[3000:].mean()
    single = 1.0 / (1.0 + np.exp(-(x[:, 0] - 0.5)))
    best = -np.log(np.where(y == 1, single, 1.0 - single))[3000:].mean()
    assert best <= loss < best + 0.03
    assert 0.1 < np.exp(model.arrays["state"][0, TEMPER]) < 0.16


def test_missing_values_say_nothing() -> None:
    y = np.arange(300) % 2
    model = learned(numbers(np.stack([y * 4.0, y * 2.0 + 0.1 * (np.arange(300) % 3)], 1)), y, dense=2)
    assert model.predict(numbers([[np.nan, np.nan]]))[0].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert model.predict(numbers([[4.0, np.nan]]))[0, 1] > 0.9
