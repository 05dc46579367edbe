"""Predictions against a forest in plain Python, all prunings of a small tree, and River's forest."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.mondrian import layout
from everlearn.families.mondrian.settings import PRIOR
from tests.support.mondrian import forest_of, mondrian_splits, taught
from tests.support.mondrian_reference import MondrianReference, brute_force, reference_splits
from tests.support.trees import batch_of, boxes

FLOOR = 1e-4


@pytest.mark.parametrize("kind", ["plain", "missing", "weights", "units"])
def test_a_forest_is_that_of_the_reference(kind: str) -> None:
    x, y = boxes(400, columns=3, classes=3, seed=2)
    weight = np.ones(len(x), np.float32)
    if kind == "missing":
        x[np.random.default_rng(1).random(x.shape) < 0.15] = np.nan
    elif kind == "weights":
        weight = np.random.default_rng(1).choice(np.array([0.5, 1.0, 3.0], np.float32), len(x))
    elif kind == "units":
        x *= np.array([1000.0, 1.0, 0.001], np.float32)
    ours = forest_of(3, 3, trees=2, drift=False, seed=5)
    theirs = MondrianReference(3, 3, 2, seed=5)
    expected = [
        theirs.learn(row, int(label), float(one)) for row, label, one in zip(x.astype(float), y, weight, strict=True)
    ]
    got = ours.learn(batch_of(x), y, weight)
    for t in range(2):
        splits, right = mondrian_splits(ours, t), reference_splits(theirs.roots[t])
        assert len(right) > 30
        assert [column for column, _ in splits] == [column for column, _ in right]
        np.testing.assert_allclose([cut for _, cut in splits], [cut for _, cut in right], rtol=1e-6)
    np.testing.assert_allclose(got, (1.0 - FLOOR) * np.array(expected) + FLOOR / 3, atol=1e-6)


def test_the_prediction_is_that_of_all_prunings() -> None:
    x, y = boxes(14, columns=2, seed=3)
    ours, theirs = forest_of(2, trees=1, drift=False), MondrianReference(2, 2, 1)
    taught(ours, x, y)
    for row, label in zip(x.astype(float), y, strict=True):
        theirs.learn(row, int(label))
    root = theirs.roots[0]
    assert root is not None
    assert len(reference_splits(root)) >= 5
    new = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    expected = np.array([brute_force(theirs, root, row) for row in new.astype(float)])
    np.testing.assert_allclose(ours.predict(batch_of(new)), (1.0 - FLOOR) * expected + FLOOR / 2, atol=1e-6)


def test_accuracy_is_that_of_rivers_forest() -> None:
    forest = pytest.importorskip("river.forest")
    x, y = boxes(1500, classes=4, seed=3)
    peer = forest.AMFClassifier(n_estimators=10, use_aggregation=True, dirichlet=PRIOR / 4, seed=1)
    right = 0
    for row, label in zip(x.tolist(), y.astype(int).tolist(), strict=True):
        features = dict(enumerate(row))
        right += peer.predict_one(features) == label
        peer.learn_one(features, label)
    scores = [taught(forest_of(4, 4, nodes=20_000, drift=False, seed=seed), x, y) for seed in range(3)]
    accuracy = np.mean([(score.argmax(1) == y).mean() for score in scores])
    assert abs(accuracy - right / 1500) < 0.015  # the deviation of one such accuracy is .003 over seeds


def test_odds_stay_finite_and_forget_what_is_certain() -> None:
    x, y = boxes(3000, classes=2, seed=4)
    model = forest_of(4, trees=2, drift=False)
    for _ in range(3):
        model.learn(batch_of(x), y, np.full(len(x), 100.0, np.float32))
    odds = model.arrays["beliefs"][:, :, layout.ODDS]
    assert odds.max() > 1e90
    assert odds.max() <= 1e100
    assert np.isfinite(model.predict(batch_of(x))).all()
