"""The dueling bandit: a batch posterior as its oracle, symmetry, and pairs in a simulation of known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from everlearn import checks
from everlearn.errors import ConfigError, InputError
from everlearn.families.bandit.dueling import build
from everlearn.records import Batch, Floats

TRUTH = np.array([1.5, -1.0, 0.5, 0.0])


def duels(a: Any, b: Any) -> Batch:
    n = len(a)
    dense = np.concatenate([a, b], axis=1).astype(np.float32)
    return Batch(dense, np.zeros(n + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))


def judged(random: Any, a: Any, b: Any) -> Floats:
    """Answers of a judge who follows the truth by Bradley and Terry."""
    return (random.random(len(a)) < 1.0 / (1.0 + np.exp(-(a - b) @ TRUTH))).astype(float)


@pytest.mark.parametrize("dense", [6, 140])
def test_it_passes_every_check(dense: int) -> None:
    failed = [one for one in checks.run(lambda: build({"family": "dueling", "dense": dense})) if not one.ok]
    assert not failed, failed


def test_the_posterior_is_that_of_a_batch_fit() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 4000, 4))
    y = judged(random, a, b)
    model = build({"dense": 8})
    model.learn(duels(a, b), y, np.ones(4000, np.float32))
    scale = np.concatenate([a[:100], b[:100]]).std(axis=0)
    x, w = (a - b) / scale, np.zeros(4)
    for _ in range(20):  # Newton's method on the logarithm of the posterior
        p = 1.0 / (1.0 + np.exp(-x @ w))
        precision = (x * (p * (1 - p))[:, None]).T @ x + np.eye(4)
        w = w + np.linalg.solve(precision, x.T @ (y - p) - w)
    np.testing.assert_allclose(model.arrays["weights"], w, atol=0.15)
    deviations = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(np.sqrt(np.diag(model.arrays["covariance"])), deviations, rtol=0.15)


def test_a_duel_the_other_way_round_has_the_other_probability() -> None:
    random = np.random.default_rng(1)
    a, b = random.normal(size=(2, 300, 4))
    model = build({"dense": 8})
    model.learn(duels(a, b), judged(random, a, b), np.ones(300, np.float32))
    one, other = model.predict(duels(a, b)), model.predict(duels(b, a))
    np.testing.assert_allclose(one[:, 1], other[:, 0], atol=1e-6)
    mirrored = build({"dense": 8})
    random = np.random.default_rng(1)
    a, b = random.normal(size=(2, 300, 4))
    mirrored.learn(duels(b, a), 1.0 - judged(random, a, b), np.ones(300, np.float32))
    np.testing.assert_allclose(mirrored.arrays["weights"], model.arrays["weights"], atol=1e-9)


def played(thompson: bool, rounds: int = 400) -> tuple[Any, float]:
    """Duels among 20 candidates; return the model and the mean regret of both sides over the last half."""
    random = np.random.default_rng(3)
    things = random.normal(size=(20, 4))
    worth, regret = things @ TRUTH, []
    model = build({"dense": 8, "seed": 1})
    for _ in range(rounds):
        pair = model.choose(things) if thompson else tuple(random.choice(20, 2, replace=False))
        assert pair[0] != pair[1]
        a, b = things[[pair[0]]], things[[pair[1]]]
        model.learn(duels(a, b), judged(random, a, b), np.ones(1, np.float32))
        regret.append(worth.max() - worth[list(pair)].mean())
    return model, float(np.mean(regret[rounds // 2 :]))


def test_chosen_pairs_come_close_to_the_best_row() -> None:
    model, regret = played(True)
    assert regret < 0.2 * played(False)[1]
    random = np.random.default_rng(9)
    a, b = random.normal(size=(2, 2000, 4))
    right = (model.predict(duels(a, b))[:, 1] > 0.5) == ((a - b) @ TRUTH > 0)
    assert right.mean() > 0.85


def test_pairs_are_a_function_of_seed_state_and_key() -> None:
    things = np.random.default_rng(0).normal(size=(50, 4))
    model, same, other = build({"dense": 8}), build({"dense": 8}), build({"dense": 8, "seed": 5})
    pairs = [model.choose(things, key) for key in range(10)]
    assert pairs == [same.choose(things, key) for key in range(10)]
    assert len(set(pairs)) > 5
    assert pairs != [other.choose(things, key) for key in range(10)]
    assert model.choose(things[:2] * 0.0) == (0, 1)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="an even number of dense columns"):
        build({"dense": 5})
    with pytest.raises(InputError, match="expected at least 2 rows of 2 features"):
        build({"dense": 4}).choose(np.zeros((1, 2)))
