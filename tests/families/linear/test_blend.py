"""The blend of a quick and a settled column against plain NumPy, and against each part alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from everlearn import metrics
from everlearn.families.linear import build
from everlearn.families.linear.blend import (
    HORIZON,
    LARGEST_SCALE,
    LEAST_SCALE,
    PRIOR,
    RECENT,
    SCALE,
    SHARE,
    SHARE_CURVATURE,
)
from everlearn.families.linear.quick import HASHED_RATE
from everlearn.records import Batch, Floats
from tests.support.linear_rows import BINARY, REGRESSION, Array, dense_batch, learn

SOFTMAX = {"task": "multiclass", "classes": 3}
RATE = 0.05


def probabilities(task: str, m: Floats) -> Floats:
    if task == "multiclass":
        return np.asarray(np.exp(m - m.max()) / np.exp(m - m.max()).sum())
    return 1 / (1 + np.exp(-m)) if task == "binary" else m


def standardized(x: Floats) -> Floats:
    """Standardise each row by the rows up to it, and cut at four deviations; the last column is 1."""
    z = np.ones((len(x), x.shape[1] + 1))
    for i in range(len(x)):
        spread = x[: i + 1].std(axis=0)
        z[i, :-1] = np.where(spread > 0, (x[i] - x[: i + 1].mean(axis=0)) / np.where(spread > 0, spread, 1.0), 0.0)
    return np.clip(z, -4.0, 4.0)


def newton(task: str, p: Floats, t: Floats, along: Floats) -> tuple[float, float]:
    """Return slope and curvature of the loss as scores move along a direction."""
    if task == "multiclass":
        return float((p - t) @ along), float(p @ along**2 - (p @ along) ** 2)
    return float((p - t)[0] * along[0]), float(along[0] ** 2 * (p[0] * (1 - p[0]) if task == "binary" else 1.0))


def base(task: str, counts: Floats) -> Floats:
    if task == "binary":
        return np.log(counts[1:]) - np.log(counts[:1])
    return np.log(counts) if task == "multiclass" else np.zeros(1)


def oracle(task: str, x: Floats, hashed: Array, y: Floats, weight: Floats, scores: int) -> tuple[Floats, Floats]:
    """Learn rows by the formulas in the notes of the module, an entry as one more column with rates of its own.

    `x` (n, columns) is standardised, `hashed` (n, entries) are distinct indices. Return the scores, and at last the
    share and the scale.
    """
    size = int(hashed.max(initial=-1)) + 1
    columns = x.shape[1]
    quick, settled = (np.zeros((scores, columns + size)) for _ in range(2))
    squares = np.zeros((scores, size))
    mixture, curvature, found = np.array([0.5, 1.0]), np.zeros(2), np.zeros((len(x), scores))
    counts = np.ones(3 if task == "multiclass" else 2)
    for i in range(len(x)):
        row = np.concatenate([x[i], np.zeros(size)])
        row[columns + hashed[i]] = 1.0
        (share, scale), b, parts = mixture, base(task, counts), (quick @ row, settled @ row)
        out = share * parts[0] + (1 - share) * parts[1] - b
        found[i] = m = b + scale * out
        t = np.eye(scores)[int(y[i])] if task == "multiclass" else y[i : i + 1]
        moves = [newton(task, probabilities(task, m), t, way) for way in (scale * (parts[0] - parts[1]), out)]
        curvature = (1 - 1 / HORIZON) * curvature + weight[i] * np.array([h for _, h in moves])
        mixture = mixture - weight[i] * np.array([g for g, _ in moves]) / (PRIOR + curvature)
        mixture = np.clip(mixture, [0.0, LEAST_SCALE], [1.0, LARGEST_SCALE])
        for k in range(scores):
            rates = RATE * np.concatenate([np.ones(columns), HASHED_RATE * (1 + squares[k]) ** -0.25])
            slope = weight[i] * (probabilities(task, parts[0]) - t)[k]
            bend = 1.0 if task == "regression" else 0.25
            quick[k] -= rates * row * slope / (1 + weight[i] * bend * (rates @ row**2))
            squares[k, hashed[i]] += slope**2
            mix = np.zeros(columns + size)
            mix[:columns] = (1 + RECENT) / (i + 1 + RECENT)
            mix[columns + hashed[i]] = 1 / (1 + squares[k, hashed[i]])
            settled[k] += mix * (quick[k] - settled[k])
        if task != "regression":
            counts[int(y[i])] += weight[i]
    return found, mixture


def batch_of(x: Array, hashed: Array) -> Batch:
    n, entries = hashed.shape
    flat = np.ascontiguousarray(hashed.ravel(), np.int32)
    return Batch(x.astype(np.float32), np.arange(n + 1) * entries, flat, np.ones(n * entries, np.float32))


@pytest.mark.parametrize("entries", [0, 3])
@pytest.mark.parametrize("spec", [BINARY, SOFTMAX, REGRESSION], ids=lambda spec: spec["task"])
def test_every_row_is_that_of_plain_numpy(spec: dict[str, Any], entries: int) -> None:
    draw, task = np.random.default_rng(4), spec["task"]
    x = draw.normal([0.0, 3.0, -1.0], [1.0, 5.0, 0.1], (400, 3)).astype(np.float32).astype(np.float64)
    hashed = np.argsort(draw.random((400, 20)), axis=1)[:, :entries].astype(np.int64)
    signal = x[:, 0] - 0.2 * (x[:, 1] - 3) + (hashed % 2).sum(axis=1) + draw.normal(0, 1, 400)
    y = {"binary": signal > 1, "multiclass": np.digitize(signal, [0, 2]), "regression": signal}[task].astype(float)
    weight = draw.choice([0.5, 1.0, 2.0], 400)
    model = build({**spec, "dense": 3, "hashed": 20 if entries else 0})
    if task == "regression":  # the scale of the numbers to predict moves; the oracle has a fixed one
        model.arrays["moments"][:3, -1] = [1e12, 0.0, 1e12]
    got = model.learn(batch_of(x, hashed), y, weight.astype(np.float32))
    scores = 3 if task == "multiclass" else 1
    wanted, mixture = oracle(task, standardized(x), hashed, y, weight, scores)
    p = np.array([probabilities(task, m) for m in wanted])
    # Series stand for logarithms of counts, right to 1e-4, and for the share of a hashed rate, right to a thousandth
    np.testing.assert_allclose(got[:, 1:] if task == "binary" else got, p, atol=5e-3 if entries else 2e-4)
    found = model.arrays["blend"][[SHARE, SCALE]]
    np.testing.assert_allclose(found, mixture, atol=1e-2 if entries else 1e-4)
    assert not np.allclose(found, [0.5, 1.0], atol=0.02)


def noisy(n: int, seed: int) -> tuple[Array, Array]:
    """Return 30 columns of which two matter a little, from a stationary source."""
    draw = np.random.default_rng(seed)
    x = draw.normal(0, 1, (n, 30))
    return x, (draw.random(n) < 1 / (1 + np.exp(-0.3 * x[:, 0] + 0.2 * x[:, 1]))).astype(float)


def turning(n: int, seed: int) -> tuple[Array, Array]:
    """Return 5 columns whose meaning is reversed every 500 rows."""
    draw = np.random.default_rng(seed)
    x, sign = draw.normal(0, 1, (n, 5)), 1 - 2 * (np.arange(n) // 500 % 2)
    return x, (sign * x.sum(axis=1) + draw.normal(0, 1, n) > 0).astype(float)


def loss_of(optimizer: str, x: Array, y: Array) -> tuple[float, float]:
    """Return the mean log loss over all rows, and the last share of the quick column (NaN without one)."""
    model = build({**BINARY, "dense": x.shape[1], "optimizer": optimizer})
    scores = learn(model, x, y)
    return float(metrics.losses("log_loss", scores, y).mean()), float(model.arrays.get("blend", [np.nan])[SHARE])


@pytest.mark.parametrize(("stream", "better"), [(noisy, "adagrad"), (turning, "quick")])
@pytest.mark.parametrize("seed", range(3))
def test_the_blend_is_as_good_as_the_better_part(stream: Any, better: str, seed: int) -> None:
    x, y = stream(6000, seed)
    alone = {name: loss_of(name, x, y)[0] for name in ("quick", "adagrad")}
    loss, share = loss_of("blend", x, y)
    assert min(alone, key=alone.__getitem__) == better
    assert max(alone.values()) > min(alone.values()) + 0.02  # so that it matters which part leads
    assert loss < min(alone.values()) + 0.005
    assert share > 0.6 if better == "quick" else share < 0.4


def test_the_default_beats_the_base_rate_where_there_is_little_to_know() -> None:
    x, y = noisy(6000, 5)
    base = float(-np.mean(y) * np.log(np.mean(y)) - (1 - np.mean(y)) * np.log(1 - np.mean(y)))
    assert loss_of("auto", x, y)[0] < base < loss_of("quick", x, y)[0]


def test_the_share_forgets() -> None:
    """After noise the share is with the settled column; when the rows begin to turn, it moves to the quick one."""
    x, y = noisy(6000, 0)
    model = build({**BINARY, "dense": 30})
    learn(model, x, y)
    assert model.arrays["blend"][SHARE] < 0.3
    later, labels = turning(6000, 0)
    learn(model, np.concatenate([later, np.zeros((6000, 25))], axis=1), labels)
    assert model.arrays["blend"][SHARE] > 0.6


def test_a_row_that_is_not_learned_moves_nothing() -> None:
    model, (x, y) = build({**BINARY, "dense": 30}), noisy(50, 0)
    learn(model, x, y)
    before = {name: array.tobytes() for name, array in model.arrays.items()}
    learn(model, x, y, np.zeros(50))
    model.predict(dense_batch(x))
    assert {name: array.tobytes() for name, array in model.arrays.items()} == before
    assert model.arrays["blend"][SHARE_CURVATURE] > 0.0


def test_the_parts_are_the_columns() -> None:
    """The quick column is the model that `quick` learns alone, to the byte."""
    both, quick = (build({**BINARY, "dense": 2, "hashed": 20, "optimizer": name}) for name in ("blend", "quick"))
    draw = np.random.default_rng(0)
    x, hashed = draw.normal(size=(500, 2)), draw.integers(0, 20, (500, 3))
    y = (x[:, 0] + (hashed[:, 0] % 2) > 0.5).astype(float)
    for model in (both, quick):
        model.learn(batch_of(x, hashed), y, np.ones(500, np.float32))
    np.testing.assert_allclose(both.arrays["weights"][0], quick.arrays["weights"][0], rtol=1e-9)
    np.testing.assert_allclose(both.arrays["hashed"][:, :, :2], quick.arrays["hashed"], rtol=1e-4)
    assert "blend" not in quick.arrays
    assert quick.arrays["weights"].shape == (1, 1, 3)


def wide(kind: str, seed: int) -> tuple[Array, Array]:
    """Return 10,000 rows of any scale whose best possible log loss is .49: five informative columns, and others."""
    draw = np.random.default_rng([seed, 7])
    known = draw.normal(size=(10_000, 5))
    y = (draw.random(10_000) < 1 / (1 + np.exp(-known @ [1, -1, 1, -1, 1] * 1.777 / math.sqrt(5)))).astype(float)
    parts = [known]
    if kind in ("copies", "both"):
        parts = [np.repeat(known, 50, axis=1) + 0.1 * draw.normal(size=(10_000, 250))]
    if kind in ("noise", "both"):
        parts.append(draw.normal(size=(10_000, 200)))
    if kind == "factors":
        hidden = draw.normal(size=(10_000, 10)) @ draw.normal(size=(10, 200)) / math.sqrt(10)
        parts.append(hidden + 0.3 * draw.normal(size=(10_000, 200)))
    x = np.concatenate(parts, axis=1)
    return x * np.exp(draw.normal(size=x.shape[1])) + 3 * draw.normal(size=x.shape[1]), y


@pytest.mark.parametrize("kind", ["noise", "copies", "both", "factors"])
def test_wide_tables_cost_little(kind: str) -> None:
    x, y = wide(kind, 0)
    found = metrics.losses("log_loss", learn(build({**BINARY, "dense": x.shape[1]}), x, y), y)
    assert found.mean() <= 0.55
