"""Passive-aggressive models against the updates of the paper in numpy, River's classifier, and a line with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from river import linear_model

from everlearn.model import build
from everlearn.records import Batch

ENTRIES, SPACE = 4, 12


def hashed_rows(n: int) -> tuple[Batch, Any]:
    """Rows of four distinct hashed entries each, and the same as a dense matrix with a column of ones."""
    random = np.random.default_rng(5)
    places = np.argsort(random.random((n, SPACE)), axis=1)[:, :ENTRIES]
    values = random.choice([1.0, 0.5, -2.0], (n, ENTRIES))
    x = np.zeros((n, SPACE + 1))
    x[np.arange(n)[:, None], places] = values
    x[:, -1] = 1.0
    indptr = np.arange(0, n * ENTRIES + 1, ENTRIES)
    return Batch(np.zeros((n, 0), "f4"), indptr, places.ravel().astype(np.int32), values.ravel().astype(np.float32)), x


def step(variant: str, c: float, loss: float, length: float) -> float:
    return {"PA": loss / length, "PA-I": min(c, loss / length), "PA-II": loss / (length + 0.5 / c)}[variant]


def of(variant: str, task: str, classes: int = 0) -> Any:
    spec = {"family": "passive_aggressive", "task": task, "classes": classes, "dense": 0, "hashed": SPACE}
    return build({**spec, "variant": variant, "aggressiveness": 0.05})


def weights(model: Any) -> Any:
    """Return the weights of the one model, with the intercept last, (margins, inputs)."""
    return np.concatenate([model.arrays["hashed"][0].T, model.arrays["weights"][0]], axis=1)


@pytest.mark.parametrize("variant", ["PA", "PA-I", "PA-II"])
def test_two_classes_move_as_in_the_paper(variant: str) -> None:
    rows, x = hashed_rows(300)
    y = (x @ np.arange(SPACE + 1) + np.random.default_rng(6).normal(0, 9, 300) > 5).astype(int)
    w, weight = np.zeros(SPACE + 1), np.where(np.arange(300) % 3, 1.0, 0.5).astype(np.float32)
    for row, sign, share in zip(x, 2 * y - 1, weight, strict=True):
        loss = max(0.0, 1.0 - sign * (w @ row))
        factor = share if variant == "PA" else 1.0  # a weight multiplies C, and where there is none the step
        w += sign * row * factor * step(variant, 0.05 * share, loss, row @ row) if loss else 0.0
    model = of(variant, "binary", 2)
    model.learn(rows, y.astype(float), weight)
    assert weights(model)[0] == pytest.approx(w, abs=1e-5)
    assert (model.predict(rows).argmax(axis=1) == (x @ w > 0)).all()


@pytest.mark.parametrize("variant", ["PA", "PA-I", "PA-II"])
def test_the_right_class_and_the_highest_wrong_one_move_apart(variant: str) -> None:
    rows, x = hashed_rows(300)
    y = np.argmax(x @ np.random.default_rng(7).normal(size=(SPACE + 1, 3)), axis=1)
    w = np.zeros((3, SPACE + 1))
    for row, k in zip(x, y, strict=True):
        margins = w @ row
        other = int(np.argmax(np.where(np.arange(3) == k, -np.inf, margins)))
        loss = max(0.0, 1.0 - margins[k] + margins[other])
        move = step(variant, 0.05, loss, 2.0 * row @ row) * row if loss else 0.0
        w[k] += move
        w[other] -= move
    model = of(variant, "multiclass", 3)
    model.learn(rows, y.astype(float), np.ones(300, np.float32))
    assert weights(model) == pytest.approx(w, abs=1e-5)


def test_it_decides_as_river_does() -> None:
    """River has no standardisation and no temper, and its intercept moves by another rule, so that there is none."""
    rows, x = hashed_rows(400)
    y = (x[:, :-1] @ np.linspace(-1, 1, SPACE) > 0).astype(int)
    peer, agreed = linear_model.PAClassifier(C=0.05, mode=2, learn_intercept=True), 0
    found = of("PA-II", "binary", 2).learn(rows, y.astype(float), np.ones(400, np.float32)).argmax(axis=1)
    for row, label, ours in zip(x.tolist(), y.tolist(), found.tolist(), strict=True):
        features = {j: v for j, v in enumerate(row[:-1]) if v}
        agreed += peer.predict_one(features) == bool(ours)
        peer.learn_one(features, bool(label))
    assert agreed > 370


def test_numbers_within_epsilon_are_left_alone() -> None:
    rows, x = hashed_rows(4000)
    truth = 100.0 + 20.0 * x[:, 0] - 5.0 * x[:, 1]
    y = truth + np.random.default_rng(8).normal(0, 1, 4000)
    model = build({"family": "passive_aggressive", "task": "regression", "dense": 0, "hashed": SPACE})
    found = model.learn(rows, y, np.ones(4000, np.float32))[:, 0]
    assert np.abs(found - truth)[2000:].mean() < 1.5
    assert np.abs(found - y)[2000:].mean() < 0.2 * np.abs(y - y.mean()).mean()
    lenient = build({**model.spec, "epsilon": 50.0})
    lenient.learn(rows, y, np.ones(4000, np.float32))
    assert not lenient.arrays["hashed"].any()


def test_probabilities_are_near_the_truth() -> None:
    random = np.random.default_rng(9)
    x = random.normal(size=(20_000, 2))
    chance = 1.0 / (1.0 + np.exp(-1.5 * x[:, 0]))
    y = (random.random(20_000) < chance).astype(float)
    rows = Batch(x.astype("f4"), np.zeros(20_001, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))
    model = build({"family": "passive_aggressive", "task": "binary", "dense": 2})
    found = model.learn(rows, y, np.ones(20_000, np.float32))[5000:, 1]
    loss = -np.log(np.where(y[5000:] == 1, found, 1 - found)).mean()
    best = -np.log(np.where(y == 1, chance, 1 - chance))[5000:].mean()
    assert best < loss < best + 0.02
    assert np.abs(found - chance[5000:]).mean() < 0.07


def test_the_model_that_was_right_of_late_answers() -> None:
    """Of a calm and a hasty model the calm one answers under noise, and the hasty one where the truth jumps."""
    random = np.random.default_rng(10)
    x = random.normal(size=(4000, 8))
    rows = Batch(x.astype("f4"), np.zeros(4001, np.int64), np.zeros(0, np.int32), np.zeros(0, "f4"))
    weight = np.ones(4000, np.float32)
    noisy = (x[:, 0] + random.normal(0, 1.5, 4000) > 0).astype(float)
    jumping = (x[:, 0] * np.where(np.arange(4000) // 100 % 2, 1, -1) > 0).astype(float)
    for y in (noisy, jumping):
        right = {}
        for c in (1e-3, 10.0, (1e-3, 10.0)):
            spec = {"family": "passive_aggressive", "task": "binary", "dense": 8, "aggressiveness": c}
            right[c] = float((build(spec).learn(rows, y, weight).argmax(axis=1) == y).mean())
        best, worst = max(right[1e-3], right[10.0]), min(right[1e-3], right[10.0])
        assert best > worst + 0.05
        assert right[(1e-3, 10.0)] > best - 0.015
