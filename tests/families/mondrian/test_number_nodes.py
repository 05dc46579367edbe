"""Forests of numbers against one in plain Python, all prunings of a small tree, closed forms, and River's forest."""

from __future__ import annotations

import numpy as np
import pytest

from everlearn.families.mondrian import layout
from tests.support.mondrian import check_nodes, mondrian_splits, number_forest, taught, waves
from tests.support.mondrian_number_reference import NumberReference, brute_number
from tests.support.mondrian_reference import reference_splits
from tests.support.trees import batch_of


@pytest.mark.parametrize("kind", ["squared", "weights", "units", "absolute", "quantile"])
def test_a_forest_of_numbers_is_that_of_the_reference(kind: str) -> None:
    x, y = waves(300, seed=2)
    weight = np.ones(len(x), np.float32)
    if kind == "weights":
        weight = np.random.default_rng(1).choice(np.array([0.5, 1.0, 3.0], np.float32), len(x))
    elif kind == "units":
        x *= np.array([1000.0, 1.0, 0.001], np.float32)
    losses = {"absolute": {"loss": "absolute"}, "quantile": {"loss": "quantile", "loss_parameter": 0.9}}
    ours = number_forest(3, trees=2, drift=False, seed=5, **losses.get(kind, {}))
    theirs = NumberReference(3, 2, seed=5, quantile={"absolute": 0.5, "quantile": 0.9}.get(kind, 0.0))
    rows = zip(x.astype(float), y, weight, strict=True)
    expected = [theirs.learn(row, float(label), float(one)) for row, label, one in rows]
    got = ours.learn(batch_of(x), y, weight)[:, 0]
    for t in range(2):
        splits, right = mondrian_splits(ours, t), reference_splits(theirs.roots[t])  # type: ignore[arg-type]
        assert len(right) > 100
        assert [column for column, _ in splits] == [column for column, _ in right]
        np.testing.assert_allclose([cut for _, cut in splits], [cut for _, cut in right], rtol=1e-5)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_the_prediction_is_that_of_all_prunings_of_numbers() -> None:
    x, y = waves(14, columns=2, seed=3)
    ours, theirs = number_forest(2, trees=1, drift=False), NumberReference(2, 1)
    taught(ours, x, y)
    for row, label in zip(x.astype(float), y, strict=True):
        theirs.learn(row, float(label))
    root = theirs.roots[0]
    assert root is not None
    assert len(reference_splits(root)) >= 5  # type: ignore[arg-type]
    new = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    expected = np.array([brute_number(theirs, root, row) for row in new.astype(float)])
    low, high = y.min() - 0.1 * np.ptp(y), y.max() + 0.1 * np.ptp(y)
    np.testing.assert_allclose(ours.predict(batch_of(new))[:, 0], np.clip(expected, low, high), atol=1e-4)


def test_the_root_has_the_mean_the_variance_and_the_ridge_of_all_rows() -> None:
    x, y = waves(64, columns=2, seed=4)
    model = number_forest(2, trees=1, drift=False, nodes=8)
    taught(model, x, y)
    found, target = model.arrays["beliefs"][0, 0], model.arrays["target"]
    np.testing.assert_allclose(target[layout.ORIGIN] + target[layout.UNIT] * found[layout.MEAN], y.mean(), rtol=1e-9)
    np.testing.assert_allclose(target[layout.UNIT] ** 2 * found[layout.SQUARES], y.var(), rtol=1e-9)
    sums = model.arrays["counts"][0, 0]
    beside = x.astype(float) - x.astype(float).mean(0)
    np.testing.assert_allclose(sums[:2], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(sums[4:6] * target[layout.UNIT], beside.T @ y, rtol=1e-4)
    np.testing.assert_allclose(sums[6:9], (beside.T @ beside)[[0, 1, 1], [0, 0, 1]], rtol=1e-4, atol=1e-5)
    assert sums[9] == 64


def test_a_plane_is_learned_and_no_answer_leaves_the_range_of_targets() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 4)).astype(np.float32)
    y = x @ np.array([3.0, -2.0, 1.0, 0.0]) + 50.0
    model = number_forest(4)
    away = taught(model, x, y)[1000:, 0] - y[1000:]
    assert np.sqrt((away**2).mean()) < 0.1 * y.std()
    far = model.predict(batch_of(np.full((1, 4), 1e6)))[0, 0]
    assert y.min() - 0.1 * np.ptp(y) <= far <= y.max() + 0.1001 * np.ptp(y)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_quantile_is_exceeded_as_often_as_it_says(share: float) -> None:
    random = np.random.default_rng(1)
    x = random.random((8000, 2)).astype(np.float32)
    y = 10.0 * x[:, 0] + (1.0 + x[:, 1]) * random.exponential(size=8000)
    found = taught(number_forest(2, loss="quantile", loss_parameter=share), x, y)[:, 0]
    assert abs((y < found)[2000:].mean() - share) < 0.05


def test_a_constant_splits_nothing() -> None:
    x, _ = waves(500)
    model = number_forest(3)
    found = taught(model, x, np.full(500, 7.25))
    assert (found[1:] == 7.25).all()
    assert (model.arrays["trees"][:, layout.USED_PAIRS] == 1).all()


def test_the_weight_of_a_node_is_halved_before_it_is_inexact() -> None:
    x, y = waves(200)
    model = number_forest(3, trees=1, nodes=8, drift=False)
    taught(model, x, y)
    before = model.predict(batch_of(x))
    model.arrays["counts"][0, :, -1] *= 2.0**16
    model.arrays["counts"][0, :, 6:-1] *= 2.0**16
    model.arrays["beliefs"][0, :, layout.SOLVE] *= 2.0**16
    taught(model, x, y)
    assert model.arrays["counts"][0, :, -1].max() <= 1 << 22
    np.testing.assert_allclose(model.predict(batch_of(x)), before, rtol=0.05)
    check_nodes(model)


def test_errors_are_below_those_of_rivers_forest() -> None:
    forest = pytest.importorskip("river.forest")
    x, y = waves(1500, seed=3)
    peer = forest.AMFRegressor(n_estimators=10, use_aggregation=True, seed=1)
    theirs = np.zeros(len(y))
    for i, row in enumerate(x.tolist()):
        features = dict(enumerate(row))
        theirs[i] = peer.predict_one(features)
        peer.learn_one(features, float(y[i]))
    ours = taught(number_forest(3, trees=10, nodes=20_000, drift=False), x, y)[:, 0]
    errors = [np.sqrt(((found - y)[100:] ** 2).mean()) for found in (ours, theirs)]
    assert errors[0] < 0.9 * errors[1]
