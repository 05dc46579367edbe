"""Online k-means: planted clusters, Lloyd's of scikit-learn, drift, dead centres, missing values, hashed entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans

from everlearn.errors import ConfigError
from everlearn.evaluate.clustering import adjusted_rand_index
from everlearn.model import build
from everlearn.records import Batch

CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])


def numbers(dense: Any) -> Batch:
    n = len(dense)
    return Batch(np.asarray(dense, np.float32), np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))


def of(k: int, **spec: Any) -> Any:
    return build({"family": "kmeans", "task": "multiclass", "classes": k, "dense": 2, **spec})


def learn(model: Any, rows: Batch, y: Any = None) -> Any:
    n = len(rows)
    return model.learn(rows, np.full(n, np.nan) if y is None else y, np.ones(n, np.float32)).argmax(axis=1)


def planted(n: int, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, n)
    return CENTRES[y] + random.normal(0, 0.7, (n, 2)), y


@pytest.mark.parametrize("seed", range(5))
def test_planted_clusters_are_found_without_labels(seed: int) -> None:
    x, y = planted(2000, seed)
    found = learn(of(4, seed=seed), numbers(x))
    assert adjusted_rand_index(found[80:], y[80:].astype(float)) > 0.99


def test_labels_have_no_effect() -> None:
    x, y = planted(500)
    one, other = of(4), of(4)
    learn(one, numbers(x))
    learn(other, numbers(x), y.astype(float) % 3)
    assert all((one.arrays[name] == other.arrays[name]).all() for name in one.arrays)


def test_first_centres_are_as_good_as_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(160, 2)) * [1.0, 30.0]
    model = of(8, memory=0)
    learn(model, numbers(x))  # 20 for each cluster: the centres are placed, and no row came since
    scaled = x / x.std(axis=0)
    centres = model.arrays["centres"] / x.std(axis=0)
    own = ((scaled[:, None] - centres) ** 2).sum(axis=2).min(axis=1).sum()
    assert own < 1.05 * KMeans(8, n_init=10, random_state=0).fit(scaled).inertia_


def test_a_row_moves_its_nearest_centre_by_its_share() -> None:
    x, _ = planted(400)
    model = of(4, memory=100.0)
    learn(model, numbers(x))
    before = {name: array.copy() for name, array in model.arrays.items()}
    row = np.float32([[7.0, 9.0]])
    cluster = int(learn(model, numbers(row))[0])
    counts = 0.99 * before["counts"]
    counts[cluster] += 1.0
    expected = before["centres"].copy()
    expected[cluster] += (row[0] - expected[cluster]) / counts[cluster]
    assert model.arrays["counts"] == pytest.approx(counts)
    assert model.arrays["centres"] == pytest.approx(expected)


def test_centres_follow_drift() -> None:
    x, y = planted(8000)
    x += np.linspace(0, 20, 8000)[:, None] * [1.0, 0.0]
    truth = CENTRES + np.array([20.0, 0.0])
    for memory, fits in ((300.0, True), (0.0, False)):
        model = of(4, memory=memory)
        found = learn(model, numbers(x))
        away = np.abs(model.arrays["centres"][:, None] - truth).sum(axis=2).min(axis=1)
        assert bool(away.max() < 2.5) is fits
        if fits:
            assert adjusted_rand_index(found[-2000:], y[-2000:].astype(float)) > 0.95


def test_a_centre_without_rows_moves_to_a_new_cluster() -> None:
    x, y = planted(4000)
    x[2000:] = np.where((y[2000:] == 0)[:, None], x[2000:] + 30.0, x[2000:])
    model = of(4, memory=300.0)
    found = learn(model, numbers(x))
    assert adjusted_rand_index(found[3500:], y[3500:].astype(float)) > 0.95


def test_a_missing_number_decides_nothing() -> None:
    x, _ = planted(1000)
    model = of(4)
    learn(model, numbers(x))
    proba = model.predict(numbers([[8.0, np.nan], [np.nan, np.nan]]))
    near = np.argsort(np.abs(model.arrays["centres"][:, 0] - 8.0))[:2]
    assert proba[0, near].sum() > 0.99
    assert proba[1] == pytest.approx(np.full(4, 0.25))


def test_shares_are_alike_until_centres_are_placed() -> None:
    x, _ = planted(81)
    model = of(4)
    scores = model.learn(numbers(x), np.zeros(81), np.ones(81, np.float32))
    assert (scores[:80] == 0.25).all()
    assert scores[80].max() > 0.9


def test_hashed_entries_make_clusters_too() -> None:
    random = np.random.default_rng(2)
    y = random.integers(0, 3, 1500)
    kept = np.where(random.random((1500, 6)) < 0.8, y[:, None], random.integers(0, 3, (1500, 6)))
    entries = kept + 3 * np.arange(6)  # the values of six fields, mostly those of the cluster
    rows = Batch(np.zeros((1500, 0), "f4"), np.arange(0, 9001, 6), entries.ravel().astype("i4"), np.ones(9000, "f4"))
    found = learn(of(3, dense=0, hashed=64), rows)
    assert adjusted_rand_index(found[60:], y[60:].astype(float)) > 0.9


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"task": "binary"}, "task: got 'binary'; expected 'multiclass', a class for each cluster"),
        ({"classes": 1}, "classes: got 1; expected at least 2"),
        ({"memory": 1.0}, "memory: got 1.0; expected 0, or 2 and more"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build({"family": "kmeans", "task": "multiclass", "dense": 1, "classes": 3, **changed})
    assert words in str(refused.value)
