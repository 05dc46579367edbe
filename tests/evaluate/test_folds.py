"""K-fold distributed evaluation: each row trains and tests the right models, and nothing depends on the chunks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import everlearn as el
from everlearn.errors import ConfigError
from everlearn.evaluate import folds as module
from everlearn.evaluate.folds import folds
from everlearn.model import build
from everlearn.records import Batch, Examples


def stream(rows: int = 3000) -> el.Stream:
    return el.generate("sea", rows=rows, noise=0.1, drift="sudden", seed=1)


def drawn(mode: str, rows: int = 20_000, k: int = 10) -> np.ndarray:
    shares = np.empty((rows, k), np.float32)
    module._draw(7, 0, module.MODES.index(mode), shares)
    return shares


def test_cross_and_split_are_complements() -> None:
    cross, split = drawn("cross"), drawn("split")
    assert ((cross == 0).sum(axis=1) == 1).all()
    assert (cross + split == 1).all()
    assert stats.chisquare(split.sum(axis=0)).pvalue > 0.001


def test_bootstrap_weights_are_poisson() -> None:
    shares = drawn("bootstrap", 50_000)
    counts = np.bincount(shares.astype(int).ravel(), minlength=6)[:6]
    expected = stats.poisson.pmf(np.arange(6), 1) * shares.size
    assert counts == pytest.approx(expected, rel=0.1, abs=50)
    assert np.abs(np.corrcoef(shares.T) - np.eye(10)).max() < 0.03


@pytest.mark.parametrize("mode", module.MODES)
@pytest.mark.parametrize("delay", [0, 30])
@pytest.mark.parametrize("family", ["linear", "tree"])
def test_each_model_is_one_that_learned_its_rows_alone(mode: str, delay: int, family: str) -> None:
    """By brute force: a model predicts a row after the rows of its fold whose labels have come, one at a time."""
    rows = stream(400)
    (chunk,) = rows.chunks()
    shares = np.empty((400, 3), np.float32)
    module._draw(module._SEED, 0, module.MODES.index(mode), shares)
    found = folds({"family": family}, rows, 3, mode, delay, 170)
    x, y, one = chunk.examples.batch.dense, chunk.examples.y, np.ones(1, np.float32)
    for fold in range(3):
        model, right = build({"family": family}, el.schema.shape(rows.schema)), []
        for t in range(400):
            late = t - delay - 1
            if late >= 0 and shares[late, fold] > 0:
                model.learn(_row(x[late]), y[late : late + 1], one * shares[late, fold])
            if shares[t, fold] == 0:
                right.append(model.predict(_row(x[t])).argmax() == y[t])
        assert found.folds[fold]["examples"] == len(right)
        assert found.folds[fold]["accuracy"] == pytest.approx(np.mean(right))


def test_the_result_does_not_depend_on_the_chunks() -> None:
    one, other = (folds({"family": "linear"}, stream(), 4, chunk=chunk) for chunk in (3000, 11))
    assert one.folds == other.folds
    assert one.folds != folds({"family": "linear"}, stream(), 4, seed=1).folds


def test_split_models_learn_less_than_cross_models() -> None:
    spec, rows = {"family": "tree"}, stream(20_000)
    cross, split = folds(spec, rows, 10, "cross"), folds(spec, rows, 10, "split")
    assert cross.metrics["accuracy"] > split.metrics["accuracy"]
    low, high = split.interval()
    values = np.array([fold["accuracy"] for fold in split.folds])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-6)


@pytest.mark.slow
def test_the_spread_of_models_covers_the_truth_of_a_model_without_features() -> None:
    """Folds test different rows, and the models hardly differ: the interval holds in about 95 % of the streams."""
    held = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        y = (random.random(1000) < 0.3).astype(float)
        nothing = np.zeros((1000, 0), np.float32)
        batch = Batch(nothing, np.zeros(1001, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        rows = Examples(batch, y, np.ones(1000, np.float32), np.arange(1, 1001))
        found = folds({"family": "tests.support.models:Mean"}, rows, 10)
        low, high = found.interval("accuracy")
        held += low <= 0.7 <= high
    assert held >= 51


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'split'"):
        folds({"family": "linear"}, stream(), 3, "splt")
    with pytest.raises(ConfigError, match="2 or more"):
        folds({"family": "linear"}, stream(), 1)


def _row(x: np.ndarray) -> Batch:
    return Batch(x[None], np.zeros(2, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
