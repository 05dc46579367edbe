"""Silhouette and adjusted Rand index against scikit-learn, and clusters of a stream in windows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score

import everlearn as el
from everlearn.errors import InputError
from everlearn.evaluate.clustering import adjusted_rand_index, cluster, silhouette


def test_both_metrics_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    for k in (2, 5):
        owner, labels = random.integers(0, k, 200), random.integers(0, 3, 200)
        labels = np.where(random.random(200) < 0.6, owner % 3, labels)
        x = random.normal(size=(200, 3)) * [1, 5, 0.1] + 2.0 * owner[:, None]
        owner[0] = 99  # alone in its cluster
        assert silhouette(x, owner) == pytest.approx(silhouette_score((x - x.mean(0)) / x.std(0), owner), abs=1e-9)
        expected = adjusted_rand_score(labels, owner)
        assert adjusted_rand_index(owner, labels.astype(float)) == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_judged_is_nan() -> None:
    x = np.arange(10.0)[:, None]
    assert np.isnan(silhouette(x, np.zeros(10, np.int64)))
    assert np.isnan(silhouette(x, np.arange(10)))
    assert np.isnan(silhouette(np.zeros((10, 0)), np.arange(10) % 2))
    assert np.isnan(adjusted_rand_index(np.arange(10) % 2, np.full(10, np.nan)))


def test_a_missing_number_is_the_mean_of_its_column() -> None:
    x = np.random.default_rng(1).normal(size=(50, 2))
    owner, holes = (x[:, 0] > 0).astype(int), x.copy()
    holes[::5, 1] = np.nan
    filled = np.where(np.isnan(holes), np.nanmean(holes, axis=0), holes)
    assert silhouette(holes, owner) == pytest.approx(silhouette(filled, owner), abs=0.05)


def test_windows_of_a_stream_are_judged_before_they_are_learned() -> None:
    stream = el.generate("rbf", rows=4500, classes=3, centres=3, features=4, seed=1)
    report = cluster("kmeans", stream, window=1000)
    assert report.curve["x"].tolist() == [1000, 2000, 3000, 4000, 4500]
    rows = next(stream.chunks(0, 4500)).examples
    model = el.build({"family": "kmeans"}, {"task": "multiclass", "dense": 4, "hashed": 0, "classes": 3})
    found = model.learn(rows.batch, rows.y, rows.weight).argmax(axis=1)
    last = slice(4000, 4500)
    assert report.curve["ari"][-1] == pytest.approx(adjusted_rand_score(rows.y[last], found[last]))
    assert report.curve["silhouette"][-1] == pytest.approx(silhouette(rows.batch.dense[last], found[last]))
    assert report.sizes == pytest.approx(np.bincount(found, minlength=3) / 4500)
    assert report.metrics["ari"] == pytest.approx(report.curve["ari"].mean())


def test_a_stream_of_two_classes_or_of_numbers_has_clusters_too() -> None:
    assert len(cluster("kmeans", el.generate("sea", rows=1000)).sizes) == 2
    ratings = el.generate("ratings", rows=1000)
    report = cluster({"family": "kmeans", "classes": 4}, ratings)
    assert len(report.sizes) == 4
    assert np.isnan(report.metrics["ari"])


def test_a_small_window_is_refused() -> None:
    with pytest.raises(InputError, match="window: got 5; expected at least 10 rows"):
        cluster("kmeans", el.generate("sea", rows=100), window=5)
