"""The row loops: equal bits, standardisation, missing values, and bounds on the effect of one row."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from everlearn.families.linear import build
from everlearn.records import Batch
from tests.support.linear_rows import (
    BINARY,
    OPTIMIZERS,
    REGRESSION,
    dense_batch,
    example_rows,
    learn,
)

Array = NDArray[Any]


def test_standardising_is_rivers() -> None:
    """Uniform columns stay within the four deviations at which ours are cut."""
    from river import linear_model, optim, preprocessing

    x, y = example_rows(500)
    x = x * np.array([1.0, 1e4, 1e-3], np.float32) + np.array([5.0, -1e5, 0.0], np.float32)
    ours = build({**BINARY, "dense": 3, "optimizer": "sgd"})
    said = learn(ours, x, y)[:, 1]
    scaler = preprocessing.StandardScaler()
    peer = linear_model.LogisticRegression(optimizer=optim.SGD(0.05), intercept_lr=0.05)
    for row, label, mine in zip(x, y, said, strict=True):
        features = {str(j): float(v) for j, v in enumerate(row)}
        scaler.learn_one(features)
        features = scaler.transform_one(features)
        assert mine == pytest.approx(peer.predict_proba_one(features)[True], abs=1e-5)
        peer.learn_one(features, bool(label))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("columns", [1, 7, 8, 54, 100])
def test_learning_says_what_predicting_says_to_the_bit(optimizer: str, columns: int) -> None:
    x, y = example_rows(60, columns)
    model = build({**BINARY, "dense": columns, "optimizer": optimizer})
    for row, label in zip(x, y, strict=True):
        said = model.predict(dense_batch(row[None]))
        assert (learn(model, row[None], [label]) == said).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_missing_value_says_and_changes_nothing(optimizer: str) -> None:
    x, y = example_rows()
    model = build({**BINARY, "dense": 3, "optimizer": optimizer})
    learn(model, x, y)
    before = {name: array.copy() for name, array in model.arrays.items()}
    mean = before["moments"][1, 1]
    gap, middle = x[:1].copy(), x[:1].copy()
    gap[0, 1], middle[0, 1] = np.nan, mean
    np.testing.assert_allclose(model.predict(dense_batch(gap)), model.predict(dense_batch(middle)), atol=1e-6)
    learn(model, gap, y[:1])
    slots = slice(0, 1 if optimizer == "blend" else None)  # the settled column is a mean over all rows, and goes on
    assert (model.arrays["weights"][slots, :, 1] == before["weights"][slots, :, 1]).all()
    assert (model.arrays["moments"][:, 1] == before["moments"][:, 1]).all()
    assert (model.arrays["weights"][0, 0, 0] != before["weights"][0, 0, 0]).all()


wild = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, -1.0, 3e38, -3e38, 1e-45]))


@given(st.lists(st.tuples(wild, wild, wild, st.floats(), wild), min_size=1, max_size=12))
@settings(deadline=None, max_examples=60)
def test_nothing_but_finite_numbers_is_kept_or_said(rows: list[tuple[float, ...]]) -> None:
    values = np.array([row[:3] + row[4:] for row in rows], np.float64).astype(np.float32)
    n = len(rows)
    entries = np.arange(0, 2 * n + 1, 2), np.tile(np.array([0, 3], np.int32), n), values[:, 1:3].ravel().copy()
    for task, optimizer, plain in itertools.product(("regression", "binary"), OPTIMIZERS, (True, False)):
        model = build({"task": task, "dense": 2, "hashed": 4, "optimizer": optimizer, "standardize": plain})
        y = np.array([row[3] for row in rows])
        y = y if task == "regression" else (np.nan_to_num(y) > 0).astype(float)
        batch = Batch(values[:, :2].copy(), *entries)
        for _ in range(3):
            assert np.isfinite(model.learn(batch, y, np.abs(values[:, 3]))).all()
        assert np.isfinite(model.predict(batch)).all()
        assert all(np.isfinite(array).all() for array in model.arrays.values())


def test_the_default_regression_does_not_care_about_the_targets_units() -> None:
    x, _ = example_rows(500)
    y = x @ np.array([1.0, -2.0, 0.5])
    spec = {**REGRESSION, "dense": 3}
    plain, other = learn(build(spec), x, y), learn(build(spec), x, 1000 * y + 5)
    np.testing.assert_allclose(other[1:], 1000 * plain[1:] + 5, rtol=1e-4, atol=0.05)
    assert np.abs(plain[250:, 0] - y[250:]).mean() < 0.1


def taught(task: str, loss: str, optimizer: str, clip: float, harm: str) -> tuple[float, float, float]:
    """Mean absolute error, or share of wrong answers: before one absurd row, after it, and 2,000 rows later."""
    random = np.random.default_rng(0)
    x = random.normal(size=(6000, 3)).astype(np.float32)
    score = x @ np.array([2.0, -1.0, 0.5])
    y = {"binary": score > 0, "multiclass": np.digitize(score, [-1, 1]), "regression": 10 * score + 3}[task].astype(
        float
    )
    classes = {"binary": 2, "multiclass": 3, "regression": 0}[task]
    spec = {
        "task": task,
        "dense": 3,
        "classes": classes,
        "loss": loss,
        "optimizer": optimizer,
        "clip": clip,
        "layout": 1,
    }
    model = build(spec)

    def error() -> float:
        said = model.predict(dense_batch(x[:1000]))
        wrong = np.abs(said[:, 0] - y[:1000]) if task == "regression" else said.argmax(1) != y[:1000]
        return float(wrong.mean())

    learn(model, x[:4000], y[:4000])
    before = error()
    bad, label = x[:1].copy(), y[:1] if task == "regression" else (y[:1] + 1) % classes
    if harm == "feature":
        bad[0, 0] = 3e38
    elif harm == "label":
        label = np.array([1e308])
    learn(model, bad, label, np.array([1e30]) if harm == "weight" else None)
    after = error()
    learn(model, x[4000:], y[4000:])
    assert np.isfinite(model.arrays["weights"]).all()
    return before, after, error()


KINDS = [("binary", "auto"), ("multiclass", "auto")]


KINDS += [("regression", loss) for loss in ("squared", "absolute", "quantile", "huber")]


HARMS = [(task, loss, harm) for task, loss in KINDS for harm in ("feature", "weight", "label")]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("task", "loss", "harm"), [one for one in HARMS if one[2] != "label" or one[0] == "regression"]
)
def test_one_absurd_row_does_not_end_all_learning(task: str, loss: str, harm: str, optimizer: str) -> None:
    before, after, later = taught(task, loss, optimizer, 100.0, harm)
    chance = {"binary": 0.5, "multiclass": 0.7, "regression": 200.0}[task]  # labels deviate by 23
    assert after < chance
    room = {"binary": 0.03, "multiclass": 0.05, "regression": 3.0}[task]
    assert later < before + room


@pytest.mark.parametrize(("task", "harm"), [("binary", "feature"), ("regression", "feature"), ("regression", "label")])
def test_without_the_clip_it_does(task: str, harm: str) -> None:
    before, _, later = taught(task, "auto", "auto", 0.0, harm)
    assert later > before + 0.2


@given(st.integers(0, 50))
@settings(deadline=None, max_examples=20)
def test_rows_within_the_clip_are_learned_as_without_it(seed: int) -> None:
    x, y = example_rows(300, seed=seed)
    bounded, free = (build({**BINARY, "dense": 3, "clip": clip, "layout": 1}) for clip in (100.0, 0.0))
    assert learn(bounded, x, y).tobytes() == learn(free, x, y).tobytes()
    assert all(bounded.arrays[name].tobytes() == free.arrays[name].tobytes() for name in free.arrays)
