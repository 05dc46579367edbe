"""Merging linear models, whose weights are relative to the moments of their columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import model
from everlearn.families import linear
from everlearn.families.linear import merging as linear_merging
from everlearn.merge import METHODS, merge
from everlearn.records import Batch, Floats
from tests.support.merging import ends, rows, trained

OPTIMIZERS = ("blend", "quick", "sgd", "adagrad", "adam", "ftrl", "normalized")


def margins(first: linear.Linear, batch: Batch) -> Floats:
    scores = first.predict(batch).astype(np.float64)
    if first.spec["task"] == "binary":
        return np.asarray(np.log(scores[:, 1:]) - np.log(scores[:, :1]))
    if first.spec["task"] == "multiclass":
        logs = np.log(scores)
        return np.asarray(logs - logs.mean(axis=1, keepdims=True))
    return scores


CASES = [
    *({"task": "binary", "optimizer": first} for first in OPTIMIZERS),
    {"task": "multiclass", "classes": 3},
    {"task": "regression"},
    {"task": "regression", "optimizer": "sgd", "rate": 0.01},
    {"task": "binary", "interactions": "dense"},
    {"task": "regression", "interactions": "dense"},
    {"task": "binary", "standardize": False, "optimizer": "adagrad"},
    {"task": "binary", "optimizer": "ftrl", "l1": 0.5, "l2": 0.1},
]


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: "-".join(map(str, spec.values())))
def test_a_merged_linear_model_says_the_mean_of_what_its_parents_say(spec: dict[str, Any]):
    """Though their columns, and their numbers to predict, have other means and deviations."""
    first, second = trained(spec, 1), trained(spec, 2, shift=0.4, stretch=1.3)
    both = linear.build(first.spec)
    model.restore(both, merge("linear", [first.arrays, second.arrays], [0.3, 0.7], spec=first.spec))
    batch, _ = rows(300, 3, shift=0.2, stretch=0.4)
    wanted = 0.3 * margins(first, batch) + 0.7 * margins(second, batch)
    spread = wanted.std()
    np.testing.assert_allclose(margins(both, batch), wanted, atol=0.02 * spread + 1e-4)
    naive = linear.build(first.spec)
    model.restore(naive, merge("linear", [first.arrays, second.arrays], [0.3, 0.7]))
    if spec.get("standardize", True):
        assert np.abs(margins(naive, batch) - wanted).max() > 2 * np.abs(margins(both, batch) - wanted).max()


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: "-".join(map(str, spec.values())))
@pytest.mark.parametrize("method", METHODS)
def test_a_linear_model_merged_with_itself_is_itself(spec: dict[str, Any], method: str):
    if method == "fisher" and spec.get("optimizer") == "sgd":
        return  # which keeps none
    first, before = trained(spec, 1, 500), trained(spec, 1, 100)
    options = {"ancestor": before.arrays, **ends(method)} if METHODS[method].ancestor else {}
    again = merge(method, [first.arrays, first.arrays], spec=first.spec, **options)
    for name, array in first.arrays.items():
        np.testing.assert_allclose(again[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_was_merged_learns_on_from_there(optimizer: str):
    """One more row moves it a little, and does not throw it back to what a parent had been."""
    spec = {"task": "binary", "optimizer": optimizer}
    first, second = trained(spec, 1), trained({**spec}, 2, 40, shift=0.4)
    both = linear.build(first.spec)
    model.restore(both, merge("linear", [first.arrays, second.arrays], spec=first.spec))
    batch, y = rows(200, 4)
    before = margins(both, batch)
    both.learn(
        *((Batch(batch.dense[:1], batch.indptr[:2], batch.indices, batch.values)), (y[:1] > 0.5).astype(float)),
        np.ones(1, np.float32),
    )
    assert np.abs(margins(both, batch) - before).mean() < 0.2 * np.abs(before).mean()


def test_a_constant_or_empty_column_is_no_trouble():
    first, second = (linear.build({"task": "binary", "dense": 2}) for _ in range(2))
    batch, y = rows(200, 1)
    for number, each in enumerate((first, second)):
        dense = np.stack([batch.dense[:, 0], np.full(200, 3.0 if number else np.nan)], axis=1).astype(np.float32)
        plain = Batch(dense, np.zeros(201, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        each.learn(plain, (y > 0.5).astype(float), np.ones(200, np.float32))
    found = merge("linear", [first.arrays, second.arrays], spec=first.spec)
    assert all(np.isfinite(array).all() for array in found.values())


def test_the_fisher_information_of_a_linear_model_is_its_sum_of_squared_gradients():
    first = linear.build({"task": "binary", "dense": 1, "hashed": 4, "optimizer": "adagrad", "standardize": False})
    dense, indices = np.array([[2.0], [1.0]], np.float32), np.array([1, 2], np.int32)
    batch = Batch(dense, np.array([0, 1, 2]), indices, np.ones(2, np.float32))
    scores = first.learn(batch, np.array([1.0, 0.0]), np.ones(2, np.float32))
    slopes = scores[:, 1] - [1.0, 0.0]
    found = linear_merging.fisher(first.spec, first.arrays)
    assert found is not None
    np.testing.assert_allclose(found["weights"][0], [np.sum((slopes * [2.0, 1.0]) ** 2), np.sum(slopes**2)], rtol=1e-6)
    np.testing.assert_allclose(found["hashed"][:, 0], [0.0, slopes[0] ** 2, slopes[1] ** 2, 0.0], rtol=1e-5)
    assert (
        linear_merging.fisher(
            linear.build({"task": "binary", "dense": 1, "optimizer": "sgd"}).spec,
            {"weights": np.zeros((1, 1, 2)), "hashed": np.zeros((0, 1, 1), np.float32)},
        )
        is None
    )


def test_by_fisher_a_model_keeps_what_only_one_parent_has_seen():
    """Two models of other hashed entries: their mean halves every weight, by Fisher each keeps its own."""
    spec = {"task": "binary", "dense": 0, "hashed": 64}
    draw, parents = np.random.default_rng(0), []
    for half in (0, 32):
        first = linear.build(spec)
        indices = (half + draw.integers(0, 32, 3000)).astype(np.int32)
        batch = Batch(np.zeros((3000, 0), np.float32), np.arange(3001), indices, np.ones(3000, np.float32))
        first.learn(batch, (indices % 2).astype(float), np.ones(3000, np.float32))
        parents.append(first.arrays)
    indices = np.arange(64, dtype=np.int32)
    batch = Batch(np.zeros((64, 0), np.float32), np.arange(65), indices, np.ones(64, np.float32))
    sure = {}
    for method in ("linear", "fisher"):
        both = linear.build(spec)
        model.restore(both, merge(method, parents, spec=both.spec))
        sure[method] = both.predict(batch)[np.arange(64), indices % 2]
    assert (sure["fisher"] > 0.5).all()
    assert sure["fisher"].mean() > sure["linear"].mean() + 0.05
