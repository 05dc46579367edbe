"""Nearest neighbours against a brute-force search in numpy, scikit-learn, missing values and a moving window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from everlearn.model import build
from everlearn.records import Batch


def numbers(dense: Any) -> Batch:
    n = len(dense)
    return Batch(np.asarray(dense, np.float32), np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))


def of(task: str = "binary", **spec: Any) -> Any:
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[task]
    return build({"family": "neighbours", "task": task, "classes": classes, "dense": 0, **spec})


def learn(model: Any, rows: Batch, y: Any, weight: Any = None) -> Any:
    weight = np.ones(len(y)) if weight is None else weight
    return model.learn(rows, np.asarray(y, float), np.asarray(weight, np.float32))


def by_hand(x: Any, y: Any, weight: Any, query: Any, k: int) -> Any:
    """Return the probabilities that the rows x give a query: votes by distance, and .3 votes of the window's shares."""
    spread = np.average((x - np.average(x, 0, weight)) ** 2, 0, weight) ** 0.5
    distance = (((x - query) / spread) ** 2).sum(axis=1)
    near = np.argsort(distance, kind="stable")[:k]
    vote = 1.0 / (distance[near] + 0.02 * distance[near][-1])
    vote = k * vote / vote.sum() * weight[near]
    share = (np.bincount(y, weight, 3) + 1 / 3) / (weight.sum() + 1.0)
    return (np.bincount(y[near], vote, 3) + 0.3 * share) / (vote.sum() + 0.3)


@pytest.mark.parametrize("k", [1, 7])
def test_votes_are_those_of_a_search_by_hand(k: int) -> None:
    random = np.random.default_rng(0)
    x, weight = random.normal(size=(200, 4)) * [1, 10, 100, 0.1], random.choice([0.5, 1.0, 2.0], 200)
    y = random.integers(0, 3, 200)
    model = of("multiclass", dense=4, nearest=k)
    learn(model, numbers(x), y, weight)
    queries = random.normal(size=(50, 4)) * [1, 10, 100, 0.1]
    expected = [by_hand(x, y, weight, query, k) for query in queries]
    assert model.predict(numbers(queries)) == pytest.approx(np.array(expected), abs=1e-4)


def test_it_decides_as_scikit_learn_does() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(500, 5)).astype(np.float32), random.integers(0, 2, 500)
    model = of(dense=5, nearest=1)
    learn(model, numbers(x), y)
    queries = random.normal(size=(300, 5)).astype(np.float32)
    expected = KNeighborsClassifier(1).fit(x / x.std(0), y).predict(queries / x.std(0))
    assert (model.predict(numbers(queries)).argmax(axis=1) == expected).all()


def test_only_the_window_counts() -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(300, 2)), random.integers(0, 3, 300)
    model, fresh = (of("multiclass", dense=2, window=100, nearest=5) for _ in range(2))
    learn(model, numbers(x), y)
    learn(fresh, numbers(x[200:]), y[200:])
    fresh.arrays["moments"][:] = model.arrays["moments"]  # those are of the whole stream
    assert (model.predict(numbers(x)) == fresh.predict(numbers(x))).all()
    assert model.arrays["sums"] == pytest.approx(np.bincount(y[200:], minlength=3))


def test_hashed_entries_are_compared_as_vectors() -> None:
    random = np.random.default_rng(3)
    n, space = 120, 40
    matrix = np.where(random.random((n, space)) < 0.15, random.choice([1.0, 2.0, -0.5], (n, space)), 0.0)
    y = random.integers(0, 2, n)
    rows = sparse(matrix)
    model = of(hashed=space, nearest=1)
    learn(model, rows, y)
    queries = np.where(random.random((60, space)) < 0.15, 1.0, 0.0)
    distance = ((queries[:, None, :] - matrix[None]) ** 2).sum(axis=2)
    newest = n - 1 - np.argmin(distance[:, ::-1], axis=1)  # the newest of the nearest
    assert (model.predict(sparse(queries)).argmax(axis=1) == y[newest]).all()


def sparse(matrix: Any) -> Batch:
    indptr = np.concatenate([[0], np.cumsum((matrix != 0).sum(axis=1))]).astype(np.int64)
    places = np.nonzero(matrix)
    return Batch(np.zeros((len(matrix), 0), "f4"), indptr, places[1].astype(np.int32), matrix[places].astype("f4"))


def test_entries_beyond_the_first_do_not_count() -> None:
    model = of(hashed=8, nearest=1, entries=1)
    rows = sparse(np.eye(8)[[0, 3]] + np.eye(8)[[5, 5]])
    learn(model, rows, [0, 1])
    assert model.predict(sparse(np.eye(8)[[0, 3]])).argmax(axis=1).tolist() == [0, 1]
    assert model.arrays["entries"].tolist()[:2] == [[0], [3]]


def test_numbers_are_averaged_over_neighbours() -> None:
    x = np.linspace(0, 6, 2000)[np.random.default_rng(4).permutation(2000)]
    model = of("regression", dense=1, window=2000)
    learn(model, numbers(x[:, None]), 100.0 + np.sin(x))
    queries = np.linspace(0.1, 5.9, 100)
    assert model.predict(numbers(queries[:, None]))[:, 0] == pytest.approx(100.0 + np.sin(queries), abs=0.01)


def test_a_missing_number_is_the_mean() -> None:
    x, y = np.array([[-1.0], [0.0], [1.0]] * 20), [0, 1, 0] * 20
    model = of(dense=1, nearest=1)
    learn(model, numbers(x), y)
    assert model.predict(numbers([[np.nan], [1.0]])).argmax(axis=1).tolist() == [1, 0]
    learn(model, numbers([[np.nan]]), [0])
    assert model.arrays["window"][0, 60] == pytest.approx(0.0, abs=1e-6)


def test_before_the_first_label_all_classes_are_alike() -> None:
    assert of("multiclass", dense=1).predict(numbers([[1.0]]))[0] == pytest.approx(np.full(3, 1 / 3))
    assert of("regression", dense=1).predict(numbers([[1.0]])).tolist() == [[0.0]]
